"""Compile training steps for TPUs and GPUs that are not here, and say what their compilers say of them.

    python -m benchmarks.compiled "mae_pretrain paper --batch-size 64" --target v5e:1 h200
    python -m benchmarks.compiled "supervised resnet50" --target h200 --against ../other-checkout
    python -m benchmarks.compiled "detect coco_faster_rcnn_resnet50_fpn --batch-size 2" --target v5e:1 --mode inference

Each program is a training command: an experiment, its preset, its options. A compiler for TPUs is libtpu
(`pip install ".[compile-tpu]"`), one for NVIDIA cards JAX's CUDA plugin (`pip install ".[compile-gpu]"`). Compilation
takes half a minute for a card and several for a TPU. What was compiled once is kept (--cache), by the program's hash.
Nothing runs, so this is no measurement: TPU programs carry their compiler's estimate of cycles; for a card, bytes at
its memory's rate and FLOPs at its peak are added up.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cvjax.workflow.config import require
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compile, and for what."""

    programs: Annotated[tuple[str, ...], Positional] = ("mae_pretrain paper --batch-size 64",)
    """Training commands, each in quotes."""
    target: tuple[str, ...] = ("h200",)
    """Devices: v5e:1, v5e:4, v6e:1, v4:4, v2:8, ..., or t4, l4, a100, h100, h200, with :N for several. v5e:fit: as many
    as the batch needs."""
    mode: Literal["train", "inference"] = "train"
    """train: the whole training step. inference: the program that judges a batch of the test part."""
    against: Path | None = None
    """Another checkout of cvjax, whose programs are set beside these."""
    top: int = 10
    """How many of the costliest operations are listed, by the names that the model gives them."""
    output: Path = Path("compiled")
    """Folder for compiled.json and compiled.md; earlier ones in it are overwritten."""
    cache: Path | None = None
    """Folder of compiled programs; by default in the user's cache folder."""

    def __post_init__(self) -> None:
        require(len(self.programs) >= 1, "programs", self.programs, "at least one")
        require(len(self.target) >= 1, "target", self.target, "at least one")
        require(self.top >= 0, "top", self.top, "0 or more")
