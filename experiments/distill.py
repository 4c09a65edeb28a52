"""Distil a frozen teacher into a classifier or an encoder.

--method logits: the softened answers of a classifier (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
--method token: its likeliest class, learnt by the distillation token of a ViT (DeiT, Touvron et al. 2021,
https://arxiv.org/abs/2012.12877). --method features: the features of any network, through a linear projection; no
labels are used, and the student is an encoder, which is probed afterwards.

The default preset needs its teacher, `python -m experiments.supervised`, and no network access:

    python -m experiments.distill
    python -m experiments.distill digits_features --teacher runs/dino_pretrain/digits
    python -m experiments.distill folder --data folder:PATH --teacher runs/supervised/large

The teacher sees the pictures that the student sees, at its own size and with its own statistics. Checkpoints do not
hold it: a run that goes on reads it again, and refuses another one.
"""

import dataclasses
from typing import Any, Literal

from cvjax.workflow.command import main
from cvjax.workflow.config import require
from experiments.supervised import PRESETS as SUPERVISED
from experiments.supervised import Config as SupervisedConfig


@dataclasses.dataclass(frozen=True)
class Config(SupervisedConfig):
    """Distillation."""

    teacher: str = "runs/supervised/digits"
    """The folder of a run, or a name from list_models(), also with timm's tag: resnet50.a1_in1k."""
    teacher_weights: str | None = None
    """Weights of a teacher that is named: a .safetensors or .pth file, or hf-hub:OWNER/NAME; by default timm's."""
    teacher_fields: tuple[str, ...] = ()
    """Fields of that model to change, such as num_classes=10, or image_size=224 for pictures of that side."""
    method: Literal["logits", "features", "token"] = "logits"
    """What the student learns: the teacher's logits, its features, or, by a token of its own, its likeliest class."""
    hard_weight: float | None = None
    """Share of the true labels in the loss of logits and token, by default 0.1 and 0.5; the rest is the teacher's."""
    temperature: float | None = None
    """Divides the logits of both, by default 4 for logits; at high temperatures unlikely classes count as well."""
    distance: Literal["cosine", "mse"] | None = None
    """Of features: 1 - cosine, the default, or the mean squared difference to the teacher's at mean 0, deviation 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hard_weight is None or 0 <= self.hard_weight <= 1, "hard_weight", self.hard_weight, "in [0, 1]")
        require(self.temperature is None or self.temperature > 0, "temperature", self.temperature, "more than 0")
        require(self.folds == 0, "folds", self.folds, "0: only experiments.supervised cross-validates")
        classifiers = ("logits", "token")
        for name, methods in {"temperature": ("logits",), "distance": ("features",), "hard_weight": classifiers,
                              **dict.fromkeys(OF_CLASSIFIERS, classifiers)}.items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            require(self.method in methods or value == default, name, value, f"left out with --method {self.method}")


HARD_WEIGHT = {"logits": 0.1, "token": 0.5}
TEMPERATURE = 4.0

# What an encoder, which learns without labels, has no use for, or what only a classifier can start from.
OF_CLASSIFIERS = ("label_smoothing", "criterion", "bce_threshold", "pseudo_labels", "test_views", "pretrained",
                  "freeze", "layer_decay", "backbone_rate", "norm_bias_rate", "batch_norm_group")

PERCEPTRON: dict[str, Any] = dict(model="mlp", model_fields=("hidden=(64,)",))

# Touvron et al. 2021, Table 9 and sec. 4; experiments/recipes/distill.py compares both.
DEIT = SUPERVISED["deit_small"] | dict(
    model="deit_small_distilled_patch16_224", method="token", hard_weight=0.5, teacher="resnet152",
    teacher_fields=("image_size=224",))

PRESETS: dict[str, dict[str, Any]] = {
    # A perceptron has 70 digits and a ResNet that learnt from 1,437: soft labels hold what few images do not show
    # (Hinton et al. 2015, sec. 5.1).
    "digits": SUPERVISED["digits"] | PERCEPTRON | dict(
        fraction=0.05, epochs=200, batch_size=32, base_learning_rate=0.8, mixup=1.0),
    # The same perceptron as an encoder, from all digits and no labels.
    "digits_features": SUPERVISED["digits"] | PERCEPTRON | dict(
        method="features", base_learning_rate=1.6),
    # The ResNet-9 of experiments.supervised with half the channels, a quarter of the parameters, in half the epochs.
    "cifar10": SUPERVISED["cifar10"] | dict(
        model_fields=("channels=(16,16,32,64)",), epochs=5, teacher="runs/supervised/cifar10"),
    # Your own photos in class folders, and a larger network that has learnt them.
    "folder": SUPERVISED["folder"] | dict(teacher="runs/supervised/folder"),
    "deit_small_distilled": DEIT,
}


if __name__ == "__main__":
    main("experiments.distill", "experiments.wiring.distill")
