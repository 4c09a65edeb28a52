"""Position embeddings of a grid of patches: the fixed 2-D sine-cosine form, and resizing of learned ones."""

import jax
import jax.numpy as jnp
import numpy as np


def _sincos_1d(dim: int, positions: np.ndarray) -> np.ndarray:
    """Sines then cosines at `dim / 2` geometric frequencies (Vaswani et al. 2017, sec. 3.5): (N,) -> (N, dim)."""
    frequencies = 10000.0 ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = positions.reshape(-1, 1) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(dim: int, grid: tuple[int, int], *, trained_grid: tuple[int, int] | None = None) -> np.ndarray:
    """Fixed position embedding float32 `(rows * columns, dim)` as in MAE: half the channels for x, half for y.

    The first half encodes the column and the second half the row, the order of the published MAE weights.
    trained_grid: the grid a model was trained on. Another `grid` then samples the same field of view, patch centre
    by patch centre, instead of running off into positions never seen.
    Raises ValueError unless `dim` is a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that is a multiple of 4, got {dim}")

    def axis_positions(size: int, trained: int) -> np.ndarray:
        return (np.arange(size, dtype=np.float64) + 0.5) * (trained / size) - 0.5

    rows, columns = (axis_positions(s, t) for s, t in zip(grid, trained_grid or grid, strict=True))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    embedding = np.concatenate([_sincos_1d(dim // 2, x), _sincos_1d(dim // 2, y)], axis=1)
    return embedding.astype(np.float32)


def resize_positions(embedding: jax.Array, trained_grid: tuple[int, int], grid: tuple[int, int]) -> jax.Array:
    """Resize learned positions `(rows * columns, D)` to another grid by antialiased bicubic interpolation (as timm)."""
    if tuple(trained_grid) == tuple(grid):
        return embedding
    dim = embedding.shape[-1]
    field = embedding.reshape(*trained_grid, dim).astype(jnp.float32)
    resized = jax.image.resize(field, (*grid, dim), method="bicubic", antialias=True)
    return resized.reshape(-1, dim).astype(embedding.dtype)
