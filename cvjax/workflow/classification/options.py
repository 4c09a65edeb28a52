"""Options of training images (colours, geometry, mixing, and the loss that goes with them), and of LoRA."""

import dataclasses
from typing import Literal

from cvjax.workflow.config import TrainingConfig, require


def check_color_jitter(strengths: tuple[float, float, float, float]) -> None:
    """ConfigError unless these can be strengths of brightness, contrast, saturation and hue."""
    require(min(strengths) >= 0 and strengths[3] <= 0.5, "color_jitter", strengths,
            "four numbers of 0 or more, the last at most 0.5")


@dataclasses.dataclass(frozen=True)
class ColourConfig(TrainingConfig):
    """Changes of colours; every pixel stays where it is."""

    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strengths of random brightness, contrast, saturation and hue."""
    exposure_jitter: tuple[float, float] = (1.0, 1.0)
    """Greatest factors by which saturation and value of HSV are multiplied or divided, as Darknet does; 1 for none."""
    grayscale: float = 0.0
    """Share of the training images that lose their colours."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on training images, in grey levels of 255."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(min(self.exposure_jitter) >= 1, "exposure_jitter", self.exposure_jitter, "two numbers of at least 1")
        require(0 <= self.grayscale <= 1, "grayscale", self.grayscale, "in [0, 1]")
        require(self.noise >= 0, "noise", self.noise, "0 or more")
        check_color_jitter(self.color_jitter)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig(ColourConfig):
    """Regularisation by changes of images and targets."""

    short_side: tuple[int, int] | None = None
    """LEAST GREATEST: the shorter side of a training image becomes a random length between these two, and a square at a
    random place is cut out, as in AlexNet, VGG and ResNet; instead of --crop-scale. For images in files."""
    alternating_flip: bool = False
    """Mirror each training image in every other epoch, not at random."""
    aug_repeats: int = 1
    """Repeated augmentation: this many copies of each image in a row, each augmented by itself. An epoch does not grow:
    it counts every copy as an image."""
    shift: int = 0
    """Move training images by up to this many pixels each way."""
    shift_padding: Literal["constant", "reflect"] = "constant"
    """Fill the border of a moved image with zeros, or with the image's reflection."""
    policy: Literal["none", "rand_augment", "trivial_augment"] = "none"
    """Random operations on colours and geometry: RandAugment or TrivialAugment."""
    policy_ops: int = 2
    """RandAugment: number of operations in a row. The next four options belong to RandAugment, too."""
    policy_magnitude: float = 9.0
    policy_magnitude_std: float = 0.0
    policy_probability: float = 1.0
    policy_table: Literal["torchvision", "timm", "big_vision"] = "torchvision"
    erasing: float = 0.0
    """Share of the training images with a random box erased."""
    erasing_mode: Literal["const", "pixel"] = "const"
    """Erase to the mean, or to noise."""
    cutout: int = 0
    """Side in pixels of a square that is cut out of each training image."""
    cutout_inside: bool = False
    """Keep the whole square inside the image; otherwise only its middle must be inside."""
    mixup: float = 0.0
    """Mixup's alpha; 0 for none. With CutMix as well, each batch gets one of the two."""
    cutmix: float = 0.0
    """CutMix's alpha; 0 for none."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes; for data with one class per image."""
    criterion: Literal["softmax", "bce", "l1", "l2"] | None = None
    """softmax: cross-entropy of classes, their default. bce: binary cross-entropy of each class by itself, the default
    for images with several labels. l2, l1: squared (the default) or absolute error of numbers to predict."""
    bce_threshold: float | None = None
    """With bce, a target above this counts as 1 and any other as 0; by default targets stay as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shift", "cutout", "mixup", "cutmix", "policy_magnitude_std"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("erasing", "policy_probability"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        greatest = 30 if self.policy_table == "torchvision" else 10
        require(0 <= self.policy_magnitude <= greatest, "policy_magnitude", self.policy_magnitude,
                f"in [0, {greatest}] with --policy-table {self.policy_table}")
        low, high = self.short_side or (1, 1)
        require(1 <= low <= high, "short_side", self.short_side, "LEAST GREATEST with 1 <= LEAST <= GREATEST")
        for name in ("policy_ops", "aug_repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.flip or not self.alternating_flip, "alternating_flip", self.alternating_flip,
                "False with --no-flip")
        require(self.shift > 0 or self.shift_padding == "constant", "shift_padding", self.shift_padding,
                "constant without --shift")
        require(self.cutout > 0 or not self.cutout_inside, "cutout_inside", self.cutout_inside,
                "False without --cutout")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        require(self.bce_threshold is None or self.criterion == "bce", "bce_threshold", self.bce_threshold,
                "left out without --criterion bce")
        require(self.bce_threshold is None or 0 < self.bce_threshold < 1, "bce_threshold", self.bce_threshold,
                "in (0, 1)")


@dataclasses.dataclass(frozen=True)
class LoraConfig(AugmentationConfig):
    """Low-rank updates of a pre-trained network."""

    lora: int | None = None
    """LoRA: the attention's kernels learn an update of this rank, the head and what the weights lack learn whole, and
    all else stands still. It takes a higher learning rate than all parameters do."""
    lora_alpha: float | None = None
    """LoRA's updates are multiplied by this over the rank; by default it is the rank. To compare ranks, give all the
    same."""
    lora_layers: Literal["attention", "all"] = "attention"
    """attention: LoRA updates the kernels qkv and proj. all: also those of the MLPs, fc1 and fc2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lora is None or self.lora >= 1, "lora", self.lora, "at least 1, or left out")
        require(self.lora_alpha is None or self.lora is not None, "lora_alpha", self.lora_alpha,
                "left out without --lora")
        require(self.lora_alpha is None or self.lora_alpha > 0, "lora_alpha", self.lora_alpha, "more than 0")
        require(self.lora_layers == "attention" or self.lora is not None, "lora_layers", self.lora_layers,
                "attention without --lora")
