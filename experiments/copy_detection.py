"""Judge a ViT: find the original of a distorted copy.

    python -m experiments.copy_detection --originals ORIGINALS --copies COPIES --checkpoint runs/dino_pretrain/folder
    python -m experiments.copy_detection --originals original --copies strong --prefix 4 --distractors PATH \\
        --whitening PATH --image-size 320 --model vit_base_patch8_224 --weights FILE            # Copydays, as DINO

A copy's name begins with its original's: `cat_blurred.jpg` is a copy of `cat.png`. The protocol is DINO's for Copydays
(Caron et al. 2021, sec. 4.2.1); see `cvjax.evaluate.copy_detection`. Pictures are squeezed into a square.
"""

import dataclasses
from pathlib import Path

from cvjax.workflow.command import command
from cvjax.workflow.config import require
from cvjax.workflow.frozen.options import FrozenViTConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FrozenViTConfig):
    """Folders of pictures, and the vision transformer: --checkpoint, or --model with --weights."""

    originals: Path
    """A folder of pictures."""
    copies: Path
    """A folder of their copies."""
    prefix: int | None = None
    """A copy's originals share this many first characters of its name; Copydays: 4."""
    distractors: Path | None = None
    """A folder of other pictures, among which the originals must be found."""
    whitening: Path | None = None
    """A folder of further pictures, best thousands, whose statistics whiten the descriptors."""
    centred: bool = False
    """Whiten by variances; by default by second moments about 0, as DINO's script."""
    image_size: int | None = None
    """Side of the square that the network sees, in pixels; by default the size it was trained on. DINO: 320."""
    batch_size: int = 16
    """Pictures at once."""
    output: Path = Path("copy_detection")
    """The folder to write summary.json to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.centred or self.whitening is not None, "centred", self.centred, "left out without --whitening")
        require(self.prefix is None or self.prefix >= 1, "prefix", self.prefix, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")


if __name__ == "__main__":
    command("experiments.copy_detection", "experiments.wiring.copy_detection")
