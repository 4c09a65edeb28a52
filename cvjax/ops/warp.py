"""Warps regions of an image to one size, as input of R-CNN's network (Girshick et al. 2014, appendix A).

https://arxiv.org/abs/1311.2524: a region of any proportions is stretched to a square, with some context around it.
Pixels outside of the picture get the mean colour. Two gathers do it, rows first, then columns; there is no loop.
"""

import jax
import jax.numpy as jnp
from jax import lax


def warp_regions(image: jax.Array, boxes: jax.Array, size: int, *, context: float = 16,
                 extent: jax.Array | None = None) -> jax.Array:
    """Each region at `size` x `size` pixels, bilinear between pixel centres, `(H, W, C)` -> `(R, size, size, C)`.

    The region is widened about its centre until `context` pixels of the result on each side are around it. Results
    whose centres lie outside of the picture are 0, which is the mean of normalised images; inside, the picture's edge
    is repeated over its last half pixel. As in the authors' code, a region that shrinks is not smoothed. Boxes get
    no gradient. One image; `jax.vmap` for more.

    Args:
        image: float `(H, W, C)`.
        boxes: `(R, 4)` in pixels of the image, finite.
        size: side of the result, static.
        context: less than half of `size`.
        extent: `(2,)`, height and width of the part of the image that is a picture; None: all of it.

    Raises:
        ValueError: for other shapes, or if the context leaves no space for the region.
    """
    if image.ndim != 3 or boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise ValueError(f"image and boxes must be (H, W, C) and (R, 4), received {image.shape} and {boxes.shape}")
    if not 0 <= context < size / 2:
        raise ValueError(f"context must lie in [0, {size / 2}), half of size, received {context}")
    image, boxes = jnp.asarray(image), lax.stop_gradient(jnp.asarray(boxes, jnp.float32))
    limits = jnp.asarray(image.shape[:2] if extent is None else extent, jnp.float32)
    widened = size / (size - 2 * context)
    rows, columns = (_places(boxes[:, axis], boxes[:, axis + 2], widened, size, limits[1 - axis]) for axis in (1, 0))

    def mix(x: jax.Array, y: jax.Array, weight: jax.Array) -> jax.Array:
        return x + (y - x) * weight.astype(x.dtype)

    def one(rows: tuple[jax.Array, ...], columns: tuple[jax.Array, ...]) -> jax.Array:
        (top, bottom, down, seen), (left, right, across, shown) = rows, columns
        lines = mix(image[top], image[bottom], down[:, None, None])
        found = mix(lines[:, left], lines[:, right], across[:, None])
        return jnp.where((seen[:, None] & shown)[..., None], found, 0)

    return jax.vmap(one)(rows, columns)


def _places(low: jax.Array, high: jax.Array, widened: float, size: int, limit: jax.Array) -> tuple[jax.Array, ...]:
    """For `(R, size)` places along a side: the pixels before and after, the weight of the one after, and whether the
    place is in the picture."""
    side = (high - low) * widened
    start = (low + high - side) / 2
    centres = start[:, None] + (jnp.arange(size) + 0.5) * (side / size)[:, None]
    last = jnp.maximum(jnp.ceil(limit) - 1, 0)
    place = jnp.clip(centres - 0.5, 0, last)
    before = jnp.floor(place)
    return (before.astype(jnp.int32), jnp.minimum(before + 1, last).astype(jnp.int32), place - before,
            (centres >= 0) & (centres < limit))
