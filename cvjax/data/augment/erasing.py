"""Boxes of an image painted over."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cvjax.data.augment.chance import happens
from cvjax.data.augment.geometry import fitting_sides, random_offset


def cutout(key: jax.Array, image: jax.Array, size: int, value: float | Sequence[float] = 0.0,
           inside: bool = False) -> jax.Array:
    """Paints a square of side `size` with `value` (a number, or one for each channel).

    Its centre is uniform over the pixels, so that part of it may lie outside: DeVries and Taylor 2017
    (arXiv 1708.04552, section 3.2). They paint after normalisation, where 0 is the mean. An odd side is kept odd;
    their code makes it one smaller.

    inside: the square lies in the image, uniform over the places where it does (Jordan 2024, arXiv 2404.00498).
    """
    height, width = image.shape[:2]
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if inside and size > min(height, width):
        raise ValueError(f"size must be at most the image's {height}x{width} to lie inside, got {size}")
    if inside:
        top, left = jax.random.randint(key, (2,), 0, jnp.array([height, width]) - size + 1)
    else:
        top, left = jax.random.randint(key, (2,), 0, jnp.array([height, width])) - size // 2
    box = inside_box(height, width, top, left, size, size)
    return jnp.where(box, jnp.asarray(value).astype(image.dtype), image)


def random_erasing(
    key: jax.Array,
    image: jax.Array,
    probability: float = 0.5,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    mode: str = "const",
    value: float | Sequence[float] = 0.0,
) -> jax.Array:
    """Paints, with this probability, a box of random area and shape inside a normalised image, float `(H, W, C)`.

    Zhong 2017 (arXiv 1708.04896, algorithm 1), with timm's defaults; torchvision's are `scale=(0.02, 0.33)` and
    `ratio=(0.3, 3.3)`. As there, a box as high or as wide as the image is drawn again, at most ten times; then the
    image stays as it is. Here a box without a pixel is drawn again, too.

    Args:
        scale: least and greatest share of the image's area, uniform.
        ratio: least and greatest height / width, log-uniform.
        mode: "const" paints `value` (a number, or one for each channel); "pixel" draws each value from N(0, 1), as
            the recipes of DeiT and Swin do, and ignores `value`.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale must satisfy 0 < least <= greatest <= 1, got {scale}")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio must satisfy 0 < least <= greatest, got {ratio}")
    if mode not in ("const", "pixel"):
        raise ValueError(f"mode must be 'const' or 'pixel', got {mode!r}")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"random_erasing takes normalised float images, got {image.dtype}")
    choice_key, area_key, ratio_key, top_key, left_key, paint_key = jax.random.split(key, 6)
    height, width = image.shape[:2]
    upright = (1 / ratio[1], 1 / ratio[0])  # `fitting_sides` counts width / height
    h, w, found = fitting_sides(area_key, ratio_key, height, width, scale, upright, (height - 1, width - 1))
    box = inside_box(height, width, random_offset(top_key, height - h), random_offset(left_key, width - w), h, w)
    paint = jax.random.normal(paint_key, image.shape) if mode == "pixel" else jnp.asarray(value)
    return jnp.where(box & found & happens(choice_key, probability), paint.astype(image.dtype), image)


def inside_box(
    height: int, width: int, top: jax.Array, left: jax.Array, box_height: jax.Array | int, box_width: jax.Array | int
) -> jax.Array:
    """Bool `(height, width, 1)`: the pixels in a box, which may reach beyond the image."""
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    return (row >= top) & (row < top + box_height) & (column >= left) & (column < left + box_width)
