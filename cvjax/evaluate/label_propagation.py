"""Video object segmentation without training: labels pass from the first frame to similar patches of later ones.

This is the DAVIS 2017 protocol of DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294, sec. 4.2.2 and table 5),
after Jabri et al. 2020 (https://arxiv.org/abs/2006.14613, app. F), with the settings of the authors'
`eval_video_segmentation.py`. Each patch of a frame takes the labels of the most similar patches in the first frame and
in the 7 frames before it. DINO's frames have a short side of 480 pixels and a long side rounded down to a multiple of
64. Its features are the patch tokens after the last block's norm (`model.apply(variables, images,
method="tokens")[:, model.prefix:]` of a ViT).

    memory = start_memory(features[0], np.eye(objects + 1)[grid_labels(first_frame, *features[0].shape[:2])])
    for frame in features[1:]:
        memory, labels = propagate(memory, frame)
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cvjax.evaluate.mask_scores import resize_nearest

QUEUE = 7  # frames remembered besides the first one


class Memory(NamedTuple):
    """The frames that patches are compared with: the first frame in row 0, then a ring buffer of the latest ones."""

    features: jax.Array  # float32 (1 + queue, gh, gw, D), of unit length
    labels: jax.Array  # float32 (1 + queue, gh, gw, K), shares of the K classes
    count: jax.Array  # type: ignore[assignment]  # int32 (), frames seen; it hides tuple.count, which nobody needs here


def start_memory(features: ArrayLike, labels: ArrayLike, *, queue: int = QUEUE) -> Memory:
    """A memory of the first frame.

    features: float `(gh, gw, D)` of its patches, any scale. labels: `(gh, gw, K)`, shares of the classes; class 0 is
    the background. queue: number of further frames to remember, 0 or more.
    """
    features, labels = jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.float32)
    if features.ndim != 3 or labels.ndim != 3 or features.shape[:2] != labels.shape[:2]:
        raise ValueError(f"features and labels must be (gh, gw, D) and (gh, gw, K) of one grid, "
                         f"received {features.shape} and {labels.shape}")
    if queue < 0:
        raise ValueError(f"queue must be 0 or more frames, received {queue}")
    # `count` excludes rows that are not filled yet.
    rows = [(0, queue), (0, 0), (0, 0), (0, 0)]
    return Memory(jnp.pad(_unit(features)[None], rows), jnp.pad(labels[None], rows), jnp.int32(1))


@partial(jax.jit, static_argnames=("radius", "temperature", "top_k"))
def propagate(memory: Memory, features: jax.Array, *, radius: int = 12, temperature: float = 0.1,
              top_k: int = 5) -> tuple[Memory, jax.Array]:
    """The memory after the next frame, and the frame's labels, float32 `(gh, gw, K)`.

    The frame takes the place of the oldest one in the memory; the first frame stays. Each patch takes the mean of the
    remembered labels, weighted by exp(cosine similarity / temperature), over the `top_k` most similar patches within
    `radius` rows and columns of it in any remembered frame. Patches exactly as similar as the last of them count too,
    and if there are fewer than `top_k`, all count. Every shape is fixed, so it compiles once per size of the frames.

    features: float `(gh, gw, D)`, any scale. radius: from the grid's side on, it restricts nothing (DINO's 0).
    """
    frames, rows, columns, dim = memory.features.shape
    if features.shape != (rows, columns, dim):
        raise ValueError(f"features must be {(rows, columns, dim)} as in the memory, received {features.shape}")
    if radius < 0 or top_k < 1 or not temperature > 0:
        raise ValueError(f"radius must be at least 0, top_k at least 1 and temperature above 0, "
                         f"received {radius=}, {top_k=} and {temperature=}")
    features = _unit(features.astype(jnp.float32))
    filled = jnp.arange(frames) < memory.count
    beside = jnp.abs(jnp.arange(columns)[:, None] - jnp.arange(columns)) <= radius
    band = min(rows, 2 * radius + 1)  # rows that may hold a neighbour
    compared = frames * band * columns

    def of_row(row: jax.Array) -> jax.Array:
        """Labels `(gw, K)` of one row of patches; all similarities at once would not fit into memory."""
        start = jnp.clip(row - radius, 0, rows - band)
        sources = jax.lax.dynamic_slice_in_dim(memory.features, start, band, axis=1).reshape(compared, dim)
        labels = jax.lax.dynamic_slice_in_dim(memory.labels, start, band, axis=1).reshape(compared, -1)
        # Full float32: the default on TPU (and TF32 on GPU) would reorder close neighbours.
        similarity = jnp.matmul(features[row], sources.T, precision=jax.lax.Precision.HIGHEST)
        below = jnp.abs(start + jnp.arange(band) - row) <= radius
        near = filled[:, None, None] & below[:, None] & beside[:, None, None]
        scores = jnp.where(near.reshape(columns, compared), similarity / temperature, -jnp.inf)
        # The largest lie in the rows of patches with the largest maxima, so only few numbers have to be searched.
        lines = scores.reshape(columns, frames * band, columns)
        _, where = jax.lax.top_k(lines.max(axis=-1), min(top_k, frames * band))
        best = jnp.take_along_axis(lines, where[:, :, None], axis=1).reshape(columns, -1)
        last = jax.lax.top_k(best, min(top_k, best.shape[1]))[0][:, -1:]
        # The softmax is DINO's exp and division, without overflow at any temperature.
        weights = jax.nn.softmax(jnp.where(scores >= last, scores, -jnp.inf))
        return jnp.matmul(weights, labels, precision=jax.lax.Precision.HIGHEST)

    propagated = jax.lax.map(of_row, jnp.arange(rows))
    if frames > 1:
        oldest = 1 + (memory.count - 1) % (frames - 1)
        memory = Memory(memory.features.at[oldest].set(features), memory.labels.at[oldest].set(propagated),
                        memory.count + 1)
    return memory, propagated


def propagate_video(features: ArrayLike, labels: ArrayLike, *, queue: int = QUEUE, radius: int = 12,
                    temperature: float = 0.1, top_k: int = 5) -> np.ndarray:
    """Labels of all frames of a video, float32 `(T, gh, gw, K)`; those of the first frame are as given.

    features: float `(T, gh, gw, D)`. labels: of the first frame, int `(gh, gw)` (then K is the largest label plus 1, as
    in DINO's code) or shares `(gh, gw, K)`. The options are those of `start_memory` and `propagate`.

    An object, class 1, that moves to the right by one patch:

        >>> frames = np.eye(2)[[[[1, 0, 0]], [[0, 1, 0]]]]  # two frames of 1 x 3 patches with 2 features
        >>> propagate_video(frames, np.array([[1, 0, 0]])).argmax(axis=-1)
        array([[[1, 0, 0]],
        <BLANKLINE>
               [[0, 1, 0]]])
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 4 or not len(features):
        raise ValueError(f"features must be (T, gh, gw, D) with T > 0, received shape {features.shape}")
    if labels.ndim == 2:
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError(f"labels (gh, gw) must be integers from 0, received {labels.dtype} from {labels.min()}")
        labels = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    memory = start_memory(features[0], labels, queue=queue)
    propagated = [np.asarray(labels, np.float32)]
    for frame in features[1:]:
        memory, shares = propagate(memory, jnp.asarray(frame), radius=radius, temperature=temperature, top_k=top_k)
        propagated.append(np.asarray(shares))
    return np.stack(propagated)


def grid_labels(label_map: ArrayLike, rows: int, columns: int) -> np.ndarray:
    """The label `(rows, columns)` of the pixel in the middle of each patch, from a label map `(H, W)`."""
    return resize_nearest(np.asarray(label_map), rows, columns)


@partial(jax.jit, static_argnames=("patch_size", "height", "width"))
def pixel_labels(labels: jax.Array, *, patch_size: int, height: int, width: int) -> jax.Array:
    """The class of each pixel of a frame, int32 `(height, width)`, from shares `(gh, gw, K)`.

    As in DINO's code, shares are enlarged `patch_size` times by bilinear interpolation, each class is stretched over
    [0, 1] by its own minimum and maximum, the largest wins, and nearest neighbours bring the result to the frame's
    size. A class without any share stays 0. A class whose share is the same everywhere cannot be stretched; it wins, as
    the 0 / 0 in DINO's code does.
    """
    rows, columns, classes = labels.shape
    shares = jax.image.resize(labels, (rows * patch_size, columns * patch_size, classes), "linear")
    low, high = shares.min(axis=(0, 1)), shares.max(axis=(0, 1))
    flat = jnp.where(high > 0, jnp.inf, 0.0)
    stretched = jnp.where(high > low, (shares - low) / jnp.where(high > low, high - low, 1), flat)
    return resize_nearest(stretched.argmax(axis=-1).astype(jnp.int32), height, width)


def _unit(features: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.where(norm > 0, norm, 1.0)
