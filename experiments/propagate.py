"""Carry the labels of a video's first frame through it.

    python -m experiments.propagate FRAMES --mask first.png --checkpoint runs/dino_pretrain/folder
    python -m experiments.propagate FRAMES --truth MASKS --checkpoint RUN        # also J, F and their mean
    python -m experiments.propagate --davis DAVIS --model vit_small_patch16_224 --weights FILE

The protocol is DINO's for DAVIS 2017 (Caron et al. 2021, sec. 4.2.2). Frames have a short side of 480 pixels and a long
side that is rounded down to a multiple of 64. The features are patch tokens after the last norm. Each patch takes the
labels of the 5 patches most similar to it within 12 rows and columns, in the first frame and the 7 frames before its
own. Deviations: frames are resized by antialiased bicubic interpolation, DINO's by bilinear; DINO divides red by 0.228,
here it is 0.229.
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
    """A video with its first frame's labels, and the vision transformer: --checkpoint, or --model with --weights."""

    frames: Annotated[Path | None, Positional] = None
    """A folder of frames, frame2 before frame10."""
    mask: Path | None = None
    """The labels of the first frame, a palette or grey PNG: 0 background, objects from 1; by default --truth's."""
    truth: Path | None = None
    """A folder of true masks to judge by, STEM.png for each frame; 255 is not judged."""
    davis: Path | None = None
    """The root of DAVIS 2017, in place of FRAMES: its validation videos at 480p are labelled and judged."""
    image_size: int = 480
    """The short side of the frames that the network sees, in pixels."""
    side_multiple: int = 64
    """Their long side is rounded down to a multiple of this."""
    queue: int = 7
    """Number of frames remembered besides the first."""
    radius: int = 12
    """A patch takes labels from patches at most this many rows and columns away."""
    temperature: float = 0.1
    """Temperature in the weights exp(cosine similarity / temperature)."""
    top_k: int = 5
    """Number of patches that a patch takes labels from."""
    frames_per_second: float = 10.0
    """Speed of the GIF, 1 to 50."""
    output: Path = Path("propagated")
    """The folder to write to: NAME/STEM.png, NAME.gif and, if there are true masks, summary.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.frames is None) == (self.davis is None):
            raise ConfigError("give a folder of frames, or --davis")
        if self.davis and (self.mask or self.truth):
            raise ConfigError("--davis has its own masks: leave --mask and --truth out")
        if self.frames and not (self.mask or self.truth):
            raise ConfigError("give --mask, the labels of the first frame, or --truth, those of all frames")
        require(self.truth is None or self.truth.is_dir(), "truth", self.truth, "a folder")
        for name, least in (("queue", 0), ("radius", 0), ("top_k", 1)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        require(self.temperature > 0, "temperature", self.temperature, "more than 0")
        require(1 <= self.frames_per_second <= 50, "frames_per_second", self.frames_per_second, "from 1 to 50")


if __name__ == "__main__":
    command("experiments.propagate", "experiments.wiring.propagate")
