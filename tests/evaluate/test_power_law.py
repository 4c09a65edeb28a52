"""The fit against laws that the losses follow exactly."""

import itertools

import numpy as np
import pytest

from cvjax.evaluate.power_law import PowerLaw, fit_power_law

N, D = np.array(list(itertools.product((1e4, 4e4, 1.6e5, 6.4e5), (200.0, 400.0, 800.0, 1600.0)))).T


@pytest.mark.parametrize("law", [
    PowerLaw(0.3, 40.0, 0.5, 20.0, 0.6, 0), PowerLaw(1.69, 406.4, 0.34, 410.7, 0.28, 0),
    PowerLaw(0.0, 9.0, 0.4, 30.0, 1.2, 0)], ids=["a small ladder's", "Hoffmann's", "without a floor"])
def test_an_exact_law_is_recovered(law):
    found = fit_power_law(N, D, law(N, D))
    assert found.error < 1e-5
    np.testing.assert_allclose(found(N, D), law(N, D), rtol=1e-4)
    np.testing.assert_allclose((found.alpha, found.beta), (law.alpha, law.beta), rtol=0.02)
    np.testing.assert_allclose(found(3e6, 6e3), law(3e6, 6e3), rtol=0.02)  # and goes on as the law does


def test_one_outlier_hardly_moves_it():
    """Huber's loss: a diverged run counts by its distance, not by its square."""
    law = PowerLaw(0.3, 40.0, 0.5, 20.0, 0.6, 0)
    losses = law(N, D)
    losses[5] *= 3
    found = fit_power_law(N, D, losses)
    keep = np.arange(len(N)) != 5
    assert np.median(np.abs(np.log(found(N, D) / law(N, D)))[keep]) < 0.05
    assert found.error > 0.2, "the error says that a rung is off"


def test_all_numbers_are_allowed_by_the_law():
    noisy = PowerLaw(0.3, 40.0, 0.5, 20.0, 0.6, 0)(N, D) * np.random.default_rng(0).lognormal(0, 0.1, len(N))
    found = fit_power_law(N, D, noisy)
    assert min(found) >= 0 and found.floor <= noisy.min() and 0.03 < found.error < 0.2
    assert fit_power_law(list(N), list(D), list(noisy)) == found, "lists work as well, and nothing is random"


@pytest.mark.parametrize("n, d, loss, message", [
    (N[:4], D[:4], D[:4], r"five unknowns, received \(4,\), \(4,\), \(4,\) numbers: three lists of one length"),
    (N, D[:9], D, "three lists of one length"), (N[None], D[None], D[None], "three lists of one length"),
    (N, D, np.where(D > 400, D, 0), "losses must be positive"), (N, D, D * np.nan, "must be positive and finite"),
    (N, D - 200, D, "examples must be positive"), (N * np.inf, D, D, "parameters must be positive")])
def test_what_cannot_be_fitted_is_refused(n, d, loss, message):
    with pytest.raises(ValueError, match=message) as error:
        fit_power_law(n, d, loss)
    assert "\n" not in str(error.value)
