"""Linear probe: how well does a linear classifier read the label from frozen features?

Features are standardised per dimension, and a softmax regression with an L2 penalty on its kernel is fitted to them.
That problem is convex and has one solution, so no learning rate, order of examples or seed is left to decide the
number. L-BFGS (Liu & Nocedal 1989, https://doi.org/10.1007/BF01589116; SciPy's) finds it with the whole training set in
every step. CLIP probes its features with L-BFGS too (Radford et al. 2021, https://arxiv.org/abs/2103.00020, app. A.3).

The penalty comes from a grid. Each one is scored by its cross-entropy on held-out folds of the *training* set, and the
best is fitted again to all of it. Unlike the number of hits, the cross-entropy hardly ever ties and moves little when
features change in their last digits. The test set is used once, at the end.

Deviations from MAE's probe (He et al. 2022, https://arxiv.org/abs/2111.06377, app. A.1; `--form mae` of
`experiments.linear_probe`): no augmentation, no SGD, and statistics of the whole training set instead of a batch's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from cvjax.evaluate._check import check_features, check_same_dim

FOLDS = 3
L2S = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ITERATIONS = 500
GRADIENT = 2e-5  # where the largest entry of the gradient ends a fit; float32 cannot make it much smaller
BLOCK = 65536  # rows whose logits exist at a time


@dataclass(frozen=True)
class LinearProbeResult:
    """The accuracy of the probe, and its head: `logits = features @ kernel + bias` of *raw* features.

    Attributes:
      accuracy: top-1 on the test set, in [0, 1].
      l2: the chosen penalty.
      validation_accuracy: its accuracy on the held-out folds together, before the last fit.
      kernel: float32 `(D, num_classes)`, the standardisation folded in.
      bias: float32 `(num_classes,)`.
      protocol: everything needed to repeat the number, as JSON values.
    """

    accuracy: float
    l2: float
    validation_accuracy: float
    kernel: np.ndarray
    bias: np.ndarray
    protocol: dict


def linear_probe(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, num_classes: int, *,
                 l2s: Sequence[float] = L2S) -> LinearProbeResult:
    """Fit a softmax regression to frozen features and measure it on the test set.

    Args:
      train_x, test_x: float `(N, D)` and `(M, D)`, any scale and offset per dimension.
      train_y, test_y: int `(N,)` and `(M,)` in [0, num_classes).
      l2s: the grid of penalties, positive. The loss is the mean cross-entropy + l2 / 2 * (sum of the squared kernel of
        standardised features); the bias is free.

    Raises:
      ValueError: a feature is NaN or infinite, a label is out of range, the training set has only one class or no
        class with two examples, shapes disagree, or a penalty is not positive.
    """
    _check(train_x, train_y, test_x, test_y, num_classes, l2s)
    train_x, train_y = np.asarray(train_x, np.float32), np.asarray(train_y)
    mean, scale = _statistics(train_x)
    blocks = _blocks((train_x - mean) / scale, train_y)
    fold = fold_numbers(train_y, FOLDS)
    descending = sorted(l2s, reverse=True)

    losses, hits = np.zeros(len(descending)), np.zeros(len(descending), int)
    zeros = np.zeros((train_x.shape[1] + 1, num_classes), np.float32)
    for held in range(fold.max() + 1):
        head = zeros
        for i, l2 in enumerate(descending):  # each fit starts from that of the next larger penalty
            head = _fit(head, blocks, fold != held, l2)
            loss, right = _score(head, *blocks, _shaped(fold == held, blocks))
            losses[i], hits[i] = losses[i] + float(loss), hits[i] + int(right)
    best = int(np.argmin(losses))
    l2 = descending[best]
    head = _fit(zeros, blocks, np.ones(len(train_y), bool), l2)

    tested = _blocks((np.asarray(test_x, np.float32) - mean) / scale, np.asarray(test_y))
    _, right = _score(head, *tested, _shaped(np.ones(len(np.asarray(test_y)), bool), tested))
    kernel = head[:-1] / scale[:, None]
    return LinearProbeResult(
        accuracy=int(right) / len(np.asarray(test_y)),
        l2=l2,
        validation_accuracy=int(hits[best]) / int((fold >= 0).sum()),
        kernel=kernel,
        bias=head[-1] - (mean.astype(np.float64) @ kernel).astype(np.float32),
        protocol=dict(
            classifier="softmax regression on features standardised with training statistics",
            optimizer="L-BFGS to the optimum, all training rows in each step",
            l2s=sorted(l2s),
            chosen=dict(l2=l2),
            selection=f"lowest cross-entropy on {fold.max() + 1} stratified folds, then fitted to all {len(train_y)}",
        ),
    )


def fold_numbers(labels: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each row, int `(N,)`: the rows of a class are dealt out in turn, so it does not depend on a seed.

    A class with a single row is in no fold (-1): it is always fitted to. If no class has as many rows as there are
    folds, the last folds do not exist.
    """
    fold = np.full(len(labels), -1)
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        if len(rows) > 1:
            fold[rows] = np.arange(len(rows)) % folds
    return fold


def _check(train_x, train_y, test_x, test_y, num_classes, l2s) -> None:
    check_features("train", train_x, train_y, num_classes)
    check_features("test", test_x, test_y, num_classes)
    check_same_dim(train_x, test_x)
    counts = np.bincount(train_y)
    if np.count_nonzero(counts) < 2:
        raise ValueError(f"train labels must have 2 or more classes, received only class {counts.argmax()}")
    if counts.max() < 2:
        raise ValueError("some class must have 2 training examples to hold one out, received one of each")
    if not len(l2s) or not min(l2s) > 0:
        raise ValueError(f"l2s must be one or more positive numbers, received {l2s}")


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and divisor per dimension. A dimension that is constant up to rounding is divided by 1, and becomes 0."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(std > 1e-6 * np.abs(mean), std, 1.0).astype(np.float32)


def _blocks(x: np.ndarray, y: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Rows on the device in equal blocks, `(blocks, rows, D)` and `(blocks, rows)`; zeros pad the last one."""
    blocks = -(-len(y) // BLOCK)
    padding = -len(y) % blocks
    return (jnp.asarray(np.pad(x, [(0, padding), (0, 0)]).reshape(blocks, -1, x.shape[1])),
            jnp.asarray(np.pad(y.astype(np.int32), (0, padding)).reshape(blocks, -1)))


def _shaped(chosen: np.ndarray, blocks: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Which rows count, bool `(N,)`, as weights 0 and 1 in the shape of the blocks."""
    shape = blocks[1].shape
    return jnp.asarray(np.pad(chosen.astype(np.float32), (0, shape[0] * shape[1] - len(chosen))).reshape(shape))


def _fit(start: np.ndarray, blocks: tuple[jax.Array, jax.Array], chosen: np.ndarray, l2: float) -> np.ndarray:
    """The head float32 `(D + 1, C)`, bias last, with the least loss on the chosen rows, bool `(N,)`."""
    from scipy.optimize import minimize  # heavy, and needed only here

    weight = _shaped(chosen, blocks)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _loss(flat.reshape(start.shape).astype(np.float32), *blocks, weight, np.float32(l2))
        return float(value), np.asarray(gradient, np.float64).ravel()

    found = minimize(objective, start.ravel().astype(np.float64), jac=True, method="L-BFGS-B",
                     options=dict(maxiter=ITERATIONS, maxfun=2 * ITERATIONS, ftol=0, gtol=GRADIENT))
    return found.x.reshape(start.shape).astype(np.float32)


def _logits(head, x):
    return jnp.matmul(x, head[:-1], precision=jax.lax.Precision.HIGHEST) + head[-1]


@jax.jit
def _loss(head, x, y, weight, l2):
    """Loss and gradient, block by block."""
    def cross_entropy(head, x, y, weight):
        return jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(_logits(head, x), y))

    def add(total, block):
        return jax.tree.map(jnp.add, total, jax.value_and_grad(cross_entropy)(head, *block)), None

    (loss, gradient), _ = jax.lax.scan(add, (jnp.zeros(()), jnp.zeros_like(head)), (x, y, weight))
    count, kernel = jnp.sum(weight), head.at[-1].set(0)
    return loss / count + l2 / 2 * jnp.sum(kernel**2), gradient / count + l2 * kernel


@jax.jit
def _score(head, x, y, weight):
    """Summed cross-entropy, and how many rows are classified rightly, over the rows of weight 1."""
    def one(block):
        x, y, weight = block
        logits = _logits(head, x)
        return (jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits, y)),
                jnp.sum((jnp.argmax(logits, axis=1) == y) & (weight > 0)))

    return jax.tree.map(jnp.sum, jax.lax.map(one, (x, y, weight)))
