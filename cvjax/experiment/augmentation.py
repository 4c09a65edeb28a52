"""What training images go through, chosen on the command line: operations of `cvjax.data.augment` on the device."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from cvjax.experiment.config import TrainingConfig, require

Operation = Callable[[Any, Any], Any]  # (key, image) -> image


@dataclasses.dataclass(frozen=True)
class ColourConfig(TrainingConfig):
    """Changes of colours, which leave every pixel where it is."""

    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strengths of random brightness, contrast, saturation and hue."""
    grayscale: float = 0.0
    """Share of the training images that lose their colours."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on training images, in grey levels of 255."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.grayscale <= 1, "grayscale", self.grayscale, "in [0, 1]")
        require(self.noise >= 0, "noise", self.noise, "0 or more")
        require(min(self.color_jitter) >= 0 and self.color_jitter[3] <= 0.5, "color_jitter", self.color_jitter,
                "four numbers from 0 on, the last at most 0.5")


@dataclasses.dataclass(frozen=True)
class AugmentationConfig(ColourConfig):
    """Regularisation by what happens to images and targets."""

    alternating_flip: bool = False
    """Mirror each training image in every other epoch, and not by chance."""
    aug_repeats: int = 1
    """Repeated augmentation: so many copies of each image in a row, augmented one by one. An epoch sees as many images
    as without it, counted with their copies."""
    shift: int = 0
    """Move training images by up to this many pixels each way."""
    shift_padding: Literal["constant", "reflect"] = "constant"
    """What comes in at the border of an image that is moved: zeros, or its reflection."""
    policy: Literal["none", "rand_augment", "trivial_augment"] = "none"
    """Random operations on colours and geometry: RandAugment or TrivialAugment."""
    policy_ops: int = 2
    """RandAugment: operations in a row. The next four are its, too."""
    policy_magnitude: float = 9.0
    policy_magnitude_std: float = 0.0
    policy_probability: float = 1.0
    policy_table: Literal["torchvision", "timm"] = "torchvision"
    erasing: float = 0.0
    """Share of the training images with a random box erased."""
    erasing_mode: Literal["const", "pixel"] = "const"
    """Erase to the mean, or to noise."""
    cutout: int = 0
    """Side in pixels of a square that is cut out of each training image."""
    cutout_inside: bool = False
    """Keep that square inside of the image, where else only its middle is."""
    mixup: float = 0.0
    """Mixup's alpha; 0 for none. With CutMix as well, each batch gets one of both."""
    cutmix: float = 0.0
    """CutMix's alpha; 0 for none."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    criterion: Literal["softmax", "bce"] = "softmax"
    """Cross-entropy over the softmax, or binary cross-entropy of each class by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shift", "cutout", "mixup", "cutmix", "policy_magnitude_std"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("erasing", "policy_probability"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        greatest = 10 if self.policy_table == "timm" else 30
        require(0 <= self.policy_magnitude <= greatest, "policy_magnitude", self.policy_magnitude,
                f"in [0, {greatest}] with --policy-table {self.policy_table}")
        for name in ("policy_ops", "aug_repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.flip or not self.alternating_flip, "alternating_flip", self.alternating_flip,
                "False with --no-flip")
        require(self.shift or self.shift_padding == "constant", "shift_padding", self.shift_padding,
                "constant without --shift")
        require(self.cutout or not self.cutout_inside, "cutout_inside", self.cutout_inside, "False without --cutout")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")


def pixel_operations(config: AugmentationConfig, mean: Any) -> tuple[Operation, ...]:
    """What happens to a cropped and flipped image in [0, 255]; `mean`: of the normalisation, shown outside of warps."""
    from cvjax.data import augment

    operations: list[Operation] = []
    if config.shift:
        operations.append(partial(augment.random_shift, pixels=config.shift, mode=config.shift_padding))
    fill = tuple(255 * m for m in mean)
    if config.policy == "rand_augment":
        operations.append(partial(
            augment.random_augment, num_ops=config.policy_ops, magnitude=config.policy_magnitude,
            table=config.policy_table, magnitude_std=config.policy_magnitude_std,
            probability=config.policy_probability, interpolation="bilinear", fill=fill))
    elif config.policy == "trivial_augment":
        operations.append(partial(augment.trivial_augment_wide, interpolation="bilinear", fill=fill))
    return (*operations, *colour_operations(config))


def colour_operations(config: ColourConfig) -> tuple[Operation, ...]:
    """What happens to the colours of an image in [0, 255]."""
    from cvjax.data import augment

    operations: list[Operation] = []
    if any(config.color_jitter):
        strengths = dict(zip(("brightness", "contrast", "saturation", "hue"), config.color_jitter))
        operations.append(partial(augment.color_jitter, **strengths))
    if config.grayscale:
        operations.append(partial(augment.random_grayscale, probability=config.grayscale))
    if config.noise:
        operations.append(partial(augment.gaussian_noise, std=config.noise))
    return tuple(operations)


def normalized_operations(config: AugmentationConfig) -> tuple[Operation, ...]:
    """What happens to an image once it is normalised, where 0 is the mean."""
    from cvjax.data import augment

    operations: list[Operation] = []
    if config.erasing:
        operations.append(partial(augment.random_erasing, probability=config.erasing, mode=config.erasing_mode))
    if config.cutout:
        operations.append(partial(augment.cutout, size=config.cutout, inside=config.cutout_inside))
    return tuple(operations)


def mixing(config: AugmentationConfig) -> Callable[[Any, Any, Any], Any] | None:
    """Mixup, CutMix or either by turns, of a batch's images and targets; None for none."""
    from cvjax.data import augment

    if not (config.mixup or config.cutmix):
        return None
    return partial(augment.mixup_or_cutmix, mixup_alpha=config.mixup, cutmix_alpha=config.cutmix)


def criterion(config: AugmentationConfig) -> Callable[[Any, Any], Any]:
    """The loss of logits and targets `(B, K)`, one number per example."""
    from cvjax.losses.classification import binary_cross_entropy, softmax_cross_entropy

    return {"softmax": softmax_cross_entropy, "bce": binary_cross_entropy}[config.criterion]
