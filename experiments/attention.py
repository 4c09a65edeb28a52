"""Draw where each head of a vision transformer looks.

It draws your own pictures, or video, once for each head of the class token in the last block.

    python -m experiments.attention cat.jpg dog.jpg --checkpoint runs/dino_pretrain/folder
    python -m experiments.attention PHOTOS --model vit_small_patch16_224 --weights dino_deitsmall16_pretrain.pth
    python -m experiments.attention PHOTOS --masks MASKS --checkpoint RUN        # how well its heads fit the objects
    python -m experiments.attention FRAMES --video --checkpoint RUN              # frame2 before frame10

As in fig. 1, 3 and 4 of DINO (Caron et al. 2021). The network sees the whole picture: the short side is resized to
--image-size, the long side in proportion, to the nearest multiple of the patch size. (DINO's `visualize_attention.py`
squeezes the picture into a square.) A head's mask is the fewest patches that hold 60 % of its attention. --masks also
gives the Jaccard index of each object with the head that fits it best, averaged over objects, then pictures (fig. 4).
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.errors import ConfigError
from cvjax.workflow.command import command
from cvjax.workflow.config import require
from cvjax.workflow.frozen.options import FrozenViTConfig
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config(FrozenViTConfig):
    """Pictures, and the vision transformer: --checkpoint, or --model with --weights."""

    images: Annotated[tuple[Path, ...], Positional]
    """Image files, and folders of them."""
    image_size: int | None = None
    """The short side of the pictures that the network sees, in pixels; by default the size it was trained on."""
    mass: float = 0.6
    """The share of a head's attention that its mask holds."""
    masks: Path | None = None
    """A folder of true masks, STEM.png for each picture: labels from 1, 0 is background, 255 is not judged."""
    video: bool = False
    """The pictures are frames: draw one animated GIF instead of a panel for each."""
    frames_per_second: float = 10.0
    """Speed of the GIF, 1 to 50."""
    output: Path = Path("attention")
    """The folder to write to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.images:
            raise ConfigError("no pictures given")
        require(0 < self.mass <= 1, "mass", self.mass, "in (0, 1]")
        require(1 <= self.frames_per_second <= 50, "frames_per_second", self.frames_per_second, "from 1 to 50")
        require(self.masks is None or self.masks.is_dir(), "masks", self.masks, "a folder")


if __name__ == "__main__":
    command("experiments.attention", "experiments.wiring.attention")
