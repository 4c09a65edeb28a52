"""Pack a folder of images into a few large files, for storage that is slow at many small ones.

    python -m experiments.pack folder:PATH --output DIR
    python -m experiments.supervised folder --data packed:DIR

Images, order and labels stay what they are, so training sees the same batches. --image-size makes the pack smaller.
"""

import dataclasses
from pathlib import Path

import tyro

from cvjax.experiment.config import ConfigError, command, require


@dataclasses.dataclass(frozen=True)
class Config:
    """What to pack, and how."""

    source: tyro.conf.Positional[str]
    """folder:PATH"""
    output: Path
    """The folder to write; it must not exist."""
    image_size: int | None = None
    """Longest shorter side: larger images are resized to it and encoded anew. By default files stay as they are."""
    quality: int = 90
    """JPEG quality of images that are encoded anew."""
    shard_mb: int = 256
    """Size of each file, in MB of 2**20 bytes."""
    data_max_bad: float = 0.01
    """Share of unreadable files past which packing stops; they are left out and named in bad_files.txt."""
    overwrite: bool = False
    """Replace a pack that is there already."""

    def __post_init__(self) -> None:
        kind, _, path = self.source.partition(":")
        if kind != "folder" or not path:
            raise ConfigError(f"cannot pack {self.source!r}: it must be folder:PATH")
        require(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "at least 1")
        require(1 <= self.quality <= 95, "quality", self.quality, "in [1, 95]")
        require(self.shard_mb >= 1, "shard_mb", self.shard_mb, "at least 1")
        require(0 <= self.data_max_bad <= 1, "data_max_bad", self.data_max_bad, "in [0, 1]")


def run(config: Config) -> None:
    """Write the pack; say what is in it."""
    from cvjax.data.packed import write_pack

    manifest = write_pack(config.source.partition(":")[2], config.output, image_size=config.image_size,
                          quality=config.quality, shard_bytes=config.shard_mb * 2**20,
                          limit_fraction=config.data_max_bad, overwrite=config.overwrite)
    for split, facts in manifest["splits"].items():
        size = sum(shard["bytes"] for shard in facts["shards"])
        print(f"{split}: {facts['records']:,} images, {size / 2**20:,.1f} MB in {len(facts['shards'])} files")
    if manifest["ignored"]:
        print(f"left out: {manifest['ignored']}")
    if manifest["unreadable"]:
        print(f"{manifest['unreadable']} unreadable files are named in {config.output / 'bad_files.txt'}")
    print(f"written to {config.output}; use it by --data packed:{config.output}")


if __name__ == "__main__":
    command(run, "pack", Config, __doc__)
