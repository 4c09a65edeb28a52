"""Few-shot classification: ridge regression, in closed form, from a handful of frozen features per class.

The protocol is Big Vision's (https://github.com/google-research/big_vision, `evaluators/fewshot_lsr.py`). It gave the
few-shot numbers of the Vision Transformer paper (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, sec. 4.1).
n examples of each class are drawn. Features are standardised with their mean and standard deviation. A constant feature
of 100 serves as the bias (so large that it is hardly regularised). Targets are 1 for the class and -1 for the others,
and the class with the largest output is the answer.

Deviations: Big Vision fixes the regularisation at 2^10. Here each draw chooses it from a grid, by leave-one-out
accuracy on its own few rows. A ridge regression has that in closed form (each row is predicted by the fit to all
others; Hastie et al., "The Elements of Statistical Learning", exercise 7.3). The test set is not used for it. With one
example per class there is nothing to leave out, and 2^10 is kept. A feature that is constant on the drawn rows is
divided by 1, not by 1e-5.

The regression runs in NumPy in float64. A small L2 next to large eigenvalues costs float32 its digits: with 100 rows of
384 features and L2 = 1, the outputs of the same closed form err by 0.01. The left-out errors, which are divided by
1 - leverage and so by almost 0, err by as much as their own size (float64: 10^-8). The matrices are small enough for
the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate._check import check_features, check_same_dim

BIAS = 100.0
DEFAULT_L2 = 2.0**10


@dataclass(frozen=True)
class FewShotResult:
    """The result of `few_shot`.

    Attributes:
      accuracy: top-1 on the test set, in [0, 1], mean over the draws.
      deviation: standard deviation of one draw's accuracy (divisor draws - 1).
      accuracies: each draw's.
      l2: the regularisation each draw chose.
      protocol: everything needed to repeat the number, ready for JSON.
    """

    accuracy: float
    deviation: float
    accuracies: tuple[float, ...]
    l2: tuple[float, ...]
    protocol: dict


class Ridge(NamedTuple):
    """A regression `features @ kernel + bias` on raw features, float64 `(D, C)` and `(C,)`."""

    kernel: np.ndarray
    bias: np.ndarray
    l2: float


def few_shot(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, num_classes: int, *, shots: int,
    draws: int = 5, l2s: Sequence[float] = tuple(4.0**i for i in range(-2, 11)), seed: int = 0,
) -> FewShotResult:
    """Accuracy on the test set from `shots` training examples of each class, over several draws of them.

    Args:
      train_x, test_x: float `(N, D)` and `(M, D)`, any scale and offset per dimension.
      train_y, test_y: int `(N,)` and `(M,)` in [0, num_classes).
      shots: examples per class; every class must have at least as many.
      draws: number of draws, at least 2. Draw i is the same for any number of draws, and its examples for n shots are
        among those for more shots.
      l2s: the grid of regularisations, positive, which is tried from 2 shots on.
      seed: the same seed gives the same draws.

    Raises:
      ValueError: a feature is NaN or infinite, a label is out of range, shapes disagree, a class has fewer than
        `shots` examples, or another argument is not as above.
    """
    _check(train_x, train_y, test_x, test_y, num_classes, shots, draws, l2s)
    train_x, train_y, test_x, test_y = map(np.asarray, (train_x, train_y, test_x, test_y))
    grid = tuple(float(l2) for l2 in l2s) if shots > 1 else (DEFAULT_L2,)
    accuracies, chosen = [], []
    for draw in range(draws):
        rows = draw_shots(train_y, shots, (seed, draw))
        ridge = fit_ridge(train_x[rows], train_y[rows], num_classes, grid)
        hits = np.argmax(test_x @ ridge.kernel + ridge.bias, axis=1) == test_y
        accuracies.append(float(np.mean(hits)))
        chosen.append(ridge.l2)
    return FewShotResult(
        accuracy=float(np.mean(accuracies)),
        deviation=float(np.std(accuracies, ddof=1)),
        accuracies=tuple(accuracies),
        l2=tuple(chosen),
        protocol=dict(
            classifier=f"ridge regression to targets -1/1 on features standardised with the drawn rows, bias {BIAS:g}",
            shots=shots,
            draws=draws,
            l2s=list(grid),
            chosen=chosen,
            selection="leave-one-out accuracy on the drawn rows" if shots > 1 else "none: one example per class",
            seed=seed,
        ),
    )


def draw_shots(labels: np.ndarray, shots: int, seed: int | Sequence[int]) -> np.ndarray:
    """Row numbers of `shots` examples of every class in `labels`, int `(classes * shots,)`, class after class."""
    shuffle = np.random.default_rng(seed).permutation
    return np.concatenate([shuffle(np.flatnonzero(labels == name))[:shots] for name in np.unique(labels)])


def fit_ridge(x: np.ndarray, y: np.ndarray, num_classes: int, l2s: Sequence[float]) -> Ridge:
    """The regression with the L2 of the grid that predicts most rows rightly when they are left out.

    Ties are common among few rows; then the smaller squared error of the left-out rows decides. One eigendecomposition
    of the smaller of the two Gram matrices serves the whole grid.

    Args:
      x: float `(N, D)`.
      y: int `(N,)` in [0, num_classes).
      l2s: the grid; a single value is taken as it is.
    """
    x = np.asarray(x, np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-6 * np.abs(mean), scale, 1.0)
    design = np.pad((x - mean) / scale, [(0, 0), (0, 1)], constant_values=BIAS)
    target = 2.0 * (y[:, None] == np.arange(num_classes)) - 1.0
    eigenvalues, basis = _row_space(design)
    projected = design @ basis
    correlation = projected.T @ target

    def left_out(l2: float) -> tuple[int, float]:
        """Rows wrong when left out, and their squared error."""
        leverage = np.sum(projected**2 / (eigenvalues + l2), axis=1, keepdims=True)
        fitted = (projected / (eigenvalues + l2)) @ correlation
        error = (target - fitted) / (1 - leverage)
        return int(np.count_nonzero(np.argmax(target - error, axis=1) != y)), float(np.sum(error**2))

    l2 = min(l2s, key=left_out) if len(l2s) > 1 else l2s[0]
    weights = (basis / (eigenvalues + l2)) @ correlation
    kernel = weights[:-1] / scale[:, None]
    return Ridge(kernel, BIAS * weights[-1] - mean @ kernel, l2)


def _row_space(design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues `(R,)` and orthonormal eigenvectors `(D, R)` of `design.T @ design` that can change a fit."""
    if len(design) >= design.shape[1]:
        eigenvalues, basis = np.linalg.eigh(design.T @ design)
        return np.maximum(eigenvalues, 0.0), basis
    eigenvalues, basis = np.linalg.eigh(design @ design.T)
    real = eigenvalues > 1e-12 * eigenvalues[-1]  # smaller ones are rounding errors, without a direction in D
    return eigenvalues[real], design.T @ basis[:, real] / np.sqrt(eigenvalues[real])


def _check(train_x, train_y, test_x, test_y, num_classes, shots, draws, l2s) -> None:
    check_features("train", train_x, train_y, num_classes)
    check_features("test", test_x, test_y, num_classes)
    check_same_dim(train_x, test_x)
    counts = np.bincount(train_y, minlength=num_classes)
    if not 1 <= shots <= counts.min():
        raise ValueError(f"shots must be from 1 to {counts.min()}, the examples of class {counts.argmin()}, "
                         f"received {shots}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2 to have a deviation, received {draws}")
    if not len(l2s) or min(l2s) <= 0:
        raise ValueError(f"l2s must be one or more positive numbers, received {l2s}")
