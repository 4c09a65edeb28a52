"""Slow, plain twins of the detection operations, one box at a time, and boxes to try them on."""

import numpy as np


def boxes(rng: np.random.Generator, count: int, size: float = 64) -> np.ndarray:
    """float32 `(count, 4)` on a grid of quarter pixels, where every product of two sides is exact in float32; some have
    no width or height, some stand twice, some are turned inside out."""
    corners = np.sort(rng.uniform(0, size, (count, 2, 2)), axis=1)
    kinds = rng.integers(0, 12, count)
    corners[kinds == 0, 1, 0] = corners[kinds == 0, 0, 0]
    corners[kinds == 1, 1] = corners[kinds == 1, 0]
    corners[kinds == 2] = corners[kinds == 2, ::-1]
    corners[kinds == 3] = corners[rng.integers(0, count, (kinds == 3).sum())]
    return (np.round(4 * corners) / 4).astype(np.float32).reshape(count, 4)


def one_iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    def length(low, high):
        return max(high - low, np.float32(0))

    def area(box):
        return length(box[0], box[2]) * length(box[1], box[3])

    shared = length(max(a[0], b[0]), min(a[2], b[2])) * length(max(a[1], b[1]), min(a[3], b[3]))
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else np.float32(0)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`one_iou` of all pairs, `(..., N, M)`, by whole arrays: held against it in test_boxes.py."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    sides = [np.maximum(0, x[..., 2:] - x[..., :2]) for x in (a, b)]
    shared = np.maximum(0, np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).prod(-1)
    union = sides[0].prod(-1) + sides[1].prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
