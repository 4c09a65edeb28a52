"""How fast do images reach the device, and which stage is the slowest?

    python -m benchmarks.input_speed folder:PATH
    python -m benchmarks.input_speed packed:DIR --image-size 224 --workers 8 --output speed.json

It measures reading, decoding, cropping, the pipeline as a whole and the copy to the device, each by itself. Crops are
compared with Pillow's (and so torchvision's) way: decode in full, crop, resize with antialiasing. Decoding and cropping
are measured in CPU time of one thread, the rest in wall-clock time, which other work on the machine makes longer.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.errors import ConfigError
from cvjax.workflow.config import require
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """Which images, and how many."""

    data: Annotated[str, Positional]
    """folder:PATH | tar:PATH | packed:DIR"""
    image_size: int = 224
    """Side of the crops."""
    images: int = 200
    """Images that are read, decoded and cropped one by one."""
    repeats: int = 5
    """Rounds of each; the median is reported."""
    batch_size: int = 128
    """Images per batch of the pipeline and of the copy."""
    batches: int = 10
    """Timed batches of the pipeline for each core or worker. As many come before them as warm-up."""
    workers: int = 0
    """Processes that load images; 0 loads in threads of this process."""
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
