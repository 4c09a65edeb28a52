"""Colour operations without randomness, by the arithmetic of Pillow (`ImageOps`, `ImageEnhance`) and torchvision.

Each maps an image `(H, W, C)` with 1 or 3 channels in [0, 255] to one of the same shape and type, may be applied
to uint8 or float32, and takes its factor as a Python number or a traced scalar. On uint8 the results are Pillow's,
rounded where Pillow rounds; on float32 nothing is rounded unless the operation is about levels (`posterize`,
`equalize`). On one channel `saturation`, `hue` and `grayscale` have nothing to do and return the image.
"""

import jax
import jax.numpy as jnp

from cvjax.data.augment.pixels import as_image, blend, is_grey


def grayscale(image: jax.Array) -> jax.Array:
    """The luma of ITU-R 601, `0.299 R + 0.587 G + 0.114 B`, in each of the channels."""
    return image if is_grey(image) else jnp.broadcast_to(_luma(image).astype(image.dtype), image.shape)


def brightness(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """0 gives black, 1 the image, 2 twice its values (`ImageEnhance.Brightness`)."""
    return as_image(blend(0, image, factor), image.dtype)


def contrast(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """0 gives the mean luma everywhere, 1 the image (`ImageEnhance.Contrast`)."""
    luma = image if is_grey(image) else _luma(image)
    if image.dtype == jnp.uint8:
        # Pillow rounds this mean to a whole level; a sum of integers does it exactly up to 8 million pixels.
        mean = (luma.astype(jnp.int32).sum() + luma.size // 2) // luma.size
    else:
        mean = luma.mean()
    return as_image(blend(mean, image, factor), image.dtype)


def saturation(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """0 gives the grey image, 1 the image (`ImageEnhance.Color`)."""
    return as_image(blend(grayscale(image), image, factor), image.dtype)


def sharpness(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """0 gives a smoothed image, 1 the image, 2 a sharpened one (`ImageEnhance.Sharpness`); the border stays.

    Smooth is a mean over 3 x 3 pixels in which the middle counts five times.
    """
    values = image.astype(jnp.int32) if image.dtype == jnp.uint8 else image
    rows = values[:-2] + values[1:-1] + values[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * values[1:-1, 1:-1]
    smooth = (total + 6) // 13 if image.dtype == jnp.uint8 else total / 13
    smoothed = image.at[1:-1, 1:-1].set(smooth.astype(image.dtype))
    return as_image(blend(smoothed, image, factor), image.dtype)


def hue(image: jax.Array, shift: float | jax.Array) -> jax.Array:
    """Turns the hue of HSV by `shift` circles, in [-0.5, 0.5]; saturation and value stay.

    As torchvision's `adjust_hue` on tensors, but rounded to the nearest level. On Pillow images torchvision keeps
    hue and saturation in 8 bits, and its results are a few levels off.
    """
    if is_grey(image):
        return image
    values = image.astype(jnp.float32)
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    value = values.max(-1)
    chroma = value - values.min(-1)
    divisor = jnp.where(chroma == 0, 1, chroma)
    sextant = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # Around the circle a channel falls from its value by the chroma, and rises again, along a trapezium.
    place = (sextant[..., None] + 6 * shift + jnp.array([5.0, 3.0, 1.0])) % 6
    turned = value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    return as_image(turned, image.dtype, jnp.round)


def exposure(image: jax.Array, saturation: float | jax.Array, value: float | jax.Array) -> jax.Array:
    """Saturation and value of HSV times a factor each; then clipped, as Darknet's `distort_image` does it.

    With hue h, saturation s and value v a channel is v (1 - s t), where t depends on h alone. So nothing is converted:
    it becomes `value * (v + saturation * (channel - v))`. What falls below 0 or goes beyond 255 is clipped. On uint8
    results are rounded to the nearest level.
    """
    is_grey(image)  # ValueError for other channels
    pixels = image.astype(jnp.float32)
    largest = pixels.max(-1, keepdims=True)
    return as_image(value * (largest + saturation * (pixels - largest)), image.dtype, jnp.round)


def invert(image: jax.Array) -> jax.Array:
    """`255 - image`."""
    return 255 - image


def solarize(image: jax.Array, threshold: float | jax.Array = 128) -> jax.Array:
    """Inverts the values from `threshold` on."""
    return jnp.where(image >= jnp.asarray(threshold, jnp.float32), invert(image), image)


def solarize_add(image: jax.Array, amount: float | jax.Array, threshold: float | jax.Array = 128) -> jax.Array:
    """Adds `amount` to the values below `threshold`: AutoAugment's operation of TensorFlow and timm."""
    added = as_image(image.astype(jnp.float32) + amount, image.dtype)
    return jnp.where(image < jnp.asarray(threshold, jnp.float32), added, image)


def posterize(image: jax.Array, bits: int | jax.Array) -> jax.Array:
    """Keeps the `bits` highest of 8 bits, 0 (black) to 8; fractions of floats are dropped as well."""
    step = jnp.left_shift(1, 8 - jnp.asarray(bits, jnp.int32))
    return (image.astype(jnp.int32) & -step).astype(image.dtype)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to [0, 255]; a channel of one value stays (`ImageOps.autocontrast`, no cut-off)."""
    low, high = image.min((0, 1)), image.max((0, 1))
    if image.dtype == jnp.uint8:
        span = (high - low).astype(jnp.int32)
        stretched = (image - low).astype(jnp.int32) * 255 // jnp.maximum(span, 1)
    else:
        span = high - low
        stretched = (image - low) * 255 / jnp.where(span > 0, span, 1)
    return jnp.where(span > 0, as_image(stretched, image.dtype), image)


def equalize(image: jax.Array) -> jax.Array:
    """Makes each channel's histogram as flat as a map of its 256 levels can (`ImageOps.equalize`).

    Values of floats count as the level below them, and come out whole.
    """
    levels = image.astype(jnp.int32)

    def table(channel):
        counts = jnp.bincount(channel.reshape(-1), length=256)
        step = (channel.size - counts[channel.max()]) // 255
        below = jnp.cumsum(counts) - counts
        mapped = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, mapped, jnp.arange(256))

    tables = jax.vmap(table, -1)(levels)
    return jax.vmap(lambda row, channel: row[channel], (0, -1), -1)(tables, levels).astype(image.dtype)


def _luma(image):
    """`(H, W, 1)`, rounded for uint8 by the 16-bit weights that Pillow uses."""
    if image.dtype == jnp.uint8:
        return (image.astype(jnp.int32) @ jnp.array([19595, 38470, 7471]) + 32768)[..., None] >> 16
    return (image * jnp.array([0.299, 0.587, 0.114], image.dtype)).sum(-1, keepdims=True)
