"""How fast do images reach the device, and what holds them up? Reading, decoding, cropping, the pipeline and the copy.

    python -m experiments.input_speed folder:PATH
    python -m experiments.input_speed packed:DIR --image-size 224 --workers 8 --output speed.json

Crops are timed beside Pillow's way, which is torchvision's: decode in full, crop, resize with antialiasing. CPU time of
one thread there, the clock elsewhere: a machine that does other things at the time shows less than it can.
"""

import dataclasses
from pathlib import Path

import tyro

from cvjax.experiment.config import ConfigError, command, require


@dataclasses.dataclass(frozen=True)
class Config:
    """Which images, and how many."""

    data: tyro.conf.Positional[str]
    """folder:PATH | tar:PATH | packed:DIR"""
    image_size: int = 224
    """Side of the crops."""
    images: int = 200
    """Images that are read, decoded and cropped one by one."""
    repeats: int = 5
    """Rounds of each; the median counts."""
    batch_size: int = 128
    """Images per batch of the pipeline and of the copy."""
    batches: int = 10
    """Batches of the pipeline for each core or worker, after as many of warm-up."""
    workers: int = 0
    """Processes that load; 0 loads in threads of this one."""
    output: Path | None = None
    """A JSON file for the figures."""

    def __post_init__(self) -> None:
        kind, _, path = self.data.partition(":")
        if kind not in ("folder", "tar", "packed") or not path:
            raise ConfigError(f"cannot measure {self.data!r}: it must be folder:PATH, tar:PATH or packed:DIR")
        for name in ("image_size", "images", "repeats", "batch_size", "batches"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.workers >= 0, "workers", self.workers, "0 or more")
        require(self.output is None or self.output.parent.is_dir() and not self.output.is_dir(), "output", self.output,
                "a file in a folder that exists")


def run(config: Config) -> None:
    """Measure, print a table, write the file."""
    import numpy as np
    from tqdm import tqdm

    from cvjax.data import open_dataset
    from cvjax.experiment import input_speed
    from cvjax.experiment.machine import machine
    from cvjax.experiment.run import write_json

    source = open_dataset(config.data).train
    count = min(config.images, len(source))
    here = machine()
    batches = config.batches * max(here["cores"], config.workers)
    steps = 4 + 6 * config.repeats + 2 * batches
    with tqdm(total=steps, desc="measure", leave=False) as bar:
        some = np.random.default_rng(0).permutation(len(source))[:count]
        read = {"in order": input_speed.reading(source, range(count))}
        bar.update()
        read["shuffled"] = input_speed.reading(source, some)
        bar.update()
        images = input_speed.read_images(source, some)
        bar.update()
        core = input_speed.one_core(images, config.image_size, config.repeats, bar.update)
        whole = input_speed.pipeline(source, config.image_size, config.batch_size, batches, config.workers, bar.update)
        copy = input_speed.device_copy(config.image_size, config.batch_size, config.repeats)
        bar.update()
    times = core["milliseconds"]
    print(f"{len(images)} images of {config.data}, {sum(map(len, images)) / len(images) / 1e3:.0f} kB on average; "
          f"{here['cores']} cores, {here['processor']}")
    for order, rates in read.items():
        print(f"{f'read {order}':34}{rates['images_per_second']:10,.0f} images/s{rates['mb_per_second']:10,.0f} MB/s")
    for name, time in times.items():
        print(f"{f'{name}, one core':34}{1e3 / time:10,.0f} images/s{time:10.3f} ms")
    for name, gap in core["difference"].items():
        ratio = times[f"crop, {name}, Pillow"] / times[f"crop, {name}"]
        print(f"{f'crop, {name}, beside Pillow':34}{ratio:10.2f} times as fast, {gap:.2f} of 255 apart on average")
    loaders = f"{config.workers} workers" if config.workers else "threads"
    print(f"{f'pipeline, {loaders}':34}{whole:10,.0f} images/s")
    if copy["gb_per_second"] is None:
        print(f"{'copy to device':34}{'none':>10}: the device is {copy['device']}")
    else:
        print(f"{'copy to device':34}{copy['images_per_second']:10,.0f} images/s{copy['gb_per_second']:10.2f} GB/s, "
              f"{copy['device']}")
    if config.output:
        write_json(config.output, {
            "data": config.data, "image_size": config.image_size, "images": len(images), "repeats": config.repeats,
            "batch_size": config.batch_size, "workers": config.workers, "read": read, "one_core": core,
            "pipeline": {"images_per_second": whole}, "copy": copy, "machine": here})


if __name__ == "__main__":
    command(run, "input_speed", Config, __doc__)
