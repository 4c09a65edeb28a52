"""The work of `python -m experiments.linear_probe`; its options are in experiments/linear_probe.py."""

from functools import partial
from typing import Any

from cvjax.errors import ConfigError
from cvjax.tasks.linear_probe import linear_probe_task
from cvjax.train.preemption import StopRequest
from cvjax.workflow.augmentation import Augmentation
from cvjax.workflow.config import on_data_of
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.encoder import Encoder, check_channels, frozen_encoder
from cvjax.workflow.frozen.probing import check_probing, run_frozen, shared_protocol
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.inputs import held_out
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.restore import record_of
from cvjax.workflow.training import train
from experiments.linear_probe import FORMS, Config, training_config

IMAGENET = 1_281_167  # training images of the data set that both published forms are made for
SMALL = IMAGENET // 10


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Extract features, fit and report; or train heads on augmented images."""
    if config.form == "sweep":
        run_frozen(config, folder, knn=False)
    else:
        run_published(config, folder, stop)


def run_published(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train one head for each learning rate through the frozen network, choose one, report it."""
    prepared = prepare(config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return
    training, inputs, encoder = prepared.config, prepared.inputs, prepared.model
    rates = config.learning_rates or FORMS[config.form]["learning_rates"]
    heads = heads_of(rates)
    metrics, best = judge(trained.metrics, list(heads), f"linear_probe/{encoder.name}")
    held = inputs.dataset.validation
    print_metrics(metrics)
    part = {
        "form": config.form,
        "classifier": "linear, after a batch norm without affine" if config.form == "mae" else "linear",
        "optimizer": f"{training.optimizer}, momentum {training.momentum}, weight decay 0, cosine schedule to 0",
        "warmup": training.warmup, "epochs": training.epochs, "batch_size": training.batch_size,
        "learning_rates": list(rates), "augmentation": {"crop_scale": list(training.crop_scale), "flip": training.flip},
        "selection": "none: one learning rate, last step" if len(rates) == 1 or held is None else
        f"{len(held)} training images held out, last step, no second fit"}
    protocol = {"linear_probe": part, "features": {encoder.name: encoder.protocol()}, **shared_protocol(inputs),
                "encoders": prepared.protocol, "seed": config.seed,
                "chosen": {"linear_probe": {encoder.name: {"learning_rate": heads[best]}}}}
    folder.finish(metrics, protocol, trained)


def prepare(config: Config, folder: RunFolder) -> Prepared[ImageInputs]:
    """The training of a published form, see `cvjax.workflow.prepared.Prepared`; its model is the frozen encoder."""
    if config.form == "sweep":
        raise ConfigError("linear_probe: the form sweep trains nothing step by step, so there is nothing to plan")
    encoder, source = frozen_encoder(config, partial(published_features, config.form))
    folder.reads(encoder.origin)
    config = on_data_of(config, encoder.learnt)
    training = training_config(config)
    inputs = make_inputs(training, image_size=encoder.image_size, folder=folder, prepare=partial(held_out, training),
                         preprocessing=encoder.preprocessing,
                         augmentation=Augmentation(training.crop_scale, training.flip))
    check_channels(encoder, inputs.dataset.channels)
    check_probing(inputs)
    rates = config.learning_rates or FORMS[config.form]["learning_rates"]
    heads = heads_of(rates)
    task = linear_probe_task(
        encoder.model, features=encoder.apply, augment=inputs.augment, preprocess=inputs.preprocess,
        num_classes=inputs.dataset.num_classes, batch_norm=config.form == "mae", heads=tuple(heads),
        axis_name=ENGINES[config.parallel].axis_name)
    meta = record_of("linear_probe", config, "encoder", encoder.model,
                     image_size=(inputs.image_size, inputs.image_size), channels=inputs.dataset.channels,
                     preprocessing=inputs.preprocessing,
                     validated=inputs.dataset.validation is not None, root=("frozen",),
                     name=encoder.name, pool=encoder.pool, blocks=encoder.blocks)
    print(f"linear_probe of {encoder.name}, form {config.form}, learning rates {', '.join(map(str, rates))}")
    if (images := len(inputs.dataset.train)) < SMALL:
        print(f"--form {config.form} is published for the {IMAGENET:,} images of ImageNet; on {images:,} its few steps "
              "leave the head far from its optimum, and numbers say little of the features: --form sweep is for data "
              "of any size")
    return prepare_training(
        training, task, inputs, best_metric="loss", best_mode="min", meta=meta, model=encoder,
        protocol={encoder.name: source}, adapt=lambda fresh, frozen: {**fresh, "frozen": frozen},
        pretrained=encoder.variables, layer_scale=lambda path: heads[path.split("/")[0]] / max(rates))


def heads_of(rates: tuple[float, ...]) -> dict[str, float]:
    """The heads by name, one for each learning rate."""
    return {f"lr={rate:g}": rate for rate in rates}


def published_features(form: str, encoder: Encoder) -> dict[str, Any]:
    """The features of an encoder that the heads of a form see."""
    if form == "mae":
        return {"pool": "token", "blocks": 1}
    large = encoder.is_vit and encoder.model.width >= 768  # ViT-B
    return {"pool": "token+avg", "blocks": 1} if large else {"pool": "token", "blocks": 4}


def judge(metrics: dict[str, float], heads: list[str], name: str) -> tuple[dict[str, float], str]:
    """The test numbers of the head that is best on the validation part, and that head's name.

    The numbers are `NAME` (top-1), `NAME/top5` and `NAME/loss`. (They are not called `test/top1`, which has a
    classifier's own protocol.) If accuracies are equal, the lower loss decides. The other heads keep only their
    validation numbers, `NAME/validation/...`.
    """
    best, suffix = heads[0], ""
    if len(heads) > 1:
        best = min(heads, key=lambda head: (-metrics[f"validation/top1/{head}"], metrics[f"validation/loss/{head}"]))
        suffix = f"/{best}"
    kept = {name: metrics[f"test/top1{suffix}"]}
    kept |= {f"{name}/{what}": metrics[f"test/{what}{suffix}"] for what in ("top5", "loss")
             if f"test/{what}{suffix}" in metrics}
    return kept | {f"{name}/{key}": value for key, value in metrics.items() if key.startswith("validation/")}, best
