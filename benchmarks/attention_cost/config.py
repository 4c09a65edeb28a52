"""What does attention cost as images grow? Linear in the area within windows (Swin), quadratic over all tokens (ViT).

Liu et al. 2021, sec. 3.2, eq. 1 and 2 (https://arxiv.org/abs/2103.14030). One forward pass of one image of each size is
counted and timed. No data and no weights are needed. The default takes a minute on two cores.
"""

import dataclasses
from typing import Any

from cvjax.workflow.config import require


@dataclasses.dataclass(frozen=True)
class Config:
    """Models and sizes."""

    models: tuple[str, ...] = ("swin_tiny_patch4_window7_224", "vit_small_patch16_224")
    """Names from list_models() of models that take images of every size below."""
    image_sizes: tuple[int, ...] = (224, 448, 672, 896)
    """Sides of the images, in pixels."""
    repeats: int = 2
    """Timed runs for each size, after one that compiles; the fastest is reported."""
    run_dir: str | None = None
    """The folder of the run; by default runs/attention_cost/PRESET, with the changed fields in its name."""
    overwrite: bool = False
    """Delete the run that is already in the folder and start anew."""
    dry_run: bool = False
    """Say what would run, and stop."""

    def __post_init__(self) -> None:
        require(len(self.models) >= 1, "models", self.models, "at least one name")
        require(len(self.image_sizes) >= 1 and min(self.image_sizes) >= 1, "image_sizes", self.image_sizes,
                "one or more numbers of at least 1")
        require(self.repeats >= 1, "repeats", self.repeats, "at least 1")


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(),
    "accelerator": dict(image_sizes=(224, 448, 896, 1344, 1792), repeats=20),
}
