"""Train a classifier or a regressor.

The default preset learns the 1,437 embedded digits and needs no network access. For your own photos in class folders:
`python -m experiments.supervised folder --data folder:PATH`.

With `--data labels:PATH` it learns several labels per image, or numbers, from labels.csv. For transfer: `--pretrained
hf-hub:timm/resnet50.a1_in1k --model resnet50 --freeze backbone`. docs/recipes.md compares the recipes of papers with
their sources, field by field.
"""

import dataclasses
from typing import Any, Literal

from cvjax.workflow.classification.options import LoraConfig
from cvjax.workflow.command import main
from cvjax.workflow.config import PreprocessingOptions, require


@dataclasses.dataclass(frozen=True)
class Config(PreprocessingOptions, LoraConfig):
    """Supervised classification and regression."""

    model: str = "resnet50"
    """A name from list_models()."""
    model_fields: tuple[str, ...] = ()
    """Fields of the model to change, such as width=32 depths=(1,1,1) stem=cifar."""
    image_size: int | None = None
    """Side of the training crops; by default the size of the images, if all have the same."""
    eval_size: int | None = None
    """Side of the images that evaluations see; by default that of the training crops. Objects look larger in training
    crops, so a larger side is often better (Touvron et al. 2019)."""
    batch_norm_group: int | None = None
    """Take batch norm's statistics over this many images at a time, as with so many per GPU; by default over the whole
    batch."""
    drop_path: float | None = None
    """Stochastic-depth rate of the last block; by default the model's own."""
    dropout: float | None = None
    """Dropout rate; by default the model's own."""
    pseudo_labels: str | None = None
    """A CSV list of more training images (columns file, label), as experiments.pseudo_label writes it."""
    fraction: float = 1.0
    """Share of the training images to use; the same share always takes the same images."""
    pretrained: str | None = None
    """Start from a weight file, hf-hub:OWNER/NAME, or the folder of a supervised, MAE or DINO run."""
    freeze: str = "none"
    """none | backbone (all but the head) | up-to:NAME (the module NAME and all before it)."""
    layer_decay: float = 1.0
    """Learning rate of each layer relative to the next one."""
    backbone_rate: float = 1.0
    """Learning rate of everything except the head, relative to the head's."""
    norm_bias_rate: float = 1.0
    """Learning rate of the biases of normalisation layers relative to the others'; for sgd, momentum and nesterov."""
    test_views: Literal["one", "mirror", "mirror_shift"] = "one"
    """Average the answers over views of a test image. mirror: the image and its mirror image. mirror_shift: also these
    two moved by a pixel."""
    folds: int = 0
    """Cross-validate: train this many models, each on all folds but one, and average them on the test split."""
    fold: int | None = None
    """Train only the model of --folds that is validated on this fold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_size", "eval_size", "batch_norm_group"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        group, together = self.batch_norm_group, self.batch_size // self.accumulate
        require(group is None or together % group == 0, "batch_norm_group", group, f"a divisor of {together}, the "
                "images that are seen together")
        require(group is None or self.parallel == "jit", "batch_norm_group", group, "left out with --parallel pmap")
        for name in ("drop_path", "dropout"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, value, "in [0, 1)")
        require(0 < self.fraction <= 1, "fraction", self.fraction, "in (0, 1]")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "in (0, 1]")
        require(0 < self.backbone_rate, "backbone_rate", self.backbone_rate, "more than 0; --freeze keeps it fixed")
        require(0 < self.norm_bias_rate, "norm_bias_rate", self.norm_bias_rate, "more than 0")
        if self.lora is not None:
            require(self.pretrained is not None, "lora", self.lora, "left out without --pretrained")
            require(self.freeze == "none", "freeze", self.freeze, "none with --lora, which freezes all but the head")
            require(self.norm_bias_rate == 1, "norm_bias_rate", self.norm_bias_rate, "1 with --lora")
        require(self.folds == 0 or self.folds >= 2, "folds", self.folds, "at least 2, or 0 for none")
        require(not (self.folds and self.validation), "validation", self.validation, "0 with --folds")
        require(self.fold is None or 0 <= self.fold < self.folds, "fold", self.fold,
                f"in [0, {self.folds}), because of --folds")


# Shared by all ImageNet recipes below. What their sources state, and where and why they differ from it:
# experiments/recipes/supervised.py, and as a page docs/recipes.md.
IMAGENET = dict(data="tfds:imagenet2012", image_size=224, crop_scale=(0.08, 1.0), workers=16, dtype="bfloat16",
                checkpoint_every=1000)

# DeiT (Touvron et al. 2021, https://arxiv.org/abs/2012.12877, Table 9) and Swin (Liu et al. 2021, app. A2) share this.
TRANSFORMER = dict(
    IMAGENET, epochs=300, batch_size=1024, optimizer="adamw", base_learning_rate=2.5e-4, weight_decay=0.05,
    start_rate=1e-3, final_rate=1e-2, policy="rand_augment", policy_table="timm", policy_magnitude_std=0.5,
    policy_probability=0.5, mixup=0.8, cutmix=1.0, label_smoothing=0.1, erasing=0.25, erasing_mode="pixel")

# ResNet strikes back (Wightman et al. 2021, https://arxiv.org/abs/2110.00476, Table 2).
STRIKES_BACK = dict(
    IMAGENET, model="resnet50", batch_size=2048, optimizer="lamb", clip_norm=1.0, criterion="bce", bce_threshold=0.2,
    policy="rand_augment", policy_table="timm", policy_magnitude=7.0, policy_magnitude_std=0.5, policy_probability=0.5,
    cutmix=1.0, crop=0.95, batch_norm_group=512)

# Shared by both of airbench's recipes.
AIRBENCH = dict(
    data="folder:cifar10", data_cache=True, resident=True, batch_size=1024, optimizer="nesterov", momentum=0.85,
    decay="all", norm_bias_rate=64.0, schedule="linear", ema_decay=0.95**5, lookahead=5, crop_scale=(1.0, 1.0),
    alternating_flip=True, shift_padding="reflect", label_smoothing=0.2, test_views="mirror_shift", dtype="bfloat16")

PRESETS: dict[str, dict[str, Any]] = {
    # A ResNet with two stages of one block, on 8x8 pixels.
    "digits": dict(
        data="digits", model="resnet20", model_fields=("width=32", "depths=(1,1)"), epochs=30, batch_size=64,
        optimizer="nesterov", base_learning_rate=0.4, weight_decay=1e-3, schedule="one_cycle", warmup=0.2,
        crop_scale=(0.7, 1.0), flip=False, ema_decay=0.98, log_every=50),
    # A ResNet with three stages of one block, for two cores. In runs this short, Muon is better than Nesterov momentum.
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, model="resnet9", model_fields=("channels=(32,32,64,128)",),
        epochs=11, batch_size=128, optimizer="muon", base_learning_rate=0.02, weight_decay=0.02, schedule="one_cycle",
        warmup=0.2, crop_scale=(1.0, 1.0), shift=2, ema_decay=0.995),
    # For a GPU.
    "cifar10_resnet18": dict(
        data="folder:cifar10", data_cache=True, model="resnet18", model_fields=("stem=cifar",), epochs=60,
        batch_size=512, optimizer="nesterov", base_learning_rate=0.1, weight_decay=5e-4, schedule="one_cycle",
        warmup=0.2, crop_scale=(1.0, 1.0), shift=4, cutout=8, label_smoothing=0.1, ema_decay=0.999, dtype="bfloat16"),
    # Jordan 2024 (https://arxiv.org/abs/2404.00498; legacy/airbench94.py and airbench96.py of its code), for a GPU. It
    # sums 1024 losses and decouples its rates; here that is peak = 11.5 / (1 + 1 / 0.15) for the mean and
    # decay = 0.0153 / 11.5. Deviations: the bias of the first layer learns to the end, not for 3 epochs; epochs drop no
    # images, but the number of steps is the authors'; bfloat16, not float16, and float32 parameters; ImageNet's mean
    # and deviation; the first layer is made from 5,000 images spread over the set. airbench94 reached 90.59 % on
    # CIFAR-10 as JPEG (H200, seed 0), the authors' code 90.66 (standard deviation 0.15, 3 runs).
    "cifar10_airbench94": dict(
        AIRBENCH, model="airbench94", steps=476, base_learning_rate=2.875 * 0.15 / 1.15, weight_decay=0.0153 / 11.5,
        warmup=0.23, start_rate=0.2, final_rate=0.07, shift=2, steps_per_dispatch=28, log_every=28,
        checkpoint_every=476),
    "cifar10_airbench96": dict(
        AIRBENCH, model="airbench96", steps=1776, base_learning_rate=2.25 * 0.15 / 1.15, weight_decay=0.012 / 9,
        warmup=0.1, start_rate=0.2, shift=4, cutout=12, cutout_inside=True, steps_per_dispatch=24, log_every=24,
        checkpoint_every=1776),
    # Your own photos in class folders, with a pretrained network (--pretrained), whose head learns fastest.
    "folder": dict(
        data="folder:photos", model="resnet18", image_size=224, epochs=30, batch_size=32, optimizer="adamw",
        base_learning_rate=4e-3, backbone_rate=0.1, weight_decay=0.05, crop_scale=(0.25, 1.0),
        policy="trivial_augment", label_smoothing=0.1, validation=0.1, eval_every=50, patience=10, workers=2),
    # Krizhevsky et al. 2012, sec. 4 and 5.
    "alexnet": dict(
        IMAGENET | dict(image_size=227), model="alexnet_grouped", short_side=(256, 256), epochs=90, batch_size=128,
        optimizer="momentum", base_learning_rate=0.02, weight_decay=5e-4, decay="all", schedule="step",
        milestones=(0.3, 0.6, 0.9), warmup=0.0),
    # Simonyan and Zisserman 2015, sec. 3.1, with batch norm in place of the start from smaller networks.
    "vgg16": dict(
        IMAGENET, model="vgg16_bn", short_side=(256, 512), epochs=74, batch_size=256, optimizer="momentum",
        base_learning_rate=0.01, weight_decay=5e-4, decay="all", schedule="step", milestones=(0.3, 0.6, 0.9),
        warmup=0.0),
    # The baseline of Goyal et al. 2017, sec. 5.1: the ResNet of He et al. 2016 in 90 epochs.
    "resnet50": dict(
        IMAGENET, model="resnet50", epochs=90, batch_size=256, batch_norm_group=32, optimizer="nesterov",
        base_learning_rate=0.1, weight_decay=1e-4, schedule="step", milestones=(30 / 90, 60 / 90, 80 / 90),
        warmup=0.0),
    "resnet50_a1": dict(STRIKES_BACK, epochs=600, base_learning_rate=6.25e-4, weight_decay=0.01, label_smoothing=0.1,
                        drop_path=0.05, aug_repeats=3, mixup=0.2, warmup=5 / 600),
    "resnet50_a2": dict(STRIKES_BACK, epochs=300, base_learning_rate=6.25e-4, weight_decay=0.02, drop_path=0.05,
                        aug_repeats=3, mixup=0.1, warmup=5 / 300),
    "resnet50_a3": dict(STRIKES_BACK | dict(image_size=160, policy_magnitude=6.0), eval_size=224, epochs=100,
                        base_learning_rate=1e-3, weight_decay=0.02, mixup=0.1, warmup=5 / 100),
    # The recipe of torchvision's second weights (its issue 3995). There the average keeps 1 - 0.00002 x 1024 images x
    # 32 steps / 600 epochs of itself every 32 steps, and begins anew until the warm-up ends.
    "resnet50_torchvision_v2": dict(
        IMAGENET | dict(image_size=176), eval_size=224, crop=224 / 232, interpolation="bilinear", model="resnet50",
        epochs=600, batch_size=1024, batch_norm_group=128, optimizer="momentum", base_learning_rate=0.125,
        weight_decay=2e-5, warmup=5 / 600, start_rate=0.01, aug_repeats=4, policy="trivial_augment", erasing=0.1,
        mixup=0.2, cutmix=1.0, label_smoothing=0.1, ema_decay=1 - 2e-5 * 1024 * 32 / 600, ema_every=32,
        ema_start=5 / 600),
    # Huang et al. 2017, sec. 4.2.
    "densenet121": dict(
        IMAGENET, model="densenet121", epochs=90, batch_size=256, optimizer="nesterov", base_learning_rate=0.1,
        weight_decay=1e-4, decay="all", schedule="step", warmup=0.0, color_jitter=(0.4, 0.4, 0.4, 0.0)),
    "deit_small": dict(TRANSFORMER, model="deit_small_patch16_224", drop_path=0.1, warmup=5 / 300, aug_repeats=3),
    "swin_tiny": dict(TRANSFORMER, model="swin_tiny_patch4_window7_224", drop_path=0.2, warmup=20 / 300, clip_norm=5.0),
    # Beyer et al. 2022 (https://arxiv.org/abs/2205.01580): a better plain ViT-S/16, in 90 epochs of 99 % of the images.
    "vit_small_big_vision": dict(
        IMAGENET, model="vit_small_patch16_224",
        model_fields=("class_token=False", "pool=avg", "position=sincos2d_moco", "representation_size=384",
                      "weight_init=jax"),
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), validation=0.01, epochs=90, batch_size=1024, optimizer="adamw",
        base_learning_rate=2.5e-4, weight_decay=0.1, clip_norm=1.0, warmup=10_000 / 111_477, policy="rand_augment",
        policy_table="big_vision", policy_magnitude=10.0, crop_scale=(0.05, 1.0), mixup=0.2),
}


if __name__ == "__main__":
    main("experiments.supervised", "experiments.wiring.supervised")
