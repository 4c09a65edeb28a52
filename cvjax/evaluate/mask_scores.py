"""How well masks fit the truth: Jaccard index J, boundary measure F, and their statistics over a video (DAVIS).

Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (J, F, mean,
recall, decay), and Pont-Tuset et al. 2017 (https://arxiv.org/abs/1704.00675) for several objects. The numbers equal
those of the public toolkit davis2017-evaluation. One object is a bool mask. Several objects are an int label map, where
0 is background, objects count from 1, and 255 marks void pixels, which are not judged.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

VOID = 255


class Statistics(NamedTuple):
    """Statistics of a measure over the frames of a video: float64 `(objects,)` each."""

    mean: np.ndarray  # in [0, 1]
    recall: np.ndarray  # share of the frames above 0.5, in [0, 1]
    decay: np.ndarray  # mean of the first quarter of the frames minus that of the last one, in [-1, 1]


class VideoScores(NamedTuple):
    """J and F of the objects of a video, object 1 first."""

    j: Statistics
    f: Statistics


def jaccard(mask: ArrayLike, truth: ArrayLike, void: ArrayLike | None = None) -> np.ndarray:
    """Intersection over union of the pixels: float64 `(...)` in [0, 1]; 1 if both are empty.

    mask, truth: bool `(..., H, W)`, which broadcast against each other. void: the same, True for pixels that do not
    count. Raises ValueError for anything else.
    """
    mask, truth, counted = _check_masks(mask, truth, void)
    intersection = (mask & truth & counted).sum(axis=(-2, -1))
    union = ((mask | truth) & counted).sum(axis=(-2, -1))
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def boundary_f(mask: ArrayLike, truth: ArrayLike, void: ArrayLike | None = None, *,
               tolerance: float = 0.008) -> np.ndarray:
    """Boundary measure F: the harmonic mean of precision and recall of the boundary, float64 `(...)` in [0, 1].

    Precision is the share of the mask's boundary that lies near the truth's, recall the reverse. Near means within
    `tolerance` times the image's diagonal, rounded up to whole pixels, as in the toolkit, which dilates with a disk. F
    is 1 if neither mask has a boundary (both are empty or full), and 0 if only one has.
    mask, truth, void: as for `jaccard`; void pixels are set to False in both masks, as in the toolkit.
    Raises ValueError unless 0 < tolerance < 1.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be a share of the diagonal in (0, 1), received {tolerance}")
    mask, truth, counted = _check_masks(mask, truth, void)
    mask, truth = np.broadcast_arrays(mask & counted, truth & counted)
    radius = int(np.ceil(tolerance * np.hypot(*mask.shape[-2:])))
    found, wanted = _boundary(mask), _boundary(truth)
    right, reached = found & _dilate(wanted, radius), wanted & _dilate(found, radius)
    found, wanted, right, reached = (pixels.sum(axis=(-2, -1)) for pixels in (found, wanted, right, reached))
    precision, recall = right / np.maximum(found, 1), reached / np.maximum(wanted, 1)
    both = precision + recall
    f = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)
    return np.where((found == 0) & (wanted == 0), 1.0, f)


def frame_statistics(values: ArrayLike) -> Statistics:
    """Mean, recall and decay over the frames of one value per frame, float `(..., T)`, T > 0.

    As in the toolkit, a quarter of the frames shares its first frame with the quarter before. Deviation: the toolkit
    stores these positions in 8 bits, which fails beyond 256 frames; no video of DAVIS is that long.
    """
    values = np.asarray(values, np.float64)
    if not values.ndim or not values.shape[-1] or not np.isfinite(values).all():
        raise ValueError(f"values must be finite, one per frame (..., T) with T > 0, received shape {values.shape}")
    # Halves are rounded up, as by the toolkit, which adds a little; NumPy's rounding would take the even number.
    edges = np.floor(np.linspace(1, values.shape[-1], 5) + 0.5).astype(int) - 1
    first, last = values[..., edges[0] : edges[1] + 1], values[..., edges[3] : edges[4] + 1]
    return Statistics(values.mean(axis=-1), (values > 0.5).mean(axis=-1), first.mean(axis=-1) - last.mean(axis=-1))


def video_scores(predicted: ArrayLike, truth: ArrayLike) -> VideoScores:
    """J and F of the objects of one video, in the semi-supervised protocol of DAVIS 2017.

    The objects are 1 to the largest label of the first frame's truth. The first frame, which is given, and the last
    one are not judged. Deviation: pixels that the truth marks 255 do not count; the toolkit counts them as background
    in this task.

    predicted, truth: int `(T, H, W)` label maps with T > 2, predicted in [0, objects], truth also 255.
    Raises ValueError for anything else, and if the first frame has no object.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    for name, labels in (("predicted", predicted), ("truth", truth)):
        if labels.ndim != 3 or len(labels) < 3 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{name} must be integers (T, H, W) with T > 2, "
                             f"received {labels.dtype} of shape {labels.shape}")
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted and truth must share a shape, received {predicted.shape} and {truth.shape}")
    objects = int(np.where(truth[0] == VOID, 0, truth[0]).max())
    if objects < 1:
        raise ValueError("the first frame's truth must have an object, received only background")
    if predicted.min() < 0 or predicted.max() > objects:
        raise ValueError(f"predicted must lie in [0, {objects}], the objects of the first frame, "
                         f"received {predicted.min()} to {predicted.max()}")
    predicted, truth = predicted[1:-1], truth[1:-1]
    void = truth == VOID
    values = []
    for number in range(1, objects + 1):  # one at a time bounds the memory
        pair = predicted == number, truth == number, void
        values.append((jaccard(*pair), boundary_f(*pair)))
    return VideoScores(*(frame_statistics(measure) for measure in zip(*values)))


def davis_summary(videos: Sequence[VideoScores]) -> dict[str, float]:
    """The toolkit's table: mean, recall and decay of J and of F over all objects of all videos, and "jf_mean".

    Each object has the same weight, however many objects or frames its video has. Keys: "j_mean", "f_decay", ...
    """
    if not len(videos):
        raise ValueError("videos must have at least one, received none")
    table = {f"{measure}_{name}": float(np.concatenate([getattr(getattr(v, measure), name) for v in videos]).mean())
             for measure in VideoScores._fields for name in Statistics._fields}
    return {"jf_mean": (table["j_mean"] + table["f_mean"]) / 2} | table


def resize_nearest(maps: Any, height: int, width: int) -> Any:
    """An array `(..., h, w)` of NumPy or JAX as one `(..., height, width)` of the same kind and dtype.

    Each pixel takes the entry in which its centre lies. Enlarging by a whole number repeats entries.
    """
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new)
                     for old, new in zip(maps.shape[-2:], (height, width)))  # in integers: no rounding at an edge
    return maps[..., rows[:, None], columns]


def _boundary(masks: np.ndarray) -> np.ndarray:
    """bool `(..., H, W)`: pixels that differ from the one to the right, below, or diagonally below.

    As in the toolkit, this boundary is off by half a pixel.
    """
    wide = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(0, 1), (0, 1)], mode="edge")
    right, below, across = wide[..., :-1, 1:], wide[..., 1:, :-1], wide[..., 1:, 1:]
    return (masks != right) | (masks != below) | (masks != across)


def _dilate(masks: np.ndarray, radius: int) -> np.ndarray:
    """bool `(..., H, W)`: pixels at a distance of at most `radius` from a set one."""
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None]**2 + offsets**2 <= radius**2).astype(np.uint8)
    near = np.empty(masks.shape, bool)
    for place in np.ndindex(masks.shape[:-2]):
        near[place] = cv2.dilate(masks[place].astype(np.uint8), disk)
    return near


def _check_masks(mask: ArrayLike, truth: ArrayLike,
                 void: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The masks, and bool `(..., H, W)` or `()`, True for pixels that count."""
    named = {"mask": np.asarray(mask), "truth": np.asarray(truth)}
    if void is not None:
        named["void"] = np.asarray(void)
    for name, array in named.items():
        if array.dtype != bool or array.ndim < 2:
            raise ValueError(f"{name} must be bool (..., H, W), received {array.dtype} of shape {array.shape}")
    if len({array.shape[-2:] for array in named.values()}) > 1:
        raise ValueError(f"masks must share H and W, received {', '.join(f'{n} {a.shape}' for n, a in named.items())}")
    return named["mask"], named["truth"], ~named["void"] if void is not None else np.array(True)
