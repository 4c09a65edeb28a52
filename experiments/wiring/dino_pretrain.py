"""The work of `python -m experiments.dino_pretrain`; its options are in experiments/dino_pretrain.py."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.data.augment import View
from cvjax.errors import ConfigError
from cvjax.evaluate.collapse import TeacherGuard
from cvjax.interop.published import resizing_as
from cvjax.models.dino import DINO, DINOHead
from cvjax.models.image_model import with_axis_name
from cvjax.ops.position import PositionResize
from cvjax.tasks.dino import dino_task, with_teacher
from cvjax.train.preemption import StopRequest
from cvjax.train.schedules import cosine_between, stairs
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.model import build_classifier, parse_fields
from cvjax.workflow.config import config_errors
from cvjax.workflow.continued import late_schedules, with_part
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.attention import draw_attention
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
from experiments.dino_pretrain import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Pre-train, probe the teacher, draw."""
    prepared = prepare_within(prepare, config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return

    inputs, model, guard = prepared.inputs, prepared.model, prepared.rules["collapse"]
    assert isinstance(guard, TeacherGuard)
    out_dim = guard.out_dim
    metrics = trained.metrics | {"collapsed": float(guard.warning is not None)}
    protocol = shared_protocol(inputs)
    protocol["test"] = {"out_dim": out_dim, "student_temperature": config.student_temperature,
                        "teacher_temperature": config.teacher_temperature}
    if guard.warning:
        print(guard.warning)
    teacher = trained.variables["dino"]["teacher"]
    encoder = dino_encoder(model, teacher, config, inputs)
    draw(make_views(config, inputs), encoder, inputs, config, folder)
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
    size, channels, images = inputs.image_size, inputs.dataset.channels, len(inputs.dataset.train)
    steps, epoch = config.total_steps(images), images / config.batch_size
    out_dim, momentum = fitting_out_dim(config, images), fitting_momentum(config, steps)
    axis_name = ENGINES[config.parallel].axis_name
    model = build_dino(config, image_size=size, channels=channels, out_dim=out_dim, axis_name=axis_name,
                       position_resize=start.position_resize if start else "dino")
    learnt = start and start.variables(model.backbone, config.seed)
    dino_encoder(model, {}, config, inputs)  # to raise its errors before the training
    views = make_views(config, inputs)
    task = dino_task(
        model, views=views, preprocess=inputs.preprocess, axis_name=axis_name,
        teacher_momentum=cosine_between(momentum, 1.0, steps),
        teacher_temperature=stairs(config.warmup_teacher_temperature, config.teacher_temperature,
                                   config.warmup_teacher_epochs, epoch),
        student_temperature=config.student_temperature,
        center_momentum=config.center_momentum if config.centering else None)
    decay_end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    guard = TeacherGuard(out_dim, patience=config.collapse_patience, stop=config.stop_on_collapse)
    meta = record_of("dino_pretrain", config, "encoder", model.backbone.clone(parent=None), image_size=(size, size),
                     channels=channels, preprocessing=inputs.preprocessing,
                     validated=inputs.dataset.validation is not None, root=("dino", "teacher"),
                     part="backbone", name="dino", pool=config.pool, blocks=config.probe_blocks)
    print(f"dino: {out_dim:,} prototypes, teacher momentum {momentum:.5f} to 1")
    return prepare_training(config, task, inputs, best_metric="loss", best_mode="min", meta=meta, model=model,
                            output_modules=model.output_modules,
                            rules={"collapse": guard},
                            weight_decay=cosine_between(config.weight_decay, decay_end, steps),
                            pretrained=learnt, adapt=adapt if start else None,
                            own_schedules=late_schedules(config, "backbone", steps, images) if start else [],
                            held=(is_last_layer, round(config.freeze_last_layer * epoch)))


def adapt(fresh: Any, backbone: Any) -> Any:
    """The first variables with a learnt backbone, in the student and in its teacher."""
    return with_teacher(with_part(fresh, "backbone", backbone))


def build_dino(config: Config, *, image_size: int, channels: int, out_dim: int, axis_name: str | None = None,
               position_resize: PositionResize = "dino") -> DINO:
    """The student (and teacher) that a configuration describes.

    axis_name: the mapped axis that batch norms average over under pmap. position_resize: how the backbone's learned
    positions are resized, unless --model-fields say it.
    """
    backbone = build_classifier(config, image_size=image_size, channels=channels, num_classes=0,
                                drop_path=config.drop_path)
    backbone = with_axis_name(resizing_as(backbone, position_resize), axis_name)  # local views have fewer positions
    with config_errors():
        head = DINOHead(out_dim, config.head_layers, config.head_hidden, config.head_bottleneck,
                        config.head_batch_norm, config.norm_last_layer, axis_name, jnp.dtype(config.head_dtype))
        model = DINO(backbone, head)
        images = jax.ShapeDtypeStruct((1, 2, image_size, image_size, channels), jnp.float32)
        small = jax.ShapeDtypeStruct((1, 1, config.local_size, config.local_size, channels), jnp.float32)
        try:
            jax.eval_shape(model.init, jax.random.key(0), [images, small] if config.local_crops else [images])
        except Exception as error:  # a size may break a model in any way
            raise ConfigError(f"--model {config.model} on crops of {image_size} and {config.local_size} pixels: "
                              f"{next(iter(str(error).splitlines()), type(error).__name__)}") from None
    return model


def dino_encoder(model: DINO, teacher: Mapping[str, Any], config: Config, inputs: ImageInputs) -> Encoder:
    """The encoder that is the backbone of a teacher."""
    return backbone_encoder("dino", model.backbone, teacher, config.pool, config.probe_blocks, inputs)


def make_views(config: Config, inputs: ImageInputs) -> Callable[[jax.Array, Mapping[str, jax.Array]], list[jax.Array]]:
    """`views(key, example) -> [(2, size, size, C), (N, local_size, local_size, C)]`, normalised.

    example: see `cvjax.workflow.views.views_of`.
    """
    made = recipes(config, inputs.image_size)

    def views(key: jax.Array, example: Mapping[str, jax.Array]) -> list[jax.Array]:
        return [normalized(x, inputs.preprocessing) for x in views_of(key, example, *made)]

    return views


def recipes(config: Config, size: int) -> tuple[tuple[View, View], View, int]:
    """The recipes of the two global views and of the local ones, and how many local ones there are."""
    first, second, local = config.blur
    global_views = (recipe(config, size, config.crop_scale, first),
                    recipe(config, size, config.crop_scale, second, config.solarize))
    return global_views, recipe(config, config.local_size, config.local_scale, local), config.local_crops


def is_last_layer(path: str) -> bool:
    """Whether a parameter belongs to the prototypes."""
    return "last_layer" in path.split("/")


def fitting_out_dim(config: Config, images: int) -> int:
    """The number of prototypes: the one asked for, or about one for each training image."""
    return config.out_dim or min(max(256, 2 ** images.bit_length()), 65536)


def fitting_momentum(config: Config, steps: int) -> float:
    """The teacher's momentum at the start: the one asked for, or the paper's, adapted to the batch and number of steps.

    A smaller batch makes more steps of the same images, so each step must count less: 0.996 ** (batch / 1024)
    (Busbridge et al. 2023, https://arxiv.org/abs/2307.13813). But a teacher must forget its random start early in the
    run: it keeps at most 1 - 10 / steps of itself.
    """
    if config.teacher_momentum is not None:
        return config.teacher_momentum
    return max(0.0, min(0.996 ** (config.batch_size / 1024), 1 - 10 / steps))


def draw(views: Any, encoder: Encoder, inputs: ImageInputs, config: Config, folder: RunFolder) -> None:
    """Draw `figures/views.png`, the views of training images that both networks see; for a ViT also `attention.png`."""
    draw_views(folder.figures / "views.png", views, inputs, ("global", "local"), seed=config.seed,
               title=f"{config.data}: an image, its two global and its local views")
    if encoder.has_class_token:
        part = "train" if inputs.dataset.test is None else "test"
        draw_attention(folder.figures / "attention.png", encoder, inputs, part)
