"""Time training steps and inference, side by side with torch if torch is installed.

    python -m benchmarks.steps resnet50 vit_small_patch16_224 mae_vit_small_patch16 dino:vit_small_patch16_224
    python -m benchmarks.steps resnet18 --mode both --batch-size 8 --cores 1
    python -m benchmarks.steps vit_base_patch16_224 --batch-size 256 --dtype bfloat16 --chain 10   # on a GPU

Each side runs in its own process, and the sides take turns, so that other work on the machine slows all of them alike.
Compilation and the first steps are not counted. torch runs eager and compiled, convolutional networks also
channels-last; cvjax is compared with the fastest of these. Each row is written as soon as it is measured. On a busy
machine use --cores 1, which measures CPU time.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cvjax.workflow.config import require
from cvjax.workflow.options import Positional

Variant = Literal["eager", "eager+channels-last", "compile", "compile+channels-last"]


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure. The default takes a few minutes on two cores."""

    models: Annotated[tuple[str, ...], Positional] = ("resnet18", "vit_tiny_patch16_224")
    """Names from list_models(): a classifier, or mae_... for a masked autoencoder. dino:NAME trains NAME by DINO."""
    mode: Literal["train", "inference", "both"] = "train"
    """train: whole training steps. inference: logits (MAE and DINO: features) of whole images."""
    batch_size: int = 4
    """Images in a step."""
    image_size: int | None = None
    """Side of the images; by default each model's own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters stay float32."""
    steps: int = 10
    """Timed turns of each side."""
    chain: int = 1
    """Steps in one turn. The clock stops after the last one; take more than 1 where a step takes milliseconds."""
    cores: int | None = None
    """How many cores to use, the first ones. With 1, times are CPU time, not wall-clock time."""
    torch: Literal["auto", "no", "only"] = "auto"
    """auto: compare with torch if it is installed. only: leave cvjax out."""
    torch_variants: tuple[Variant, ...] = ("eager", "eager+channels-last", "compile", "compile+channels-last")
    """Which settings of torch to try. All of them hold memory at the same time."""
    together: bool = False
    """Let all sides of a row compile at the same time. This is faster, but start-up times then say nothing."""
    prototypes: int = 65536
    """Prototypes of DINO's head."""
    local_crops: int = 8
    """DINO's local views of each image, besides two global ones."""
    local_size: int | None = None
    """Side of the local views; by default 3/7 of the image's."""
    timeout: float = 600.0
    """Seconds that a side may take to compile, or for one turn; a side that takes longer is given up."""
    output: Path = Path("benchmark")
    """Folder for benchmark.json, benchmark.md and benchmark.png; earlier ones in it are overwritten."""

    def __post_init__(self) -> None:
        require(len(self.models) >= 1, "models", self.models, "at least one name")
        require(len(self.torch_variants) >= 1, "torch_variants", self.torch_variants, "one or more")
        for name in ("batch_size", "steps", "chain", "image_size", "local_size", "cores", "timeout"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(self.prototypes >= 2, "prototypes", self.prototypes, "at least 2")
        require(self.local_crops >= 0, "local_crops", self.local_crops, "0 or more")
