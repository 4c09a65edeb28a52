"""Cuts maps into windows and back; masks and position indices for attention within windows (Liu et al. 2021, https://arxiv.org/abs/2103.14030).

Windows follow each other row by row, and so do the tokens within a window. Windows need not be square.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Size = tuple[int, int]  # rows and columns
Maps = TypeVar("Maps", jax.Array, np.ndarray)


def pad_to_multiple(x: jax.Array, size: Size) -> jax.Array:
    """Maps `(B, H, W, C)` with zeros below and to the right until rows and columns are multiples of `size`."""
    below, right = (-n % multiple for n, multiple in zip(x.shape[1:3], size, strict=True))
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))


def partition_windows(x: Maps, window: Size) -> Maps:
    """Cut maps `(B, H, W, C)` into windows `(B * N, h * w, C)`, N per map; ValueError unless they tile the map."""
    batch, height, width, channels = x.shape
    h, w = window
    if height % h or width % w:
        raise ValueError(f"windows of {h}x{w} do not tile a map of {height}x{width}: both sides must be multiples")
    x = x.reshape(batch, height // h, h, width // w, w, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h * w, channels)


def merge_windows(windows: jax.Array, window: Size, size: Size) -> jax.Array:
    """Put windows `(B * N, h * w, C)` back together to maps `(B, *size, C)`; the inverse of `partition_windows`."""
    (h, w), (height, width) = window, size
    x = windows.reshape(-1, height // h, width // w, h, w, windows.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, windows.shape[-1])


def shifted_window_mask(size: Size, window: Size, shift: Size) -> np.ndarray:
    """Who may see whom after a map of `size` was rolled up and left by `shift`: bool `(N, h * w, h * w)`.

    The roll brings the first rows and columns below and to the right of the last ones. Where a window holds both,
    each side sees only its own tokens (figure 4).
    """
    rows, columns = (np.arange(n) >= n - s for n, s in zip(size, shift, strict=True))  # True where wrapped
    side = 2 * rows[:, None] + columns  # (H, W), equal on tokens that are neighbours in the image
    sides = partition_windows(side[None, :, :, None], window)[..., 0]  # (N, h * w)
    return sides[:, :, None] == sides[:, None, :]


def relative_position_index(window: Size) -> np.ndarray:
    """For each pair of a window's tokens, the row of a bias table for their offset: int `(h * w, h * w)`.

    The table has `(2h - 1) * (2w - 1)` rows, from the query furthest above and left of its key to the opposite.
    """
    h, w = window
    positions = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = positions[:, None] - positions[None] + (h - 1, w - 1)  # (h * w, h * w, 2), all from 0 on
    return offsets[..., 0] * (2 * w - 1) + offsets[..., 1]


def log_spaced_offsets(window: Size, trained_window: Size) -> np.ndarray:
    """Offsets of a window's tokens in rows and columns, on a logarithmic scale: float32 `((2h - 1) * (2w - 1), 2)`.

    `sign(d) log2(1 + 8 |d| / (trained - 1)) / 3` (Liu et al. 2022, https://arxiv.org/abs/2111.09883, eq. 4, scaled as
    in the authors' code). In a window twice as wide as in training, the farthest is 1.3 times as far as any there.
    Rows are in the order of `relative_position_index`.
    """
    rows, columns = (np.arange(1 - n, n) * (8 / max(trained - 1, 1))  # a single token has the offset 0 alone
                     for n, trained in zip(window, trained_window, strict=True))
    offsets = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return (np.sign(offsets) * np.log2(1 + np.abs(offsets)) / np.log2(8)).astype(np.float32)


def resize_relative_positions(table: np.ndarray, trained_window: Size, window: Size) -> np.ndarray:
    """A bias table `((2h - 1) * (2w - 1), heads)` of one window size for another, as timm does on loading.

    The trained offsets are laid over the new ones at distances that grow geometrically from the centre (Bao et al.
    2022, https://arxiv.org/abs/2106.08254, their code): near neighbours keep their bias and far ones are stretched.
    Between them it is linear, and constant beyond them.
    """
    if trained_window == window:
        return table
    trained, new = (tuple(2 * n - 1 for n in size) for size in (trained_window, window))
    rows, columns = (_resampling(n, m) for n, m in zip(trained, new, strict=True))
    field = table.reshape(*trained, -1).astype(np.float64)
    return np.einsum("ir,jc,rch->ijh", rows, columns, field).reshape(-1, table.shape[1]).astype(table.dtype)


def _resampling(trained: int, new: int) -> np.ndarray:
    """Weights `(new, trained)` of linear interpolation from one axis of offsets to another, both odd."""
    ratio = _ratio(trained // 2, new // 2)
    outward = np.cumsum(ratio ** np.arange(trained // 2))  # 1, 1 + q, 1 + q + q^2, ...
    places = np.concatenate([-outward[::-1], [0.0], outward])
    offsets = np.arange(new) - new // 2
    return np.stack([np.interp(offsets, places, unit) for unit in np.eye(trained)], axis=1)


def _ratio(terms: int, total: int) -> float:
    """q in 1.01 ... 1.5 with `1 + q + ... + q^(terms - 1) = total`, by as many halvings as timm makes."""
    low, high = 1.01, 1.5
    middle = low
    while high - low > 1e-6:
        middle = (low + high) / 2
        if (1 - middle**terms) / (1 - middle) > total:
            high = middle
        else:
            low = middle
    return middle
