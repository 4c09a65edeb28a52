"""Pre-train a ViT, Swin or ResNet by DINO, without labels.

Self-distillation (Caron et al. 2021, https://arxiv.org/abs/2104.14294), then a probe of the teacher's backbone.

The default preset learns the 1,437 embedded digits and needs no network access. For your own photos, in one folder or
in class folders: `python -m experiments.dino_pretrain folder --data folder:PATH`. Deviation from the authors'
recipe: an epoch ends with its last image, theirs with its last whole batch.
"""

import dataclasses
from typing import Any, Literal

from cvjax.workflow.classification.options import check_color_jitter
from cvjax.workflow.command import main
from cvjax.workflow.config import ContinuedConfig, require
from cvjax.workflow.frozen.options import Pool


@dataclasses.dataclass(frozen=True)
class Config(ContinuedConfig):
    """DINO pre-training. --crop-scale is that of the global views; --weight-decay is the decay at the start."""

    model: str = "vit_small_patch16_224"
    """The backbone, a name from list_models(): a ViT, a Swin, a ResNet."""
    model_fields: tuple[str, ...] = ()
    """Fields of the backbone, such as patch_size=4 or stem=cifar."""
    image_size: int | None = None
    """Side of the global views; by default the size of the images, if all have the same."""
    drop_path: float | None = None
    """Stochastic depth of the student; by default the model's."""
    out_dim: int | None = None
    """Number of prototypes; by default the next power of 2 above the number of training images, from 256 to 65536."""
    head_layers: int = 3
    """Layers of the projection head before the prototypes."""
    head_hidden: int = 2048
    """Width of all of these layers but the last."""
    head_bottleneck: int = 256
    """Width of the last of these layers."""
    head_batch_norm: bool = False
    """Batch norm between these layers; small convolutional networks need it to start learning."""
    norm_last_layer: bool = True
    """Keep all prototypes at length 1."""
    head_dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the head; --dtype is the backbone's."""
    freeze_last_layer: float = 1.0
    """Epochs at the start during which the prototypes do not change."""
    teacher_momentum: float | None = None
    """Share of itself that the teacher keeps in the first step; it grows to 1. By default 0.996 ** (batch size / 1024),
    but at most 1 - 10 / steps."""
    teacher_temperature: float = 0.04
    """Temperature of the teacher's answers after the warm-up."""
    warmup_teacher_temperature: float = 0.04
    """Temperature of the teacher's answers at the start."""
    warmup_teacher_epochs: int = 0
    """Epochs over which the teacher's temperature changes."""
    student_temperature: float = 0.1
    """Temperature of the student's answers."""
    center_momentum: float = 0.9
    """Share of itself that the centre of the teacher's answers keeps in each step."""
    centering: bool = True
    """Centre the teacher's answers; without centring, training collapses."""
    weight_decay_end: float | None = None
    """The weight decay at the end, reached on a cosine; by default it stays constant."""
    local_crops: int = 8
    """Local views of each image."""
    local_size: int = 96
    """Side of the local views."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Share of an image's area that a local view shows."""
    squeeze: bool = False
    """Squeeze each picture of a file into a square of 1.5 times the views' side, and crop from that on the device. It
    costs sharpness: in crops of photos the gradients have 0.75 to 0.9 of the energy. By default every view is cropped
    from the picture itself, where it is read; with 8 local views a core then reads 0.6 times as many."""
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Strengths of brightness, contrast, saturation and hue, changed in 80 % of the views."""
    grayscale: float = 0.2
    """Share of the views that lose their colours."""
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Share of the views that are blurred: of the first global, the second global and the local views."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and greatest standard deviation of the blur, in pixels."""
    solarize: float = 0.2
    """Share of the second global views that are solarised."""
    stop_on_collapse: bool = False
    """End the run when the teacher answers every image alike."""
    collapse_patience: int = 5
    """A collapse is reported after this many logged windows in a row that look collapsed."""
    pool: Pool = "token"
    """Features of a ViT to probe: the class token, the mean of the patch tokens, both, or all patch tokens side by
    side."""
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
        check_color_jitter(self.color_jitter)
        for name in ("grayscale", "solarize"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        require(all(0 <= p <= 1 for p in self.blur), "blur", self.blur, "three numbers in [0, 1]")
        low, high = self.blur_sigma
        require(0 < low <= high, "blur_sigma", self.blur_sigma, "LOW HIGH with 0 < LOW <= HIGH")


# The authors' main_dino.py as its README calls it, on 8 GPUs: 100 epochs on ImageNet.
PAPER: dict[str, Any] = dict(
    data="tfds:imagenet2012", model="vit_small_patch16_224", model_fields=("weight_init=timm",), image_size=224,
    batch_size=512, epochs=100, base_learning_rate=5e-4, schedule="dino", final_rate=1e-6 / 1e-3, warmup=10 / 100,
    weight_decay=0.04, weight_decay_end=0.4, decay="no_bias_or_norm", clip_each=3.0, drop_path=0.1,
    crop_scale=(0.4, 1.0), out_dim=65536, teacher_momentum=0.996, dtype="bfloat16", workers=16, checkpoint_every=1000,
    max_skipped=10)

PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(
        data="digits", model="resnet20", model_fields=("width=32", "depths=(1,1)"), epochs=60, batch_size=64,
        base_learning_rate=2.4e-2, weight_decay=0.04, clip_each=3.0, warmup=0.1, crop_scale=(0.7, 1.0), flip=False,
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
        data="folder:photos", model="vit_small_patch16_224", model_fields=("weight_init=timm",), image_size=224,
        batch_size=64, epochs=300, base_learning_rate=5e-4, weight_decay=0.04, weight_decay_end=0.4, clip_each=3.0,
        drop_path=0.1, crop_scale=(0.4, 1.0), workers=2, max_skipped=10),
    "vit_small_patch16": PAPER,
    # The authors' best ViT-S/16: 800 epochs; the teacher's temperature rises, the prototypes' lengths are learnt.
    "vit_small_patch16_boosted": PAPER | dict(
        batch_size=1024, epochs=800, warmup=10 / 800, final_rate=1e-5 / 2e-3, teacher_temperature=0.07,
        warmup_teacher_epochs=30, norm_last_layer=False, clip_each=None, crop_scale=(0.25, 1.0),
        local_scale=(0.05, 0.25), local_crops=10),
    "resnet50": PAPER | dict(
        model="resnet50", model_fields=(), optimizer="momentum", base_learning_rate=0.03,
        final_rate=1e-6 / 0.06, momentum=0.9, weight_decay=1e-4, weight_decay_end=1e-4, drop_path=None,
        crop_scale=(0.14, 1.0), local_scale=(0.05, 0.14)),
}


if __name__ == "__main__":
    main("experiments.dino_pretrain", "experiments.wiring.dino_pretrain")
