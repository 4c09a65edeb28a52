"""The work of `python -m experiments.simsiam_pretrain`; its options are in experiments/simsiam_pretrain.py."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.data.augment import View
from cvjax.evaluate.collapse import ProjectionGuard
from cvjax.models.image_model import with_axis_name
from cvjax.models.simsiam import SimSiam
from cvjax.tasks.simsiam import Views, simsiam_task
from cvjax.train.preemption import StopRequest
from cvjax.train.schedules import scaled_learning_rate
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.model import build_classifier, parse_fields
from cvjax.workflow.continued import late_schedules, with_part
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.encoder import Encoder, backbone_encoder
from cvjax.workflow.frozen.probing import probe_pretrained, shared_protocol
from cvjax.workflow.frozen.retrieval import draw_neighbours
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.inputs import held_out, with_batches_of
from cvjax.workflow.normalization import normalized
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.preprocessing import open_pretrained
from cvjax.workflow.restore import record_of
from cvjax.workflow.training import train
from cvjax.workflow.views import draw_views, recipe, views_of, with_views
from experiments.simsiam_pretrain import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Pre-train, probe the backbone, draw."""
    prepared = prepare_within(prepare, config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return

    inputs, guard = prepared.inputs, prepared.rules["collapse"]
    metrics = trained.metrics | {"collapsed": float(guard.warning is not None)}
    protocol = shared_protocol(inputs)
    protocol["test"] = {"dim": config.dim}
    if guard.warning:
        print(guard.warning)
    views = make_views(config, inputs)
    draw_views(folder.figures / "views.png", lambda key, example: [views(key, example)], inputs, ("views",),
               seed=config.seed, title=f"{config.data}: an image and two views of it")
    encoder = encoder_of(prepared.model, trained.variables, config, inputs)
    probed, found = probe_pretrained(encoder, inputs, config.data, seed=config.seed)
    if inputs.dataset.num_classes > 1:
        draw_neighbours(folder.figures / "neighbours.png", encoder, inputs)
    folder.finish(metrics | probed, protocol | found, trained)


def prepare(config: Config, folder: RunFolder) -> Prepared[ImageInputs]:
    """The training, see `cvjax.workflow.prepared.Prepared`."""
    start = (open_pretrained(config.pretrained, lambda: config.model, parse_fields(config.model_fields))
             if config.pretrained else None)
    folder.reads(start and start.origin)
    inputs = make_inputs(config, image_size=config.image_size, folder=folder,
                         prepare=partial(held_out, config), preprocessing=start and start.preprocessing)
    config = with_batches_of(config, inputs)
    inputs = with_views(config, inputs, *recipes(config, inputs.image_size))
    size, channels = inputs.image_size, inputs.dataset.channels
    axis_name = ENGINES[config.parallel].axis_name
    model = build_simsiam(config, image_size=size, channels=channels, axis_name=axis_name)
    model = model if start is None else model.clone(backbone=start.resizing(model.backbone))
    encoder_of(model, {}, config, inputs)  # to raise its errors before the training
    task = simsiam_task(model, views=make_views(config, inputs), preprocess=inputs.preprocess,
                        stop_gradient=config.stop_gradient, axis_name=axis_name)
    meta = record_of("simsiam_pretrain", config, "encoder", model.backbone.clone(parent=None), image_size=(size, size),
                     channels=channels, preprocessing=inputs.preprocessing,
                     validated=inputs.dataset.validation is not None, part="backbone",
                     name="simsiam", pool=config.pool, blocks=config.probe_blocks)
    peak = scaled_learning_rate(config.base_learning_rate, config.batch_size)
    print(f"simsiam: projections of width {config.dim}; their deviation is {config.dim ** -0.5:.4f} when their "
          "directions are spread, and falls towards 0 in a collapse")
    images = len(inputs.dataset.train)
    schedules: list[Any] = [(is_predictor, lambda step: peak)] if config.constant_predictor_rate else []
    schedules += late_schedules(config, "backbone", config.total_steps(images), images) if start else []
    return prepare_training(config, task, inputs, best_metric="loss", best_mode="min", meta=meta, model=model,
                            output_modules=model.output_modules,
                            rules={"collapse": ProjectionGuard(config.dim, patience=config.collapse_patience,
                                                               stop=config.stop_on_collapse)},
                            pretrained=start and start.variables(model.backbone, config.seed),
                            adapt=adapt if start else None, own_schedules=schedules)


def adapt(fresh: Any, backbone: Any) -> Any:
    """The first variables with a learnt backbone."""
    return with_part(fresh, "backbone", backbone)


def build_simsiam(config: Config, *, image_size: int, channels: int, axis_name: str | None = None) -> SimSiam:
    """The network that a configuration describes.

    axis_name: the mapped axis that batch norms average over under pmap.
    """
    backbone = build_classifier(config, image_size=image_size, channels=channels, num_classes=0)
    return SimSiam(with_axis_name(backbone, axis_name), config.dim, config.projector_layers, config.projector_hidden,
                   config.predictor_hidden, axis_name, jnp.dtype(config.dtype))


def make_views(config: Config, inputs: ImageInputs) -> Views:
    """`views(key, example) -> (2, size, size, C)`: two views of one image, made by one recipe."""
    made = recipes(config, inputs.image_size)

    def views(key: jax.Array, example: Mapping[str, jax.Array]) -> jax.Array:
        (pair,) = views_of(key, example, *made)
        return normalized(pair, inputs.preprocessing)

    return views


def recipes(config: Config, size: int) -> tuple[tuple[View, View], View, int]:
    """The recipe of the two views; there are no local ones."""
    view = recipe(config, size, config.crop_scale, config.blur)
    return (view, view), view, 0


def encoder_of(model: SimSiam, variables: Mapping[str, Any], config: Config, inputs: ImageInputs) -> Encoder:
    """The backbone of a network's variables."""
    return backbone_encoder("simsiam", model.backbone, variables, config.pool, config.probe_blocks, inputs)


def is_predictor(path: str) -> bool:
    """Whether a parameter belongs to the predictor."""
    return path.split("/")[0] == "predictor"
