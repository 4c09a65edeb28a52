"""Judge features by a linear classifier.

--form sweep: softmax regression on standardised features, which are extracted once. It is fitted to the optimum, which
is unique, for each L2 penalty of a grid; the best on held-out folds of the training set is fitted again to all of it.
This form is quick, the same for all encoders, and gives the number that the pre-training printed.
--form mae: as He et al. 2022, app. A.1, publish it (`main_linprobe.py`): batch norm without affine, a linear layer and
LARS, on augmented crops. --form dino: as Caron et al. 2021 publish it (`eval_linear.py`): SGD on class tokens of the
last 4 blocks of a ViT-S; for ViT-B and larger, on the last block's class token beside the mean of its patches. Both
report the last step. Several --learning-rates are trained at once and chosen by a held-out part, never by the test set,
without a second fit.

Deviations from the authors: they report the best epoch on the test set. DINO's rate falls with each epoch, here with
each step. MAE's norm sees each GPU's share of a batch, here the whole batch. MAE's crops come from a box that is made
to fit, here (as DINO's) from one of ten that fits. Where MAE pools, it normalises after pooling, not before.

    python -m experiments.linear_probe --checkpoint runs/mae_pretrain/digits
    python -m experiments.linear_probe mae --model vit_base_patch16_224 --weights mae_pretrain_vit_base.pth
"""

import dataclasses
from typing import Any, Literal

from cvjax.workflow.command import main
from cvjax.workflow.config import TrainingConfig, require
from cvjax.workflow.frozen.options import FrozenConfig

TRAINED_ONLY = ("epochs", "learning_rates", "crop_scale", "flip", "workers", "parallel", "log_every",
                "checkpoint_every")

VALIDATION_FRACTION = 0.2  # of the training images, to choose one of several learning rates
MOMENTUM = 0.9

# How the two papers train heads; learning rates are for a batch of 256.
FORMS: dict[str, dict[str, Any]] = {
    "mae": dict(optimizer="lars", learning_rates=(0.1,), epochs=90, warmup=10 / 90),
    "dino": dict(optimizer="momentum", learning_rates=(0.001,), epochs=100, warmup=0.0),
}


@dataclasses.dataclass(frozen=True)
class Config(FrozenConfig):
    """Linear probe of a pre-trained encoder."""

    form: Literal["sweep", "mae", "dino"] = "sweep"
    """sweep: on features that are extracted once. mae, dino: as published, on augmented images; the
    options below belong to these two."""
    epochs: int | None = None
    """Passes over the training images; by default 90 for mae and 100 for dino."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to choose from; by default 0.1 for mae and 0.001 for dino. They are for a batch of 256: the real
    ones are these * batch size / 256."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and greatest share of an image's area that a random training crop keeps; 1 1 for no cropping."""
    flip: bool = True
    """Mirror half of the training images."""
    workers: int = 0
    """Processes that decode images; with 0, threads of the main process decode them."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit: one program over a mesh of all devices. pmap: the older way, with the same numbers."""
    log_every: int = 20
    """Steps per line in metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints; each holds the frozen network too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs is None or self.epochs >= 1, "epochs", self.epochs, "at least 1")
        rates = self.learning_rates
        different = len(set(rates)) == len(rates)
        require(different and all(0 < rate < float("inf") for rate in rates), "learning_rates", rates,
                "different numbers, each more than 0")
        if self.form != "sweep":
            training_config(self)  # checks the fields that both share
            return
        for field in dataclasses.fields(self):
            if field.name in TRAINED_ONLY:
                value = getattr(self, field.name)
                require(value == field.default, field.name, value, "left out with --form sweep")


PRESETS: dict[str, dict[str, Any]] = {
    "run": dict(),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
    "mae": dict(data="tfds:imagenet2012", form="mae", batch_size=16384, epochs=90, learning_rates=(0.1,),
                workers=16, checkpoint_every=1000),
    "dino": dict(data="tfds:imagenet2012", form="dino", batch_size=1024, epochs=100, learning_rates=(0.001,),
                 workers=16, checkpoint_every=5000),
}


def training_config(config: Config) -> TrainingConfig:
    """The configuration of a published form's training."""
    form = FORMS[config.form]
    rates = config.learning_rates or form["learning_rates"]
    own = {field.name for field in dataclasses.fields(TrainingConfig)} & {f.name for f in dataclasses.fields(config)}
    shared: dict[str, Any] = {name: getattr(config, name) for name in own}
    own_form: dict[str, Any] = dict(
        epochs=config.epochs or form["epochs"], base_learning_rate=max(rates), optimizer=form["optimizer"],
        momentum=MOMENTUM, weight_decay=0.0, schedule="cosine", warmup=form["warmup"], crop_scale=config.crop_scale,
        flip=config.flip, validation=VALIDATION_FRACTION if len(rates) > 1 else 0.0)
    return TrainingConfig(**shared | own_form)


if __name__ == "__main__":
    main("experiments.linear_probe", "experiments.wiring.linear_probe")
