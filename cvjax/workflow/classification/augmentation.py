"""The augmentation that a configuration asks for: operations of `cvjax.data.augment`, which run on the device."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from cvjax.data import augment
from cvjax.data.crops import RandomSquareCrop
from cvjax.errors import ConfigError
from cvjax.losses.classification import binary_cross_entropy, softmax_cross_entropy
from cvjax.workflow.augmentation import Augmentation
from cvjax.workflow.classification.options import AugmentationConfig, ColourConfig
from cvjax.workflow.colours import check_colours
from cvjax.workflow.image_inputs import ImageInputs

Operation = Callable[[Any, Any], Any]  # (key, image) -> image


def augmented(config: AugmentationConfig, inputs: ImageInputs) -> ImageInputs:
    """The inputs with training images changed as asked; ConfigError for crops that they cannot have."""
    changes = Augmentation(config.crop_scale, config.flip, config.alternating_flip,
                           pixel_operations(config, inputs.preprocessing.mean), normalized_operations(config))
    check_colours(config, inputs.dataset.channels, {"color_jitter": (0.0,) * 4, "exposure_jitter": (1.0, 1.0),
                                                    "grayscale": 0.0, "policy": "none"})
    inputs, sides = dataclasses.replace(inputs, augmentation=changes), config.short_side
    if sides is None:
        return inputs
    size = inputs.crop_size
    if inputs.dataset.in_memory:
        raise ConfigError(f"--short-side {sides[0]} {sides[1]}: the images of --data {config.data} are in memory, "
                          "where crops follow --crop-scale; leave it out")
    if sides[0] < size:
        raise ConfigError(f"--short-side {sides[0]} {sides[1]}: both must be at least {size}, the side of the crops")
    return dataclasses.replace(inputs, reader=RandomSquareCrop(size, sides, channels=inputs.dataset.channels))


def pixel_operations(config: AugmentationConfig, mean: Any) -> tuple[Operation, ...]:
    """Operations on a cropped and flipped image in [0, 255]. mean: the normalisation's, which fills gaps of warps."""
    operations: list[Operation] = []
    if config.shift:
        operations.append(partial(augment.random_shift, pixels=config.shift, mode=config.shift_padding))
    fill = tuple(255 * m for m in mean)
    if config.policy == "rand_augment":
        theirs = config.policy_table == "big_vision"  # TensorFlow's warps
        operations.append(partial(
            augment.random_augment, num_ops=config.policy_ops, magnitude=config.policy_magnitude,
            table=config.policy_table, magnitude_std=config.policy_magnitude_std,
            probability=config.policy_probability, interpolation="nearest" if theirs else "bilinear",
            fill=128.0 if theirs else fill))
    elif config.policy == "trivial_augment":
        operations.append(partial(augment.trivial_augment_wide, interpolation="bilinear", fill=fill))
    return (*operations, *colour_operations(config))


def colour_operations(config: ColourConfig) -> tuple[Operation, ...]:
    """Operations on the colours of an image in [0, 255]."""
    operations: list[Operation] = []
    if any(config.color_jitter):
        strengths = dict(zip(("brightness", "contrast", "saturation", "hue"), config.color_jitter))
        operations.append(partial(augment.color_jitter, **strengths))
    if config.exposure_jitter != (1.0, 1.0):
        saturation, value = config.exposure_jitter
        operations.append(partial(augment.exposure_jitter, saturation=saturation, value=value))
    if config.grayscale:
        operations.append(partial(augment.random_grayscale, probability=config.grayscale))
    if config.noise:
        operations.append(partial(augment.gaussian_noise, std=config.noise))
    return tuple(operations)


def normalized_operations(config: AugmentationConfig) -> tuple[Operation, ...]:
    """Operations on a normalised image, in which 0 is the mean."""
    operations: list[Operation] = []
    if config.erasing:
        operations.append(partial(augment.random_erasing, probability=config.erasing, mode=config.erasing_mode))
    if config.cutout:
        operations.append(partial(augment.cutout, size=config.cutout, inside=config.cutout_inside))
    return tuple(operations)


def mixing(config: AugmentationConfig) -> Callable[[Any, Any, Any], Any] | None:
    """Mixup, CutMix, or one of the two at random, of a batch's images and targets; None for neither."""
    if not (config.mixup or config.cutmix):
        return None
    return partial(augment.mixup_or_cutmix, mixup_alpha=config.mixup, cutmix_alpha=config.cutmix)


def criterion(config: AugmentationConfig) -> Callable[[Any, Any], Any]:
    """The loss of logits and targets `(B, K)`, one number per example, where these are classes."""
    if config.criterion == "bce":
        return partial(binary_cross_entropy, threshold=config.bce_threshold)
    return softmax_cross_entropy
