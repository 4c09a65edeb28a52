"""Positions of a grid of patches: the fixed 2-D sine-cosine form, resizing of learned ones, and rotary ones."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

# Who resizes learned positions in which way; see `resize_positions`.
PositionResize = Literal["timm", "deit", "dino", "torchvision"]


def _sincos_1d(dim: int, positions: np.ndarray, moco: bool) -> np.ndarray:
    """Sines then cosines at `dim / 2` geometric frequencies (Vaswani et al. 2017, sec. 3.5): (N,) -> (N, dim)."""
    count = dim // 2
    frequencies = 10000.0 ** (-np.arange(count, dtype=np.float64) / (max(count - 1, 1) if moco else count))
    angles = positions.reshape(-1, 1) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(dim: int, grid: tuple[int, int], *, trained_grid: tuple[int, int] | None = None,
              moco: bool = False) -> np.ndarray:
    """Fixed position embedding float32 `(rows * columns, dim)` as in MAE: half the channels for x, half for y.

    The first half encodes the column and the second half the row, the order of the published MAE weights.
    trained_grid: the grid a model was trained on. Another `grid` then samples the same field of view, patch centre
    by patch centre, instead of running off into positions never seen.
    moco: the lowest frequency is 1 / 10000 itself, as in MoCo v3 (Chen et al. 2021, https://arxiv.org/abs/2104.02057)
    and big_vision; in MAE it lies one step above.
    Raises ValueError unless `dim` is a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that is a multiple of 4, got {dim}")

    def axis_positions(size: int, trained: int) -> np.ndarray:
        return (np.arange(size, dtype=np.float64) + 0.5) * (trained / size) - 0.5

    rows, columns = (axis_positions(s, t) for s, t in zip(grid, trained_grid or grid, strict=True))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    embedding = np.concatenate([_sincos_1d(dim // 2, x, moco), _sincos_1d(dim // 2, y, moco)], axis=1)
    return embedding.astype(np.float32)


def _bicubic(size: int, trained: int, how: PositionResize) -> np.ndarray:
    """The matrix float32 `(size, trained)` of torch's bicubic interpolation (a = -0.75) along one axis.

    Places outside of the trained positions count as those at the edge.
    """
    places = np.arange(size)
    if how == "torchvision":  # the corners lie on each other
        sources = places * (trained - 1) / max(size - 1, 1)
    else:
        # DINO's authors ask for a factor that is a little too large, to be safe from rounding, and torch uses it.
        sources = (places + 0.5) * trained / (size + 0.1 if how == "dino" else size) - 0.5
    first, a = np.floor(sources).astype(int), -0.75
    matrix = np.zeros((size, trained))
    for tap in (-1, 0, 1, 2):
        x = np.abs(sources - first - tap)  # Keys 1981, eq. 15 with a free a
        weights = np.where(x < 1, ((a + 2) * x - (a + 3)) * x**2 + 1, (((x - 5) * x + 8) * x - 4) * a)
        np.add.at(matrix, (places, np.clip(first + tap, 0, trained - 1)), weights)
    return matrix.astype(np.float32)


def resize_positions(embedding: jax.Array, trained_grid: tuple[int, int], grid: tuple[int, int],
                     how: PositionResize = "timm") -> jax.Array:
    """Resize learned positions `(rows * columns, D)` to another grid, in the way that a publisher's code does.

    how: all are bicubic. "timm": antialiased, a = -0.5 (`resample_abs_pos_embed`). "deit": torch's without antialias,
        a = -0.75, as DeiT and MAE are fine-tuned. "dino": the same, but the n-th of the places is read as if the new
        grid had 0.1 places more (`interpolate_pos_encoding`). "torchvision": as "deit" with the corners' centres on
        each other (`interpolate_embeddings`).
    """
    if tuple(trained_grid) == tuple(grid):
        return embedding
    dim = embedding.shape[-1]
    field = embedding.reshape(*trained_grid, dim).astype(jnp.float32)
    if how == "timm":
        resized = jax.image.resize(field, (*grid, dim), method="bicubic", antialias=True)
    else:
        rows, columns = (_bicubic(new, old, how) for new, old in zip(grid, trained_grid, strict=True))
        resized = jnp.einsum("ra,cb,abd->rcd", rows, columns, field, precision=jax.lax.Precision.HIGHEST)
    return resized.reshape(-1, dim).astype(embedding.dtype)


def rotary_angles(dim: int, grid: tuple[int, int], temperature: float = 100.0) -> np.ndarray:
    """Angles float32 `(rows * columns, dim / 2)` for `rotate`, as DINOv3 has them (Siméoni et al. 2025, sec. 3.2).

    A patch lies where its centre is in the image, whose edges are at -1 and 1: another grid sees the same field. Half
    of the angles are for the row and half for the column, at `dim / 4` frequencies each: the shortest period is 1, and
    the geometric row would reach `temperature` at the next one.
    Raises ValueError unless `dim` is a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"rotary positions need a width of each head that is a multiple of 4, got {dim}")
    periods = temperature ** (np.arange(dim // 4) / (dim // 4))
    rows, columns = ((2 * np.arange(size) + 1) / size - 1 for size in grid)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)  # (rows, columns, 2)
    return (2 * np.pi * places[..., None] / periods).reshape(-1, dim // 2).astype(np.float32)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Queries or keys `(B, T, heads, D)`, turned by angles `(B or 1, T, D / 2)` (RoPE, Su et al. 2021,
    https://arxiv.org/abs/2104.09864, sec. 3.2).

    Channels i and i + D / 2 are the two coordinates of a point. The inner product of a query and a key then depends on
    the difference of their angles. It is computed in float32 at least; an angle of 0 changes nothing.
    """
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
