"""A linear probe: how well a linear classifier reads the label from frozen features, in one of three forms.

--form sweep: softmax regression on features extracted once, standardised, with every learning rate and weight decay of
a grid at once; the best on a held-out part of the training set is fit again on all of it. Quick, and the same for all.
--form mae: as He et al. 2022, app. A.1, publish it (`main_linprobe.py`): batch norm without affine, linear, LARS, on
augmented crops. --form dino: as Caron et al. 2021 do (`eval_linear.py`): SGD, class tokens of the last 4 blocks of a
ViT-S, or the last block's beside the mean of its patches for ViT-B and larger. Both report the last step; several
--learning-rates are trained at once and chosen by a held-out part, never by the test set, without a second fit.

What differs from the authors: they report the best epoch on the test set; DINO's rate falls with each epoch, here with
each step; MAE's norm sees each GPU's share of a batch, here the whole, and its crops come from a box made to fit, here
(as DINO's) from one of ten that fits; where MAE pools, it normalises after pooling, not before.

    python -m experiments.linear_probe --checkpoint runs/mae_pretrain/digits
    python -m experiments.linear_probe mae --model vit_base_patch16_224 --weights mae_pretrain_vit_base.pth
"""

import dataclasses
from typing import Any, Literal

from cvjax.experiment.config import TrainingConfig, main, require
from cvjax.experiment.frozen import FrozenConfig, run_frozen

TRAINED_ONLY = ("crop_scale", "flip", "workers", "parallel", "log_every", "checkpoint_every")

# What the two papers train heads with; learning rates are for a batch of 256.
FORMS: dict[str, dict[str, Any]] = {
    "mae": dict(optimizer="lars", learning_rates=(0.1,), epochs=90, warmup=10 / 90),
    "dino": dict(optimizer="momentum", learning_rates=(0.001,), epochs=100, warmup=0.0),
}


@dataclasses.dataclass(frozen=True)
class Config(FrozenConfig):
    """Linear probe of a pre-trained encoder."""

    form: Literal["sweep", "mae", "dino"] = "sweep"
    """sweep: on features extracted once. mae, dino: as published, on augmented images; the fields below the next two
    are theirs."""
    epochs: int | None = None
    """Passes over the training images; by default 100, MAE's 90, DINO's 100. The sweep's final fit makes as many."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to choose from; by default the sweep's grid, MAE's 0.1, DINO's 0.001. In the published forms for
    a batch of 256, the real ones are these * batch size / 256."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of an image's area that a random training crop keeps; 1 1 for no cropping."""
    flip: bool = True
    """Mirror half of the training images."""
    workers: int = 0
    """Processes that decode images; 0 decodes in threads of this one."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit: one program over a mesh of all devices. pmap: the same numbers the older way."""
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
                "different numbers of more than 0")
        if self.form != "sweep":
            training_config(self)  # has its own opinion of the fields they share
            return
        for field in dataclasses.fields(self):
            if field.name in TRAINED_ONLY:
                value = getattr(self, field.name)
                require(value == field.default, field.name, value, "left out with --form sweep")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(data="digits"),
    "cifar10": dict(data="folder:cifar10", data_cache=True, epochs=50),
    "mae": dict(data="tfds:imagenet2012", form="mae", batch_size=16384, workers=16, checkpoint_every=1000),
    "dino": dict(data="tfds:imagenet2012", form="dino", batch_size=1024, workers=16, checkpoint_every=5000),
}


def training_config(config: Config) -> TrainingConfig:
    """The training that a published form is."""
    from cvjax.evaluate.linear_probe import MOMENTUM, VALIDATION_FRACTION

    form = FORMS[config.form]
    rates = config.learning_rates or form["learning_rates"]
    own = {field.name for field in dataclasses.fields(TrainingConfig)} & {f.name for f in dataclasses.fields(config)}
    shared = {name: getattr(config, name) for name in own}
    return TrainingConfig(**shared | dict(
        epochs=config.epochs or form["epochs"], base_learning_rate=max(rates), optimizer=form["optimizer"],
        momentum=MOMENTUM, weight_decay=0.0, schedule="cosine", warmup=form["warmup"], crop_scale=config.crop_scale,
        flip=config.flip, validation=VALIDATION_FRACTION if len(rates) > 1 else 0.0))


def run(config: Config, name: str, stop: Any) -> None:
    """Extract features, sweep, fit, report; or train heads on augmented images."""
    if config.form == "sweep":
        given = {"epochs": config.epochs, "learning_rates": config.learning_rates}
        run_frozen("linear_probe", config, name, knn=False, **{key: value for key, value in given.items() if value})
    else:
        run_published(config, name, stop)


def run_published(config: Config, name: str, stop: Any) -> None:
    """Train one head for each learning rate through the frozen network, choose one, report it."""
    from functools import partial

    from cvjax.experiment.config import as_json
    from cvjax.experiment.encoder import check_channels
    from cvjax.experiment.frozen import frozen_encoder
    from cvjax.experiment.inputs import held_out, make_inputs
    from cvjax.experiment.probing import check_probing, shared_protocol
    from cvjax.experiment.run import RunFolder, print_metrics
    from cvjax.experiment.training import ENGINES, enable_compilation_cache, train
    from cvjax.tasks.linear_probe import linear_probe_task

    enable_compilation_cache()
    folder = RunFolder(config, "linear_probe", name)
    if folder.finished():
        return
    training = training_config(config)
    encoder, source = frozen_encoder(config, partial(published_features, config.form))
    inputs = make_inputs(training, image_size=encoder.image_size, folder=folder, crop_scale=training.crop_scale,
                         flip=training.flip, prepare=partial(held_out, training))
    check_channels(encoder, inputs.dataset.channels)
    check_probing(inputs)
    rates = config.learning_rates or FORMS[config.form]["learning_rates"]
    heads = {f"lr={rate:g}": rate for rate in rates}
    task = linear_probe_task(
        encoder.model, features=encoder.apply, augment=inputs.augment, preprocess=inputs.preprocess,
        num_classes=inputs.dataset.num_classes, batch_norm=config.form == "mae", heads=tuple(heads),
        axis_name=ENGINES[config.parallel].axis_name)
    meta = {"experiment": "linear_probe", "config": as_json(config), "image_size": inputs.image_size,
            "channels": inputs.dataset.channels, "class_names": list(inputs.dataset.class_names)}
    print(f"linear_probe of {encoder.name}, form {config.form}, learning rates {', '.join(map(str, rates))}")
    trained = train(
        training, folder, task, inputs, stop, best_metric="loss", best_mode="min", meta=meta,
        adapt=lambda fresh, frozen: {**fresh, "frozen": frozen}, pretrained=encoder.variables,
        layer_scale=lambda path: heads[path.split("/")[0]] / max(rates))
    if trained is None:
        return
    metrics, best = judge(trained.metrics, list(heads), f"linear_probe/{encoder.name}")
    print_metrics(metrics)
    part = {
        "form": config.form,
        "classifier": "linear, after a batch norm without affine" if config.form == "mae" else "linear",
        "optimizer": f"{training.optimizer}, momentum {training.momentum}, weight decay 0, cosine schedule to 0",
        "warmup": training.warmup, "epochs": training.epochs, "batch_size": training.batch_size,
        "learning_rates": list(rates), "augmentation": {"crop_scale": list(training.crop_scale), "flip": training.flip},
        "selection": "none: one learning rate, last step" if len(rates) == 1 else
        f"{len(inputs.dataset.validation)} training images held out, last step, no second fit"}
    protocol = {"linear_probe": part, "features": {encoder.name: encoder.protocol()}, **shared_protocol(inputs),
                "encoders": {encoder.name: source}, "seed": config.seed,
                "chosen": {"linear_probe": {encoder.name: {"learning_rate": heads[best]}}}}
    folder.finish(metrics, protocol, trained)


def published_features(form: str, encoder: Any) -> dict[str, Any]:
    """What the heads of a form see of an encoder."""
    if form == "mae":
        return {"pool": "token", "blocks": 1}
    large = encoder.is_vit and encoder.model.width >= 768  # ViT-B
    return {"pool": "token+avg", "blocks": 1} if large else {"pool": "token", "blocks": 4}


def judge(metrics: dict[str, float], heads: list[str], name: str) -> tuple[dict[str, float], str]:
    """The best head by the validation part, and its numbers on the test set: `NAME` (top-1), `NAME/top5`, `NAME/loss`.

    Of equal accuracies the lower loss decides. Of the others, `NAME/validation/...` is all that is kept. (They are no
    `test/top1`, whose protocol is a classifier's own.)
    """
    best, suffix = heads[0], ""
    if len(heads) > 1:
        best = min(heads, key=lambda head: (-metrics[f"validation/top1/{head}"], metrics[f"validation/loss/{head}"]))
        suffix = f"/{best}"
    kept = {name: metrics[f"test/top1{suffix}"]}
    kept |= {f"{name}/{what}": metrics[f"test/{what}{suffix}"] for what in ("top5", "loss")
             if f"test/{what}{suffix}" in metrics}
    return kept | {f"{name}/{key}": value for key, value in metrics.items() if key.startswith("validation/")}, best


if __name__ == "__main__":
    main(run, "linear_probe", Config, PRESETS, __doc__)
