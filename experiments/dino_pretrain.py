"""DINO self-distillation (Caron et al. 2021, https://arxiv.org/abs/2104.14294), then a probe of the teacher's backbone.

The default preset learns the 1,437 embedded digits and needs no network. Your own photos, in one folder or in class
folders: `python -m experiments.dino_pretrain folder --data folder:PATH`. Deviations from the authors' recipe: positions
and tokens do not decay; the learning rate peaks one step after the warm-up's last.
"""

import dataclasses
from typing import Any, Literal

from cvjax.experiment.config import TrainingConfig, main, require


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """DINO pre-training. --crop-scale is that of the global views; --weight-decay is where the decay starts."""

    model: str = "vit_small_patch16_224"
    """The backbone, a name from list_models(): a ViT, a Swin, a ResNet."""
    model_fields: tuple[str, ...] = ()
    """Fields of the backbone, such as patch_size=4 or stem=cifar."""
    image_size: int | None = None
    """Side of the global views; by default the data's own, where it has one."""
    drop_path: float | None = None
    """Stochastic depth of the student; by default the model's."""
    out_dim: int | None = None
    """Prototypes; by default as many as there are training images, as a power of 2 from 256 to 65536."""
    head_layers: int = 3
    """Layers of the projection head before the prototypes."""
    head_hidden: int = 2048
    """Width of all of these but the last."""
    head_bottleneck: int = 256
    """Width of the last."""
    head_batch_norm: bool = False
    """Batch norm between them: what gets small convolutional networks off the ground."""
    norm_last_layer: bool = True
    """Keep all prototypes at length 1."""
    head_dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the head; --dtype is the backbone's."""
    freeze_last_layer: float = 1.0
    """Epochs at the start during which the prototypes keep still."""
    teacher_momentum: float | None = None
    """Share of itself that the teacher keeps in the first step; it grows to 1. By default 0.996 ** (batch size / 1024),
    but no more than what the length of the run allows."""
    teacher_temperature: float = 0.04
    """Temperature of the teacher's answers after the warm-up."""
    warmup_teacher_temperature: float = 0.04
    """The same at the start."""
    warmup_teacher_epochs: int = 0
    """Epochs over which it changes."""
    student_temperature: float = 0.1
    """Temperature of the student's answers."""
    center_momentum: float = 0.9
    """Share of itself that the centre of the teacher's answers keeps in each step."""
    centering: bool = True
    """Centre the teacher's answers; without, training collapses."""
    weight_decay_end: float | None = None
    """Where the weight decay ends, on a cosine; by default it stays."""
    local_crops: int = 8
    """Local views of each image."""
    local_size: int = 96
    """Side of the local views."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Share of an image's area that a local view shows."""
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Strengths of brightness, contrast, saturation and hue, changed in 80 % of the views."""
    grayscale: float = 0.2
    """Share of the views that lose their colours."""
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Share of the views that are blurred: the first global ones, the second ones, the local ones."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and greatest deviation of the blur, in pixels."""
    solarize: float = 0.2
    """Share of the second global views that are solarised."""
    stop_on_collapse: bool = False
    """End the run when the teacher answers every image alike."""
    collapse_patience: int = 5
    """Logged windows in a row that look collapsed before it is said."""
    pool: Literal["token", "avg", "token+avg"] = "token"
    """Features of a ViT to probe: the class token, the mean of the patch tokens, or both."""
    probe_blocks: int = 4
    """Last blocks whose features the linear probe sees side by side; kNN sees the last block's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ema_decay is None, "ema_decay", self.ema_decay, "left out: DINO's teacher is the running average")
        for name in ("probe_blocks", "head_layers", "head_hidden", "head_bottleneck", "local_size",
                     "collapse_patience"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("local_crops", "freeze_last_layer", "warmup_teacher_epochs"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.out_dim is None or self.out_dim >= 2, "out_dim", self.out_dim, "at least 2")
        for name in ("teacher_temperature", "warmup_teacher_temperature", "student_temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in ("teacher_momentum", "center_momentum"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, value, "in [0, 1)")
        require(self.weight_decay_end is None or self.weight_decay_end >= 0, "weight_decay_end", self.weight_decay_end,
                "0 or more")
        low, high = self.local_scale
        require(0 < low <= high <= 1, "local_scale", self.local_scale, "LOW HIGH with 0 < LOW <= HIGH <= 1")
        require(min(self.color_jitter) >= 0 and self.color_jitter[3] <= 0.5, "color_jitter", self.color_jitter,
                "four numbers from 0 on, the last at most 0.5")
        for name in ("grayscale", "solarize"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        require(all(0 <= p <= 1 for p in self.blur), "blur", self.blur, "three numbers in [0, 1]")
        low, high = self.blur_sigma
        require(0 < low <= high, "blur_sigma", self.blur_sigma, "LOW HIGH with 0 < LOW <= HIGH")


# The authors' main_dino.py, its defaults: 100 epochs on ImageNet.
PAPER: dict[str, Any] = dict(
    data="tfds:imagenet2012", model="vit_small_patch16_224", image_size=224, batch_size=1024, epochs=100,
    base_learning_rate=5e-4, final_rate=1e-6 / 2e-3, warmup=10 / 100, weight_decay=0.04, weight_decay_end=0.4,
    clip_each=3.0, drop_path=0.1, crop_scale=(0.4, 1.0), out_dim=65536, teacher_momentum=0.996, dtype="bfloat16",
    workers=16, checkpoint_every=1000, max_skipped=10)

PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(
        data="digits", model="resnet20", model_fields=("width=32", "depths=(1,1)"), epochs=80, batch_size=64,
        base_learning_rate=1.2e-2, weight_decay=0.04, clip_each=3.0, warmup=0.1, crop_scale=(0.7, 1.0), flip=False,
        out_dim=1024, head_hidden=256, head_bottleneck=64, head_batch_norm=True, local_crops=2, local_size=6,
        local_scale=(0.3, 0.7), color_jitter=(0.4, 0.4, 0.0, 0.0), grayscale=0.0, blur=(0.0, 0.0, 0.0), solarize=0.0,
        log_every=40, max_skipped=10),
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, model="resnet9", model_fields=("channels=(32,32,64,128)",), epochs=6,
        batch_size=128, base_learning_rate=2e-3, weight_decay=0.04, clip_each=3.0, warmup=0.1, crop_scale=(0.4, 1.0),
        out_dim=1024, head_hidden=512, head_bottleneck=64, head_batch_norm=True, local_crops=2, local_size=16,
        local_scale=(0.15, 0.5), blur=(0.0, 0.0, 0.0), solarize=0.0, max_skipped=10, log_every=50,
        checkpoint_every=250),
    "folder": dict(
        data="folder:photos", model="vit_small_patch16_224", image_size=224, batch_size=64, epochs=300,
        base_learning_rate=5e-4, weight_decay=0.04, weight_decay_end=0.4, clip_each=3.0, drop_path=0.1,
        crop_scale=(0.4, 1.0), workers=2, max_skipped=10),
    "vit_small_patch16": PAPER,
    # Their best ViT-S/16: 800 epochs; the teacher's temperature rises, the prototypes' lengths are learnt.
    "vit_small_patch16_boosted": PAPER | dict(
        epochs=800, warmup=10 / 800, final_rate=1e-5 / 2e-3, teacher_temperature=0.07, warmup_teacher_epochs=30,
        norm_last_layer=False, clip_each=None, crop_scale=(0.25, 1.0), local_scale=(0.05, 0.25), local_crops=10),
    "resnet50": PAPER | dict(
        model="resnet50", optimizer="momentum", base_learning_rate=0.03, final_rate=1e-6 / 0.12, weight_decay=1e-4,
        weight_decay_end=1e-4, drop_path=None, crop_scale=(0.14, 1.0), local_scale=(0.05, 0.14)),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Pre-train, probe the teacher, draw."""
    from functools import partial

    from cvjax.evaluate.collapse import CollapseGuard
    from cvjax.experiment.config import as_json
    from cvjax.experiment.encoder import build_dino, dino_encoder
    from cvjax.experiment.inputs import held_out, make_inputs
    from cvjax.experiment.multi_crop import make_views
    from cvjax.experiment.probing import probe_encoders, shared_protocol
    from cvjax.experiment.retrieving import draw_neighbours
    from cvjax.experiment.run import RunFolder
    from cvjax.experiment.training import ENGINES, enable_compilation_cache, train
    from cvjax.tasks.dino import dino_task
    from cvjax.train.schedules import cosine_between, stairs

    enable_compilation_cache()
    folder = RunFolder(config, "dino_pretrain", name)
    if folder.finished():
        return
    inputs = make_inputs(config, image_size=config.image_size, folder=folder, whole_images=True,
                         prepare=partial(held_out, config))
    size, channels, images = inputs.image_size, inputs.dataset.channels, len(inputs.dataset.train)
    steps, epoch = config.total_steps(images), images / config.batch_size
    out_dim, momentum = fitting_out_dim(config, images), fitting_momentum(config, steps)
    axis_name = ENGINES[config.parallel].axis_name
    model = build_dino(as_json(config), image_size=size, channels=channels, out_dim=out_dim, axis_name=axis_name)
    dino_encoder(model, {}, config.pool, config.probe_blocks, size, channels)  # what it refuses, before the training
    views = make_views(config, size, inputs.statistics)
    task = dino_task(
        model, views=views, preprocess=inputs.preprocess, axis_name=axis_name,
        teacher_momentum=cosine_between(momentum, 1.0, steps),
        teacher_temperature=stairs(config.warmup_teacher_temperature, config.teacher_temperature,
                                   config.warmup_teacher_epochs, epoch),
        student_temperature=config.student_temperature,
        center_momentum=config.center_momentum if config.centering else None)
    decay_end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    guard = CollapseGuard(out_dim, patience=config.collapse_patience, stop=config.stop_on_collapse)
    meta = {"experiment": "dino_pretrain", "config": as_json(config), "image_size": size, "channels": channels,
            "out_dim": out_dim}
    print(f"dino: {out_dim:,} prototypes, teacher momentum {momentum:.5f} to 1")
    trained = train(config, folder, task, inputs, stop, best_metric="loss", best_mode="min", meta=meta, collapse=guard,
                    weight_decay=cosine_between(config.weight_decay, decay_end, steps),
                    held=(is_last_layer, round(config.freeze_last_layer * epoch)))
    if trained is None:
        return

    metrics = trained.metrics | {"collapsed": float(guard.warning is not None)}
    protocol = shared_protocol(inputs)
    protocol["test"] = {"out_dim": out_dim, "student_temperature": config.student_temperature,
                        "teacher_temperature": config.teacher_temperature}
    if guard.warning:
        print(guard.warning)
    teacher = trained.variables["dino"]["teacher"]
    encoder = dino_encoder(model, teacher, config.pool, config.probe_blocks, size, channels)
    draw(views, encoder, inputs, config, folder)
    if inputs.dataset.num_classes > 1:
        probed, found = probe_encoders({"random": encoder.random(config.seed), "dino": encoder}, inputs,
                                       seed=config.seed)
        metrics, protocol = metrics | probed, protocol | found
        draw_neighbours(folder.figures / "neighbours.png", encoder, inputs)
    else:
        print(f"{config.data} has {inputs.dataset.num_classes or 'no'} class labels: nothing to probe")
    folder.finish(metrics, protocol, trained)


def is_last_layer(path: str) -> bool:
    """Whether a parameter belongs to the prototypes."""
    return "last_layer" in path.split("/")


def fitting_out_dim(config: Config, images: int) -> int:
    """The number of prototypes: what was asked for, or about one for each training image."""
    return config.out_dim or min(max(256, 2 ** images.bit_length()), 65536)


def fitting_momentum(config: Config, steps: int) -> float:
    """The teacher's momentum at the start: what was asked for, or the paper's, for this batch and this many steps.

    A smaller batch makes more steps of the same images, so that each must count less: 0.996 ** (batch / 1024)
    (Busbridge et al. 2023, https://arxiv.org/abs/2307.13813). But a teacher has to forget its random start early in the
    run: it keeps at most 1 - 10 / steps.
    """
    if config.teacher_momentum is not None:
        return config.teacher_momentum
    return max(0.0, min(0.996 ** (config.batch_size / 1024), 1 - 10 / steps))


def draw(views: Any, encoder: Any, inputs: Any, config: Config, folder: Any) -> None:
    """`figures/views.png`: what student and teacher were shown of training images; of a ViT also `attention.png`."""
    import jax

    from cvjax.experiment.attending import draw_attention
    from cvjax.visualize.views import views_panel

    batch = {name: array[:8] for name, array in next(inputs.train_batches(seed=config.seed, workers=0)).items()}
    keys = jax.random.split(jax.random.key(config.seed), len(batch["image"]))
    shown = [inputs.displayable(x) for x in jax.jit(jax.vmap(views))(keys, batch)]
    views_panel(folder.figures / "views.png", batch["image"] / 255, dict(zip(("global", "local"), shown)),
                title=f"{config.data}: an image, its two global and its local views")
    if encoder.has_class_token:
        part = "train" if inputs.dataset.test is None else "test"
        draw_attention(folder.figures / "attention.png", encoder, inputs, part)


if __name__ == "__main__":
    main(run, "dino_pretrain", Config, PRESETS, __doc__)
