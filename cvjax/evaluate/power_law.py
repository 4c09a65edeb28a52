"""The power law of loss against parameters and data (Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556)."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares


class PowerLaw(NamedTuple):
    """L(N, D) = floor + a / N^alpha + b / D^beta. All numbers are 0 or more."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    error: float  # root mean square of log(fitted / measured)

    def __call__(self, parameters: ArrayLike, examples: ArrayLike) -> np.ndarray:
        """The loss of models with N `parameters` trained on D `examples`, which broadcast."""
        return self.floor + self.a * np.power(parameters, -self.alpha) + self.b * np.power(examples, -self.beta)


def fit_power_law(parameters: Sequence[float], examples: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """Fit the law to measured losses by Huber-robust least squares on their logarithms (sec. 3.3).

    The best fit from a grid of starting points is returned. parameters, examples, losses: `(R,)`, positive and finite,
    with R >= 5, since there are five unknowns. Anything else raises ValueError.
    """
    n, d, loss = (np.asarray(x, np.float64) for x in (parameters, examples, losses))
    if not (n.shape == d.shape == loss.shape and n.ndim == 1 and len(n) >= 5):
        raise ValueError(f"a power law has five unknowns, received {n.shape}, {d.shape}, {loss.shape} numbers: "
                         "three lists of one length, at least 5")
    for name, x in (("parameters", n), ("examples", d), ("losses", loss)):
        if not (np.isfinite(x).all() and (x > 0).all()):
            raise ValueError(f"{name} must be positive and finite, received {x.tolist()}")
    # Relative to their geometric means, so that coefficients and exponents are less correlated.
    n0, d0 = np.exp(np.log(n).mean()), np.exp(np.log(d).mean())

    def misfit(x: np.ndarray) -> np.ndarray:
        floor, a, alpha, b, beta = x
        return np.log(floor + a * (n / n0) ** -alpha + b * (d / d0) ** -beta) - np.log(loss)

    # Bounds keep the sum positive, and the exponents where a curve differs from a constant.
    low, high = [0, 1e-9, 0, 1e-9, 0], [loss.min(), np.inf, 3, np.inf, 3]
    starts = itertools.product((0.1, 0.9), (0.1, 0.5), (0.2, 1.0), (0.1, 0.5), (0.2, 1.0))
    fits = [least_squares(misfit, [f * loss.min(), a * loss.mean(), alpha, b * loss.mean(), beta],
                          bounds=(low, high), loss="huber", f_scale=0.05) for f, a, alpha, b, beta in starts]
    floor, a, alpha, b, beta = min(fits, key=lambda fit: fit.cost).x
    error = float(np.sqrt(np.square(misfit(np.array([floor, a, alpha, b, beta]))).mean()))
    return PowerLaw(float(floor), float(a * n0**alpha), float(alpha), float(b * d0**beta), float(beta), error)
