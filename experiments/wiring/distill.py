"""The work of `python -m experiments.distill`; its options are in experiments/distill.py."""

from functools import partial

from cvjax.errors import ConfigError
from cvjax.models.image_model import ImageModel, with_axis_name
from cvjax.models.projected import Projected
from cvjax.models.vit import VisionTransformer
from cvjax.tasks.distillation import feature_task, logits_lesson, token_lesson
from cvjax.train.preemption import StopRequest
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.augmentation import augmented, mixing
from cvjax.workflow.classification.model import build_classifier, check_model, create_model_or_fail
from cvjax.workflow.classification.parts import training_parts
from cvjax.workflow.config import as_json
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.distillation import Teacher, check_taught, open_teacher
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.encoder import Encoder, backbone_encoder
from cvjax.workflow.frozen.options import Pool
from cvjax.workflow.frozen.probing import probe_pretrained, shared_protocol
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.restore import record_of
from cvjax.workflow.training import train
from experiments.distill import HARD_WEIGHT, TEMPERATURE, Config
from experiments.wiring.supervised import Taught, train_one
from experiments.wiring.supervised import prepare as prepare_classifier


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train a classifier as experiments.supervised does, or an encoder, which is probed."""
    if config.method == "features":
        run_features(config, folder, stop)
    else:
        train_one(prepare_within(prepare, config, folder), config, folder, stop)


def prepare(config: Config, folder: RunFolder) -> Prepared[ImageInputs]:
    """The training, see `cvjax.workflow.prepared.Prepared`. The teacher is read before the data."""
    teacher = open_teacher(config.teacher, config.teacher_weights, config.teacher_fields,
                           encoder=config.method == "features", dtype=config.dtype)
    folder.reads(teacher.origin, again=True)
    if config.method == "features":
        return prepare_features(config, folder, teacher)
    return prepare_classifier(config, folder, partial(teach, config, teacher))


def teach(config: Config, teacher: Teacher, model: ImageModel, inputs: ImageInputs) -> Taught:
    """What the teacher brings to a classifier."""
    if config.method == "token" and not (isinstance(model, VisionTransformer) and model.distilled):
        raise ConfigError(f"--method token: {config.model} has no distillation token; deit_small_distilled_patch16_224 "
                          "has one, and so has a ViT with --model-fields distilled=True")
    check_taught(teacher, inputs.dataset, config.data, classes=True)
    ask = teacher.asked(inputs.preprocessing)
    weight = HARD_WEIGHT[config.method] if config.hard_weight is None else config.hard_weight
    if config.method == "token":
        lesson = token_lesson(ask, hard_weight=weight)
    else:
        lesson = logits_lesson(ask, temperature=config.temperature or TEMPERATURE, hard_weight=weight)
    return Taught(lesson, teacher.constants(), teacher.protocol())


def run_features(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train an encoder, probe it beside random parameters, and report."""
    prepared = prepare_within(prepare, config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return
    inputs = prepared.inputs
    probed, found = probe_pretrained(encoder_of(prepared.model, trained.variables, inputs), inputs, config.data,
                                     seed=config.seed)
    metrics = trained.metrics | probed
    print_metrics(trained.metrics)
    folder.finish(metrics, shared_protocol(inputs) | found | prepared.protocol, trained)


def prepare_features(config: Config, folder: RunFolder, teacher: Teacher) -> Prepared[ImageInputs]:
    """The training of an encoder without labels."""
    inputs = make_inputs(config, image_size=config.image_size, eval_size=config.eval_size, folder=folder,
                         prepare=partial(training_parts, as_json(config)),
                         raw_pixels=create_model_or_fail(config.model).raw_pixels, repeats=config.aug_repeats)
    inputs = augmented(config, inputs)
    check_taught(teacher, inputs.dataset, config.data, classes=False)
    backbone = build_classifier(config, image_size=inputs.crop_size, channels=inputs.dataset.channels, num_classes=0,
                                drop_path=config.drop_path, dropout=config.dropout)
    if inputs.crop_size != inputs.image_size:  # `build_classifier` has looked at training crops
        check_model(backbone, config.model, inputs.seen_shape)
    model = Projected(with_axis_name(backbone, ENGINES[config.parallel].axis_name), teacher.width)
    encoder = encoder_of(model, {}, inputs)
    task = feature_task(model, ask=teacher.asked(inputs.preprocessing), augment=inputs.augment,
                        preprocess=inputs.preprocess, distance=config.distance or "cosine", mix=mixing(config))
    meta = record_of("distill", config, "encoder", encoder.model, image_size=(inputs.image_size, inputs.image_size),
                     channels=inputs.dataset.channels, preprocessing=inputs.preprocessing,
                     validated=inputs.dataset.validation is not None, part="backbone", name=encoder.name,
                     pool=encoder.pool, blocks=encoder.blocks)
    return prepare_training(config, task, inputs, best_metric="loss", best_mode="min", meta=meta, model=model,
                            output_modules=model.output_modules, constants=teacher.constants(),
                            protocol=teacher.protocol())


def encoder_of(model: Projected, variables: dict, inputs: ImageInputs) -> Encoder:
    """The backbone of a network's variables."""
    pool: Pool = model.backbone.pool if isinstance(model.backbone, VisionTransformer) else "token"
    return backbone_encoder("student", model.backbone, variables, pool, 1, inputs)
