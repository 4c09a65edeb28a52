"""The work of `python -m experiments.supervised`; its options are in experiments/supervised.py."""

import dataclasses
from collections.abc import Callable
from functools import partial
from statistics import mean, stdev
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cvjax.errors import ConfigError
from cvjax.evaluate.views import averaged
from cvjax.models.image_model import ImageModel, with_axis_name
from cvjax.tasks.supervised import Lesson, supervised_task
from cvjax.train.preemption import StopRequest
from cvjax.train.processes import is_first, wait_for_all
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.augmentation import augmented, mixing
from cvjax.workflow.classification.goal import Classification, check_judged, goal_of
from cvjax.workflow.classification.model import (
    Classifier,
    build_classifier,
    check_model,
    create_model_or_fail,
    load_classifier,
    parse_fields,
)
from cvjax.workflow.classification.parts import training_parts
from cvjax.workflow.classification.report import report
from cvjax.workflow.classification.transfer import (
    frozen_parameters,
    is_head,
    learning_rates,
    norm_bias_rates,
    with_lora,
    with_parameters,
)
from cvjax.workflow.config import as_json
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.probing import shared_protocol
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.preprocessing import open_pretrained
from cvjax.workflow.restore import network_variables, record_of
from cvjax.workflow.training import train
from experiments.supervised import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train one model, or one for each fold, and report."""
    if config.folds and config.fold is None:
        run_folds(config, folder, stop)
    else:
        run_one(config, folder, stop)


class Taught(NamedTuple):
    """What a frozen teacher brings to a training."""

    lesson: Lesson
    constants: dict[str, Any]  # see `cvjax.train.state.TrainState`
    protocol: dict[str, Any]  # what the summary says of it


# What a teacher brings to a model that learns from these inputs; ConfigError if it cannot teach it.
Teach = Callable[[ImageModel, ImageInputs], Taught]


def run_one(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train one model into `folder`, and report."""
    train_one(prepare_within(prepare, config, folder), config, folder, stop)


def train_one(prepared: Prepared[ImageInputs], config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """`run_one` of what is prepared."""
    trained = train(prepared, folder, stop)
    if trained is None:
        return
    inputs, model = prepared.inputs, prepared.model
    dataset = inputs.dataset
    metrics, variables = dict(trained.metrics), network_variables(jax.device_get(trained.variables), prepared.meta)
    if dataset.test is not None:
        classifier = Classifier(model, variables, inputs.image_size, dataset.channels, inputs.preprocessing,
                                goal_of(dataset), config.test_views)
        metrics |= {f"test/{name}": value for name, value in report([classifier], inputs, folder.figures).items()}
    print_metrics(metrics)
    # flax types the leaves as if they could be dicts
    by_path = cast(dict[str, np.ndarray], flatten_dict(variables["params"], sep="/"))
    parameters = sum(leaf.size for path, leaf in by_path.items() if not is_head(model, path))
    protocol = {"pretrained": config.pretrained, "parameters": parameters, "training_images": len(dataset.train),
                "chosen_by": "last step" if dataset.validation is None else f"validation/{prepared.best_metric}"}
    folder.finish(metrics, shared_protocol(inputs) | protocol | prepared.protocol, trained)


def prepare(config: Config, folder: RunFolder, teach: Teach | None = None) -> Prepared[ImageInputs]:
    """The training of one model (the first fold's, if there are folds), see `cvjax.workflow.prepared.Prepared`."""
    if config.folds and config.fold is None:
        config = dataclasses.replace(config, fold=0)
    start = (open_pretrained(config.pretrained, lambda: config.model, parse_fields(config.model_fields))
             if config.pretrained else None)
    folder.reads(start and start.origin)
    inputs = make_inputs(config, image_size=config.image_size, eval_size=config.eval_size, folder=folder,
                         prepare=partial(training_parts, as_json(config)), preprocessing=start and start.preprocessing,
                         raw_pixels=create_model_or_fail(config.model).raw_pixels, repeats=config.aug_repeats)
    dataset, size = inputs.dataset, inputs.crop_size
    inputs = augmented(config, inputs)
    goal = goal_of(dataset)
    if isinstance(goal, Classification) and dataset.num_classes < 2:
        raise ConfigError(f"--data {config.data} has {dataset.num_classes or 'no'} class labels: a classifier needs "
                          "at least two")
    for part in ("validation", "test"):
        check_judged(dataset, part)
    model = build_classifier(config, image_size=size, channels=dataset.channels, num_classes=len(goal.names),
                             drop_path=config.drop_path, dropout=config.dropout)
    if size != inputs.image_size:  # `build_classifier` has looked at training crops
        check_model(model, config.model, inputs.seen_shape)
    if config.batch_norm_group and not has_batch_norm(model, inputs.seen_shape):
        raise ConfigError(f"--batch-norm-group {config.batch_norm_group}: {config.model} has no batch norm")
    model = model if start is None else start.resizing(model)
    taught = teach(model, inputs) if teach else None
    axis_name = ENGINES[config.parallel].axis_name  # the batch's axis under pmap, for models with batch statistics
    mapped = with_axis_name(model, axis_name)
    frozen = frozen_parameters(config.freeze, model)
    pretrained, fresh = (None, []) if start is None else start.partly(model, config.seed)
    adapt = None if pretrained is None else lambda fresh, pretrained: {**fresh, **pretrained}
    if pretrained is None and model.examples:
        examples = inputs.preprocess(inputs.examples("train", model.examples))
        pretrained, adapt = model.from_images(examples), with_parameters
    task = supervised_task(mapped, augment=inputs.augment, preprocess=inputs.preprocess,
                           mix=mixing(config), frozen=frozen, batch_norm_group=config.batch_norm_group,
                           lesson=taught and taught.lesson,
                           predict=partial(averaged, views=config.test_views), **goal.learning(config))
    task, adapt, lora_alpha = with_lora(config, model, task, adapt, fresh)
    meta = record_of(folder.experiment, config, goal.kind, model,
                     image_size=(inputs.image_size, inputs.image_size),
                     channels=dataset.channels, preprocessing=inputs.preprocessing, class_names=goal.names,
                     validated=dataset.validation is not None, test_views=config.test_views,
                     lora_alpha=lora_alpha, **goal.facts)
    return prepare_training(
        config, task, inputs, best_metric=goal.best_metric, best_mode=goal.best_mode, meta=meta, model=model,
        frozen=frozen, output_modules=model.output_modules,
        layer_scale=learning_rates(config.layer_decay, config.backbone_rate, model),
        gradient_scale=norm_bias_rates(config.norm_bias_rate, model), pretrained=pretrained, adapt=adapt,
        constants=taught and taught.constants, protocol=taught and taught.protocol)


def has_batch_norm(model: ImageModel, shape: tuple[int, int, int]) -> bool:
    """Whether the model takes statistics of the batch."""
    return "batch_stats" in jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))


def run_folds(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train a model per fold into `fold-0`, `fold-1`, ... of `folder`, and average them on the test split."""
    summaries = []
    for fold in range(config.folds):
        part = dataclasses.replace(config, fold=fold, run_dir=str(folder.path / f"fold-{fold}"))
        print(f"fold {fold + 1} of {config.folds}")
        each = RunFolder(part, "supervised", folder.name, within=folder)
        if not each.finished():
            run_one(part, each, stop)
        if config.dry_run:
            return
        wait_for_all(each.path.name)
        if is_first():  # only the first process writes and reads summaries
            summary = each.summary
            assert summary is not None, f"{each.path} has no summary after its training"
            summaries.append(summary)
    if not is_first():
        return
    classifiers = [load_classifier(folder.path / f"fold-{fold}") for fold in range(config.folds)]
    metric = classifiers[0].goal.best_metric
    values = [summary["metrics"][f"validation/{metric}"] for summary in summaries]
    metrics = {f"folds/{metric}_mean": mean(values), f"folds/{metric}_std": stdev(values)}
    inputs = make_inputs(config, image_size=config.image_size, eval_size=config.eval_size, folder=folder,
                         preprocessing=classifiers[0].preprocessing)
    folder.begin()
    if inputs.dataset.test is not None:
        metrics |= {f"test/{name}": value for name, value in report(classifiers, inputs, folder.figures).items()}
    print_metrics(metrics)
    folder.finish(metrics, {"folds": config.folds, "ensemble": "mean of the folds' answers"})
