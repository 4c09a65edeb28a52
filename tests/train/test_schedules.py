"""Learning rates at the points that can be worked out by hand."""

import math

import pytest

from cvjax.train.schedules import scaled_learning_rate, warmup_cosine


def test_end_points_and_middle():
    schedule = warmup_cosine(0.4, warmup_steps=10, total_steps=110, final=0.1)
    # float32 of values below 1: 1e-6 is 10 roundings.
    for step, rate in ((0, 0.0), (5, 0.2), (10, 0.4), (60, 0.25), (110, 0.1), (500, 0.1)):
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)
    assert float(schedule(35)) == pytest.approx(0.1 + 0.3 * (1 + math.cos(math.pi / 4)) / 2, abs=1e-6)


def test_without_warm_up_the_first_step_has_the_peak():
    schedule = warmup_cosine(0.4, warmup_steps=0, total_steps=4)
    assert float(schedule(0)) == pytest.approx(0.4) and float(schedule(4)) == pytest.approx(0, abs=1e-6)
    assert float(warmup_cosine(0.4, warmup_steps=0, total_steps=1)(0)) == pytest.approx(0.4)


def test_rises_then_falls():
    rates = [float(warmup_cosine(1.0, warmup_steps=7, total_steps=50)(step)) for step in range(51)]
    assert rates[:8] == sorted(rates[:8]) and rates[7:] == sorted(rates[7:], reverse=True)
    assert max(rates) == rates[7] == 1.0


@pytest.mark.parametrize("warmup, total", [(10, 10), (11, 10), (-1, 10), (0, 0)])
def test_warm_up_that_does_not_fit_is_refused(warmup, total):
    with pytest.raises(ValueError, match=f"warm-up of {warmup} steps does not fit into {total} steps"):
        warmup_cosine(1.0, warmup_steps=warmup, total_steps=total)


def test_linear_scaling_rule():
    assert scaled_learning_rate(1.5e-4, 256) == 1.5e-4
    assert scaled_learning_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)  # the paper's batch and rate
