"""What do 2,000 regions of an image cost under R-CNN, SPP-net, Fast R-CNN and Faster R-CNN?

All have the same convolutions. R-CNN computes them anew for every region, the others once for the image. Then all have
two fully connected layers for each region. Faster R-CNN also proposes the regions itself. One forward pass of each is
measured: FLOPs as XLA counts them, time as measured, memory as XLA plans it. No data and no weights are needed. It
writes a table (region_cost.md) and a picture. The default takes a minute on two cores.
"""

import dataclasses
from typing import Any, Literal

from cvjax.workflow.config import require


@dataclasses.dataclass(frozen=True)
class Config:
    """The convolutions, the image and its regions."""

    backbone: Literal["alexnet", "vgg16"] = "alexnet"
    """The network whose convolutions all methods use."""
    image_size: int = 600
    """Side of the image, in pixels."""
    regions: int = 2000
    """Regions of the image: those of selective search, filled up with random ones if it finds fewer."""
    own_regions: tuple[int, ...] = (2000, 300)
    """How many regions Faster R-CNN proposes itself, a row for each number; its paper has 300."""
    fc_width: int = 4096
    """Width of the two fully connected layers."""
    measured: int = 50
    """How many of R-CNN's regions go through its network together. Its time is measured on them and multiplied."""
    repeats: int = 2
    """Timed runs, after one that compiles; the fastest is reported."""
    run_dir: str | None = None
    """The folder of the run; by default runs/region_cost/PRESET, with the changed fields in its name."""
    overwrite: bool = False
    """Delete the run that is already in the folder and start anew."""
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
