"""Random changes of colour and sharpness."""

import math
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp

from cvjax.data.augment import colour
from cvjax.data.augment.chance import happens
from cvjax.data.augment.pixels import as_image


def color_jitter(
    key: jax.Array,
    image: jax.Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Brightness, contrast, saturation and hue, changed in random order, by torchvision's `ColorJitter`.

    The first three strengths s give factors uniform in [max(0, 1 - s), 1 + s], `hue` a shift uniform in
    [-hue, hue], at most 0.5. A strength of 0 leaves its operation out. Under `vmap`, n operations cost n x n, because
    each place of the order computes all of them.
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, strength in strengths.items():
        if not 0 <= strength <= (0.5 if name == "hue" else math.inf):
            raise ValueError(f"{name} must be {'in [0, 0.5]' if name == 'hue' else 'at least 0'}, got {strength}")
    order_key, *factor_keys = jax.random.split(key, 5)
    operations = []
    for factor_key, (name, strength) in zip(factor_keys, strengths.items()):
        low, high = (-strength, strength) if name == "hue" else (max(0, 1 - strength), 1 + strength)
        factor = jax.random.uniform(factor_key, minval=low, maxval=high)
        if strength > 0:
            operations.append(partial(_with_factor, getattr(colour, name), factor))
    if not operations:
        return image
    order = jax.random.permutation(order_key, len(operations))
    return jax.lax.fori_loop(
        0, len(operations), lambda place, image: jax.lax.switch(order[place], operations, image), image
    )


def exposure_jitter(key: jax.Array, image: jax.Array, saturation: float = 1.0, value: float = 1.0) -> jax.Array:
    """Saturation and value of HSV, each times its own random factor, as Darknet's `random_distort_image`.

    saturation, value: s of 1 or more, 1 for no change. The factor is uniform in [1, s], and in one half of the cases
    its inverse is taken, so that pictures get darker as often as brighter.
    """
    factors = []
    for each, (name, most) in zip(jax.random.split(key), (("saturation", saturation), ("value", value))):
        if most < 1:
            raise ValueError(f"{name} must be at least 1, got {most}")
        choice_key, factor_key = jax.random.split(each)
        factor = jax.random.uniform(factor_key, minval=1.0, maxval=most)
        factors.append(jnp.where(happens(choice_key, 0.5), factor, 1 / factor))
    return colour.exposure(image, *factors)


def random_grayscale(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """The grey image with this probability, in as many channels as before."""
    return jnp.where(happens(key, probability), colour.grayscale(image), image)


def gaussian_blur(key: jax.Array, image: jax.Array, sigma: tuple[float, float] = (0.1, 2.0)) -> jax.Array:
    """A Gaussian blur of standard deviation uniform in `sigma`, in pixels; the border's pixels are repeated outwards.

    SimCLR (arXiv 2002.05709, appendix A) and, with this range, DINO. The kernel reaches four times the largest
    deviation, so there is no size to choose. torchvision cuts the kernel at a size given in pixels and mirrors the
    border; Pillow (as in DINO) approximates it by three box filters.
    """
    low, high = sigma
    if not 0 < low <= high:
        raise ValueError(f"sigma must satisfy 0 < least <= greatest, got {sigma}")
    radius = math.ceil(4 * high)
    deviation = jax.random.uniform(key, minval=low, maxval=high)
    weights = jax.nn.softmax(-0.5 * (jnp.arange(-radius, radius + 1) / deviation) ** 2)
    blurred = image.astype(jnp.float32)
    for axis in (0, 1):
        padding = [(radius, radius) if axis == other else (0, 0) for other in range(3)]
        padded = jnp.pad(blurred, padding, mode="edge")
        # Shifted sums rather than a convolution, which `vmap` over kernels turns into a slow grouped one.
        shifted = (weight * jax.lax.slice_in_dim(padded, offset, offset + image.shape[axis], axis=axis)
                   for offset, weight in enumerate(weights))
        blurred = cast(jax.Array, sum(shifted))  # `sum` of nothing would be an int
    return as_image(blurred, image.dtype, jnp.round)


def gaussian_noise(key: jax.Array, image: jax.Array, std: float) -> jax.Array:
    """Adds normal noise of standard deviation `std`, in levels of [0, 255], to each value; then clips."""
    if std < 0:
        raise ValueError(f"std must be at least 0, got {std}")
    return as_image(image + std * jax.random.normal(key, image.shape), image.dtype, jnp.round)


def _with_factor(operation, factor, image):
    return operation(image, factor)
