"""Measure each stage of the input, print a table, and write the figures to a file."""

import numpy as np
from tqdm import tqdm

from benchmarks.input_speed.config import Config
from benchmarks.input_speed.stages import device_copy, one_core, pipeline, read_images, reading
from benchmarks.machine_facts import machine
from cvjax.data.sources import open_dataset
from cvjax.workflow.folder import write_json


def run(config: Config) -> None:
    """Measure, print and write; raises DataError if the data cannot be read."""
    source = open_dataset(config.data).train
    count = min(config.images, len(source))
    here = machine()
    batches = config.batches * max(here["cores"], config.workers)
    steps = 4 + 6 * config.repeats + 2 * batches
    with tqdm(total=steps, desc="measure", leave=False) as bar:
        some = np.random.default_rng(0).permutation(len(source))[:count]
        read = {"in order": reading(source, range(count))}
        bar.update()
        read["shuffled"] = reading(source, some)
        bar.update()
        images = read_images(source, some)
        bar.update()
        core = one_core(images, config.image_size, config.repeats, bar.update)
        whole = pipeline(source, config.image_size, config.batch_size, batches, config.workers, bar.update)
        copy = device_copy(config.image_size, config.batch_size, config.repeats)
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
