"""What 2,000 regions of an image cost under R-CNN, SPP-net, Fast R-CNN and Faster R-CNN, on the same convolutions.

R-CNN computes them anew for every region, the others once for the image; then all have two fully connected layers for
each region, and Faster R-CNN makes the regions itself. One forward pass each: FLOPs as XLA counts them, times as
measured, memory as XLA plans it. It needs neither data nor weights. Writes a table (region_cost.md) and a picture. The
default takes a minute on two cores.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from cvjax.experiment.config import main, require


@dataclasses.dataclass(frozen=True)
class Config:
    """The convolutions, the image and its regions."""

    backbone: Literal["alexnet", "vgg16"] = "alexnet"
    """Whose convolutions all methods have."""
    image_size: int = 600
    """Side of the image, in pixels."""
    regions: int = 2000
    """Regions of the image: those of selective search, and random ones where it finds fewer."""
    own_regions: tuple[int, ...] = (2000, 300)
    """How many Faster R-CNN makes itself, a row for each; 300 is its paper's."""
    fc_width: int = 4096
    """Of the two fully connected layers."""
    measured: int = 50
    """R-CNN's regions that go through its network together and that its time is measured on; it is multiplied."""
    repeats: int = 2
    """Timed runs, after one that compiles; the best counts."""
    run_dir: Path | None = None
    """Where the run is written; by default runs/region_cost/PRESET, with the changed fields in its name."""
    overwrite: bool = False
    """Delete a run that is there already and start anew."""
    dry_run: bool = False
    """Say what would run, and stop."""

    def __post_init__(self) -> None:
        for name in ("fc_width", "repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.image_size >= 64, "image_size", self.image_size, "at least 64")
        require(self.regions >= 1, "regions", self.regions, "at least 1")
        require(1 <= self.measured <= self.regions, "measured", self.measured, f"in [1, --regions {self.regions}]")
        require(not self.own_regions or min(self.own_regions) >= 1, "own_regions", self.own_regions,
                "numbers of at least 1")


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(),
    "cpu_vgg16": dict(backbone="vgg16", measured=10, repeats=1),
    "accelerator": dict(backbone="vgg16", measured=200, repeats=10),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Measure, print a table, draw it."""
    from cvjax.experiment.region_costs import markdown, region_costs, scene_with_regions
    from cvjax.experiment.run import RunFolder
    from cvjax.visualize.region_costs import plot_region_costs

    folder = RunFolder(config, "region_cost", name)
    if folder.finished():
        return
    print(f"region_cost of {config.backbone} for {config.regions:,} regions of {config.image_size}x{config.image_size} "
          "pixels")
    if config.dry_run:
        return
    image, regions, found, seconds = scene_with_regions(config.image_size, config.regions)
    costs = []
    for cost in region_costs(image, regions, config.backbone, own_regions=config.own_regions,
                             fc_width=config.fc_width, measured=config.measured, repeats=config.repeats):
        print(f"  {cost.method} measured", flush=True)
        costs.append(cost)
    table = markdown(costs, seconds)
    print(table, end="")
    (folder.path / "region_cost.md").write_text(table)
    rows = [f"{cost.method}, {cost.regions:,}" for cost in costs]
    plot_region_costs(folder.figures / "region_cost.png", rows, {
        "GFLOPs": [cost.flops / 1e9 for cost in costs],
        f"CPU seconds, less {seconds:.1f} of selective search": [cost.cpu_seconds for cost in costs],
        f"working MiB (R-CNN: {config.measured} at a time)": [cost.work_bytes / 2**20 for cost in costs]},
        title=f"One forward pass with {config.backbone}, image of {config.image_size}x{config.image_size}, "
              "by method and regions")
    kinds = {"gflops": lambda cost: cost.flops / 1e9, "map_gflops": lambda cost: cost.map_flops / 1e9,
             "seconds": lambda cost: cost.seconds, "cpu_seconds": lambda cost: cost.cpu_seconds,
             "work_mib": lambda cost: cost.work_bytes / 2**20}
    metrics = {f"{kind}/{cost.method}/{cost.regions}": value(cost) for kind, value in kinds.items() for cost in costs}
    folder.finish(metrics | {"cpu_seconds/selective search": seconds},
                  {"images": 1, "repeats": config.repeats, "rcnn_measured_regions": config.measured,
                   "regions_of_selective_search": found})


if __name__ == "__main__":
    main(run, "region_cost", Config, PRESETS, __doc__)
