"""Maxima of a feature map over many windows of any size: a bin of RoI pooling, or of a spatial pyramid.

All windows whose sides are powers of two are reduced once, each from two of half the size, and a window of h x w is
covered by four of them, which overlap. So a window of any size reads only four rows of channels (a sparse table,
Bender and Farach-Colton 2000, in two dimensions). Every step, also of the gradient, handles a whole row of
channels. The tables hold the map floor(log2(H) + 1) * floor(log2(W) + 1) times: 36 times for 38 x 50.
"""

import jax
import jax.numpy as jnp
from jax import lax


def window_maxima(features: jax.Array, top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array
                  ) -> jax.Array:
    """The largest value of each channel in rows [top, bottom) and columns [left, right).

    A window without a pixel has 0 and no gradient. nan wins. The gradient of a maximum goes to one of the pixels that
    have it.

    Args:
        features: `(H, W, C)`.
        top, bottom, left, right: int32 `(...)` that broadcast, in [0, H] and [0, W].

    Returns:
        `(..., C)`.
    """
    height, width, channels = features.shape
    # Windows overlap, so the table sums up gradients. It is float32 for that.
    table = _tables(features).reshape(-1, channels).astype(jnp.promote_types(features.dtype, jnp.float32))
    rows, columns = jnp.maximum(bottom - top, 1), jnp.maximum(right - left, 1)
    vertical, horizontal = _floor_log2(rows), _floor_log2(columns)
    first = (vertical * _levels(width) + horizontal) * height  # where the table has the maxima of this size
    # An empty window reads some pixel; the result is replaced by 0 below.
    ys = [jnp.minimum(top, height - 1), jnp.maximum(bottom - (1 << vertical), 0)]
    xs = [jnp.minimum(left, width - 1), jnp.maximum(right - (1 << horizontal), 0)]
    corners = [table.at[(first + y) * width + x].get(mode="promise_in_bounds") for y in ys for x in xs]
    largest = _larger(_larger(*corners[:2]), _larger(*corners[2:]))
    return jnp.where(((bottom > top) & (right > left))[..., None], largest, 0).astype(features.dtype)


def _levels(length: int) -> int:
    return length.bit_length()


def _floor_log2(x: jax.Array) -> jax.Array:
    return 31 - lax.clz(x.astype(jnp.int32))


def _tables(features: jax.Array) -> jax.Array:
    """`(levels of H, levels of W, H, W, C)`: entry [a, b, y, x] is the maximum over 2**a x 2**b pixels from (y, x)."""
    wide = _doubled(features, 1)
    return jnp.stack([jnp.stack(column) for column in zip(*(_doubled(x, 0) for x in wide))])


def _doubled(x: jax.Array, axis: int) -> list[jax.Array]:
    """Maxima over 1, 2, 4, ... neighbours from each pixel on, as far as there are any."""
    tables = [x]
    for level in range(_levels(x.shape[axis]) - 1):
        step = 1 << level
        rest = lax.slice_in_dim(tables[-1], step, None, axis=axis)
        widths = [(0, step if i == axis else 0) for i in range(x.ndim)]
        tables.append(_larger(tables[-1], jnp.pad(rest, widths, constant_values=-jnp.inf)))
    return tables


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """The first of equals gets the gradient, as in max_pool."""
    return jnp.where((b > a) | jnp.isnan(b), b, a)
