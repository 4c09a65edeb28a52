"""Augmentation on device, inside jit: pure functions of one image, the key first; `jax.vmap` for a batch.

Images are `(H, W, C)`, uint8 or float32, in [0, 255] until `normalize`; the type is kept unless something else is said.
Sizes, probabilities and ranges are Python numbers, fixed when the function is compiled; the parameters of one image's
change (a factor, a threshold, a matrix) may be traced. Only `mixing` works on whole batches.
"""

from cvjax.data.augment.chance import happens, random_apply
from cvjax.data.augment.colour import (
    autocontrast,
    brightness,
    contrast,
    equalize,
    exposure,
    grayscale,
    hue,
    invert,
    posterize,
    saturation,
    sharpness,
    solarize,
    solarize_add,
)
from cvjax.data.augment.erasing import cutout, random_erasing
from cvjax.data.augment.geometry import (
    affine,
    alternating_flip,
    random_box,
    random_flip,
    random_resized_crop,
    random_shift,
    rotation,
    shear,
    translation,
)
from cvjax.data.augment.jitter import (
    color_jitter,
    exposure_jitter,
    gaussian_blur,
    gaussian_noise,
    random_grayscale,
)
from cvjax.data.augment.mixing import cutmix, mixup, mixup_or_cutmix
from cvjax.data.augment.multi_crop import View, changed_crops, multi_crop, view
from cvjax.data.augment.pixels import denormalize, normalize
from cvjax.data.augment.policies import random_augment, trivial_augment_wide

__all__ = [
    "View",
    "affine",
    "alternating_flip",
    "autocontrast",
    "brightness",
    "changed_crops",
    "color_jitter",
    "contrast",
    "cutmix",
    "cutout",
    "denormalize",
    "equalize",
    "exposure",
    "exposure_jitter",
    "gaussian_blur",
    "gaussian_noise",
    "grayscale",
    "happens",
    "hue",
    "invert",
    "mixup",
    "mixup_or_cutmix",
    "multi_crop",
    "normalize",
    "posterize",
    "random_apply",
    "random_augment",
    "random_box",
    "random_erasing",
    "random_flip",
    "random_grayscale",
    "random_resized_crop",
    "random_shift",
    "rotation",
    "saturation",
    "sharpness",
    "shear",
    "solarize",
    "solarize_add",
    "translation",
    "trivial_augment_wide",
    "view",
]
