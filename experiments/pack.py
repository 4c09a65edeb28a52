"""Pack a folder of images into a few large files.

    python -m experiments.pack folder:PATH --output DIR
    python -m experiments.supervised folder --data packed:DIR

Images, order and labels stay the same, so training sees the same batches. --image-size makes the pack smaller.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.errors import ConfigError
from cvjax.workflow.command import command
from cvjax.workflow.config import require
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """What to pack, and how."""

    source: Annotated[str, Positional]
    """folder:PATH"""
    output: Path
    """The folder to write; it must not exist."""
    image_size: int | None = None
    """Images whose shorter side is longer than this are resized to it and encoded anew. By default files stay as they
    are."""
    quality: int = 90
    """JPEG quality of images that are encoded anew."""
    shard_mb: int = 256
    """Size of each file, in MB of 2**20 bytes."""
    data_max_bad: float = 0.01
    """Packing stops if more than this share of the files is unreadable, and more than 5 (or half of fewer than 10); 0
    allows none. They are left out, and bad_files.txt names them."""
    overwrite: bool = False
    """Replace the pack that is already in the folder."""

    def __post_init__(self) -> None:
        kind, _, path = self.source.partition(":")
        if kind != "folder" or not path:
            raise ConfigError(f"cannot pack {self.source!r}: it must be folder:PATH")
        require(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "at least 1")
        require(1 <= self.quality <= 95, "quality", self.quality, "in [1, 95]")
        require(self.shard_mb >= 1, "shard_mb", self.shard_mb, "at least 1")
        require(0 <= self.data_max_bad <= 1, "data_max_bad", self.data_max_bad, "in [0, 1]")


if __name__ == "__main__":
    command("experiments.pack", "experiments.wiring.pack")
