"""Copy detection: find the original of a distorted image among others.

The Copydays protocol (Douze et al. 2009, "Evaluation of GIST descriptors for web-scale image search") as DINO has it
(Caron et al. 2021, https://arxiv.org/abs/2104.14294, sec. 4.2.1, `eval_copy_detection.py`). The descriptor of an image
joins the class token and the generalised mean of the patch tokens (Radenovic et al. 2019,
https://arxiv.org/abs/1711.02512, eq. 3; p = 4), both after the last norm. Descriptors are whitened with statistics of
other images (DINO: 20,000 of YFCC100M). Originals and distractors are ranked by cosine similarity, and the mean average
precision of the "strong" distortions is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cvjax.evaluate._check import check_features, check_same_dim
from cvjax.evaluate.knn import nearest_neighbours
from cvjax.evaluate.retrieval import trapezoid_average_precision

FLOOR = 1e-6
SMALLEST_VARIANCE = 1e-5


@dataclass(frozen=True)
class CopyDetectionResult:
    """The result of `copy_detection`.

    Attributes:
      mean_average_precision: in [0, 1], mean over the queries.
      average_precision: float64 `(M,)`, each query's.
      protocol: everything needed to repeat the number, ready for JSON.
    """

    mean_average_precision: float
    average_precision: np.ndarray
    protocol: dict


@dataclass(frozen=True)
class Whitening:
    """`(x - mean) @ matrix`, learned by `fit_whitening`; float64 `(D,)` and `(D, K)`."""

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """float `(N, D)` -> float32 `(N, K)`."""
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"features must be (N, {len(self.mean)}), received shape {x.shape}")
        return ((x - self.mean) @ self.matrix).astype(np.float32)


def copy_features(class_token: ArrayLike, patch_tokens: ArrayLike, *, p: float = 4.0) -> jax.Array:
    """The class token beside the generalised mean of the patch tokens: `(N, D)` and `(N, L, D)` -> `(N, 2 D)`.

    Raises:
      ValueError: other shapes, or no patch.
    """
    class_shape, patch_shape = jnp.shape(class_token), jnp.shape(patch_tokens)
    if len(patch_shape) != 3 or class_shape != patch_shape[::2] or not patch_shape[1]:
        raise ValueError(f"tokens must be (N, D) and (N, L, D) with L > 0, received {class_shape} and {patch_shape}")
    return jnp.concatenate([jnp.asarray(class_token), generalized_mean(patch_tokens, p=p)], axis=-1)


def generalized_mean(tokens: ArrayLike, *, p: float = 4.0) -> jax.Array:
    """GeM pooling `(N, L, D)` -> `(N, D)`: the p-th root of the mean p-th power. Values below 1e-6 count as 1e-6.

    p = 1 is the mean of the positive parts. The larger p is, the closer the result comes to the maximum.
    """
    if not p > 0:
        raise ValueError(f"p must be positive, received {p}")
    positive = jnp.maximum(jnp.asarray(tokens), FLOOR)
    # Divided by the maximum, the powers neither overflow nor all vanish at any p.
    largest = jnp.max(positive, axis=1, keepdims=True)
    return largest[:, 0] * jnp.mean((positive / largest) ** p, axis=1) ** (1 / p)


def fit_whitening(x: ArrayLike, *, components: int | None = None, centred: bool = False) -> Whitening:
    """PCA whitening: a rotation to the principal axes, each divided by the root of its second moment or variance.

    Args:
      x: float `(N, D)`, descriptors of images outside the test, such as distractors.
      components: axes to keep, those of largest variance (None: all D).
      centred: False computes second moments about 0, as DINO's script does: it subtracts the mean from the features
        that it whitens, but not before it computes the covariance. True computes variances.

    Returns:
      A function of features. As in the script, a variance below 1e-5 of the largest one counts as that. So if there are
      fewer images than dimensions, directions without data are not blown up.

    Raises:
      ValueError: x is not finite `(N, D)` or all its rows are equal, components outside 1 to D.
    """
    check_features("whitening", x)
    x = np.asarray(x, np.float64)
    kept: int = x.shape[1] if components is None else components
    if not 1 <= kept <= x.shape[1]:
        raise ValueError(f"components must be from 1 to D={x.shape[1]}, received {components}")
    mean = x.mean(axis=0)
    spread = x - mean if centred else x
    variance, axes = np.linalg.eigh(spread.T @ spread / len(x))
    if not np.ptp(x, axis=0).any():
        raise ValueError(f"whitening features must differ, received {len(x)} equal rows")
    order = np.argsort(-variance, kind="stable")[:kept]
    return Whitening(mean, axes[:, order] / np.sqrt(np.maximum(variance[order], SMALLEST_VARIANCE * variance[-1])))


def copy_detection(query_x: ArrayLike, database_x: ArrayLike, positives: Sequence[Sequence[int]], *,
                   depth: int = 20) -> CopyDetectionResult:
    """Rank the database for each query and measure how early its originals appear.

    Args:
      query_x, database_x: float `(M, D)` and `(N, D)`, any scale; the database holds originals, then distractors.
      positives: for each query the row numbers of its originals in `database_x`, at least one.
      depth: number of images in a ranking; an original further down counts as not found (DINO: 20). A smaller database
        is ranked as a whole.

    Returns:
      Average precision by trapezoids (`cvjax.evaluate.retrieval.trapezoid_average_precision`).

    Raises:
      ValueError: other features or lists, or a depth below 1.
    """
    query_x, database_x = np.asarray(query_x), np.asarray(database_x)
    check_features("query", query_x)
    check_features("database", database_x)
    check_same_dim(database_x, query_x)
    originals = _check_positives(positives, len(query_x), len(database_x))
    if depth < 1:
        raise ValueError(f"depth must be at least 1, received {depth}")
    depth = min(depth, len(database_x))
    _, order = nearest_neighbours(database_x, query_x, depth)
    scores = np.array([trapezoid_average_precision(np.flatnonzero(np.isin(row, right)), len(right))
                       for row, right in zip(order, originals, strict=True)])
    return CopyDetectionResult(
        mean_average_precision=float(scores.mean()),
        average_precision=scores,
        protocol=dict(task="copy detection", similarity="cosine", average_precision="trapezoids", depth=depth,
                      queries=len(query_x), database=len(database_x)),
    )


def _check_positives(positives: Sequence, queries: int, rows: int) -> list[np.ndarray]:
    if len(positives) != queries:
        raise ValueError(f"positives must be one list for each of {queries} queries, received {len(positives)}")
    checked = [np.unique(np.asarray(rows, np.int64)) for rows in positives]
    for query, right in enumerate(checked):
        if not len(right) or right[0] < 0 or right[-1] >= rows:
            raise ValueError(f"positives must name one or more rows in [0, {rows}), received {right.tolist()} for "
                             f"query {query}")
    return checked
