"""Fine-tune a pre-trained encoder as a classifier.

The recipe (He et al. 2022, app. A.1, Table 9) has layer-wise learning-rate decay, mixup, label smoothing, drop path,
and positions that are learnt from the fixed ones on; rotary ones stay. `--scratch` trains the same network from random
parameters, for a comparison at the same budget.

    python -m experiments.finetune --checkpoint runs/mae_pretrain/digits
"""

import dataclasses
from typing import Annotated, Any, Literal

from cvjax.workflow.classification.options import LoraConfig
from cvjax.workflow.command import main
from cvjax.workflow.config import RUN_DATA, RunData, require


@dataclasses.dataclass(frozen=True)
class Config(LoraConfig):
    """Fine-tuning."""

    data: Annotated[str, RunData] = RUN_DATA
    checkpoint: str = "runs/mae_pretrain/digits"
    """The run folder of a pre-training."""
    scratch: bool = False
    """Keep the checkpoint's architecture but start from random parameters."""
    pool: Literal["token", "avg"] = "avg"
    """The head reads the class token, or the mean of the patch tokens."""
    layer_decay: float = 0.75
    """Learning rate of each block relative to the next one; 1 for none. With --scratch all blocks have the same."""
    mixup: float = 0.8
    """Mixup's alpha; 0 for none. With CutMix as well, each batch gets one of the two."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    drop_path: float = 0.1
    """Stochastic-depth rate of the last block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "in (0, 1]")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "in [0, 1)")
        require(not (self.scratch and self.lora), "lora", self.lora, "left out with --scratch")


PRESETS: dict[str, dict[str, Any]] = {
    "run": dict(
        epochs=100, batch_size=128, base_learning_rate=2e-3, crop_scale=(0.7, 1.0),
        flip=False, mixup=0.2, ema_decay=0.99),
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, checkpoint="runs/mae_pretrain/cifar10", epochs=1,
        base_learning_rate=1e-3, crop_scale=(0.5, 1.0), checkpoint_every=1000),
    "paper": dict(
        data="tfds:imagenet2012", checkpoint="runs/mae_pretrain/paper", epochs=100, batch_size=1024,
        base_learning_rate=5e-4, final_rate=1e-6 / 2e-3, layer_decay=0.65, crop_scale=(0.08, 1.0), cutmix=1.0,
        policy="rand_augment", policy_table="timm", policy_magnitude_std=0.5, policy_probability=0.5, erasing=0.25,
        erasing_mode="pixel", dtype="bfloat16", workers=16, checkpoint_every=1000),
}


if __name__ == "__main__":
    main("experiments.finetune", "experiments.wiring.finetune")
