"""Learning rates at the points that can be worked out by hand."""

import math

import jax
import numpy as np
import pytest

from cvjax.train.schedules import (
    SCHEDULES,
    cosine_between,
    make_schedule,
    scaled_learning_rate,
    stairs,
)


def rates(name, peak, total, warmup=0, **options):
    """The rates of all steps, compiled as a training run has them."""
    schedule = make_schedule(name, peak, warmup_steps=warmup, total_steps=total, **options)
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(total)))


def test_end_points_and_middle():
    schedule = make_schedule("cosine", 0.4, warmup_steps=10, total_steps=110, final=0.1)
    # float32 of values below 1: 1e-6 is 10 roundings.
    for step, rate in ((0, 0.0), (5, 0.2), (10, 0.4), (60, 0.25), (110, 0.1), (500, 0.1)):
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)
    assert float(schedule(35)) == pytest.approx(0.1 + 0.3 * (1 + math.cos(math.pi / 4)) / 2, abs=1e-6)


def test_without_warm_up_the_first_step_has_the_peak():
    schedule = make_schedule("cosine", 0.4, warmup_steps=0, total_steps=4)
    assert float(schedule(0)) == pytest.approx(0.4) and float(schedule(4)) == pytest.approx(0, abs=1e-6)
    assert float(make_schedule("cosine", 0.4, warmup_steps=0, total_steps=1)(0)) == pytest.approx(0.4)


def test_rises_then_falls():
    cosine = [float(make_schedule("cosine", 1.0, warmup_steps=7, total_steps=50)(step)) for step in range(51)]
    assert cosine[:8] == sorted(cosine[:8]) and cosine[7:] == sorted(cosine[7:], reverse=True)
    assert max(cosine) == cosine[7] == 1.0


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("one_cycle", "dino")])
def test_every_schedule_warms_up_in_a_straight_line_from_its_start(name):
    found = rates(name, 0.5, total=40, warmup=8, start=0.1)
    np.testing.assert_allclose(found[:9], np.linspace(0.1, 0.5, 9), rtol=1e-6)
    assert rates(name, 0.5, total=40, warmup=8)[0] == 0
    assert rates(name, 0.5, total=40)[0] == np.float32(0.5)
    after = np.asarray([float(make_schedule(name, 0.5, warmup_steps=0, total_steps=32)(step)) for step in range(32)])
    if name != "step":  # whose milestones are shares of the whole run
        np.testing.assert_allclose(found[8:], after, atol=1e-7)


def test_constant():
    np.testing.assert_array_equal(rates("constant", 0.25, total=5), [0.25] * 5)


def test_step_falls_at_shares_of_the_whole_run():
    found = rates("step", 0.8, total=20, warmup=3, milestones=(0.25, 0.5, 0.75), factor=0.5)
    np.testing.assert_allclose(found, [0, 0.8 / 3, 1.6 / 3, 0.8, 0.8, *[0.4] * 5, *[0.2] * 5, *[0.1] * 5], rtol=1e-6)
    np.testing.assert_allclose(rates("step", 1.0, total=9), [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01], rtol=1e-6)
    # Both milestones of a very short run may be the same step: both factors count.
    np.testing.assert_allclose(rates("step", 1.0, total=2, milestones=(0.45, 0.55), factor=0.1), [1, 0.01], rtol=1e-6)
    np.testing.assert_array_equal(rates("step", 1.0, total=3, milestones=()), [1, 1, 1])


def test_linear():
    found = rates("linear", 1.0, total=6, warmup=2, final=0.2)
    np.testing.assert_allclose(found, [0, 0.5, 1, 0.8, 0.6, 0.4], rtol=1e-6)


def test_polynomial():
    # Shares left: 1, 3/4, 1/2, 1/4.
    np.testing.assert_allclose(rates("polynomial", 1.6, total=4), [1.6, 0.9, 0.4, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates("polynomial", 1.0, total=4, power=0.9, final=0.5),
                               [0.5 + 0.5 * left**0.9 for left in (1, 0.75, 0.5, 0.25)], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_dinos_rate_is_that_of_its_authors(warmup):
    """A line by `np.linspace` with its end, joined to a cosine with its start; float32 of values below 1."""
    total, peak, final = 40, 0.8, 0.01
    left = np.arange(total - warmup) / (total - warmup)
    expected = [*np.linspace(0, peak, warmup), *(final + (peak - final) * (1 + np.cos(np.pi * left)) / 2)]
    np.testing.assert_allclose(rates("dino", peak, total, warmup, final=final), expected, rtol=0, atol=2e-7)
    if warmup > 1:
        assert expected[warmup - 1] == expected[warmup] == peak


def test_dinos_decay_and_momentum_are_the_same_cosine_without_a_warm_up():
    for start, end in ((0.04, 0.4), (0.996, 1.0)):
        found = jax.vmap(cosine_between(start, end, 30))(np.arange(30))
        expected = end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.arange(30) / 30))
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)


def test_one_cycle():
    found = rates("one_cycle", 0.5, total=11, warmup=5)
    assert found[0] == pytest.approx(0.02) and found[4] == pytest.approx(0.5) and found[10] == pytest.approx(2e-6)
    assert found[2] == pytest.approx((0.02 + 0.5) / 2) and found[7] == pytest.approx((0.5 + 2e-6) / 2)
    assert found[1] == pytest.approx(0.02 + 0.48 * (1 - math.cos(math.pi / 4)) / 2)
    late = make_schedule("one_cycle", 0.5, warmup_steps=5, total_steps=11)(10_000)
    assert float(late) == pytest.approx(2e-6), "it stays down"


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
def test_ends_at_the_final_rate_and_stays_there(name):
    schedule = make_schedule(name, 0.4, warmup_steps=2, total_steps=10, final=0.1)
    assert [float(schedule(step)) for step in (10, 11, 1000)] == pytest.approx([0.1] * 3)


@pytest.mark.parametrize("warmup, total", [(10, 10), (11, 10), (-1, 10), (0, 0)])
def test_warm_up_that_does_not_fit_is_refused(warmup, total):
    with pytest.raises(ValueError, match=f"warm-up of {warmup} steps does not fit into {total} steps"):
        make_schedule("cosine", 1.0, warmup_steps=warmup, total_steps=total)


@pytest.mark.parametrize("name, options, message", [
    ("cosin", {}, "unknown schedule 'cosin': it must be one of constant, step, cosine, one_cycle, linear, polynomial, "
     "dino"),
    ("constant", {"final": 0.0}, "schedule 'constant' does not read final: it reads nothing"),
    ("cosine", {"power": 2.0}, "schedule 'cosine' does not read power: it reads final"),
    ("one_cycle", {"final": 0.0}, "schedule 'one_cycle' does not read final: it reads nothing"),
    ("one_cycle", {"start": 0.0}, "start 0.0: it must be None, one_cycle starts at peak / 25"),
    ("dino", {"start": 0.0}, "start 0.0: it must be None, dino starts at 0"),
    ("one_cycle", {"warmup_steps": 1}, "one_cycle with a warm-up of 1 steps: its rise needs at least 2"),
    ("cosine", {"warmup_steps": 0, "start": 0.1}, "start 0.1: it must be None, without warm-up"),
    ("cosine", {"start": 2.0}, "start 2.0: it must be from 0 to the peak 1.0"),
    ("linear", {"final": -0.1}, "final -0.1: it must be from 0 to the peak 1.0"),
    ("linear", {"peak": math.nan}, "peak nan: it must be a number from 0 on"),
    ("polynomial", {"power": 0.0}, "power 0.0: it must be more than 0"),
    ("step", {"factor": 1.0}, "factor 1.0: it must be between 0 and 1"),
    ("step", {"milestones": (0.5, 0.5)}, r"milestones \(0.5, 0.5\): they must be rising shares of the run"),
    ("step", {"milestones": (30, 60)}, r"milestones \(30, 60\): they must be rising shares of the run"),
    ("step", {"milestones": (0.1,)}, "the first milestone is step 1: it must not be in the warm-up of 3 steps"),
])
def test_what_cannot_be_is_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        make_schedule(name, **{"peak": 1.0, "warmup_steps": 3, "total_steps": 10} | options)
    assert "\n" not in str(error.value)


def test_linear_scaling_rule():
    assert scaled_learning_rate(1.5e-4, 256) == 1.5e-4
    assert scaled_learning_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)  # the paper's batch and rate


@pytest.mark.parametrize("start, end", [(0.996, 1.0), (0.04, 0.4), (0.4, 0.04), (0.3, 0.3)])
def test_cosine_between_is_that_of_dino(start, end):
    """Its first value is the start, and the end is one step after the last, as `np.cos(pi i / n)` has it."""
    total = 37
    expected = [end + (start - end) * (1 + math.cos(math.pi * i / total)) / 2 for i in range(total)] + [end] * 3
    found = jax.jit(jax.vmap(cosine_between(start, end, total)))(np.arange(total + 3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)  # a few roundings of 2**-24


def test_a_momentum_never_passes_its_end():
    momentum = np.asarray(jax.jit(jax.vmap(cosine_between(0.996, 1.0, 1000)))(np.arange(1100)))
    assert momentum.max() == 1.0 and (np.diff(momentum) >= 0).all()


@pytest.mark.parametrize("rises, per_rise", [(0, 5), (1, 5), (2, 5), (3, 7), (30, 3)])
def test_stairs_are_the_levels_of_linspace_held_for_an_epoch_each(rises, per_rise):
    epochs = rises + 3
    expected = np.repeat([*np.linspace(0.04, 0.07, rises), *[0.07] * (epochs - rises)], per_rise)
    for found in (jax.jit(jax.vmap(stairs(0.04, 0.07, rises, per_rise)))(np.arange(epochs * per_rise)),
                  [float(stairs(0.04, 0.07, rises, per_rise)(step)) for step in range(epochs * per_rise)]):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_stairs_of_an_epoch_that_is_no_whole_number_of_steps():
    """2.5 steps: the second epoch begins within step 2, so step 3 is its first."""
    found = jax.jit(jax.vmap(stairs(1.0, 3.0, 3, 2.5)))(np.arange(10))
    np.testing.assert_array_equal(found, [1, 1, 1, 2, 2, 3, 3, 3, 3, 3])


TORCH = {
    "constant": ({}, lambda s, o, total, warmup: s.ConstantLR(o, factor=1.0)),
    "step": ({"milestones": (0.25, 0.6), "factor": 0.3},
             lambda s, o, total, warmup: s.MultiStepLR(o, [round(m * total) - warmup for m in (0.25, 0.6)], 0.3)),
    "cosine": ({"final": 0.02}, lambda s, o, total, warmup: s.CosineAnnealingLR(o, total - warmup, 0.02)),
    "linear": ({"final": 0.02}, lambda s, o, total, warmup: s.LinearLR(o, 1.0, 0.02 / 0.4, total - warmup)),
    "polynomial": ({"power": 0.9}, lambda s, o, total, warmup: s.PolynomialLR(o, total - warmup, 0.9)),
}


def torch_rates(torch, total, make):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    scheduler, found = make(optimizer), []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's own, about its SequentialLR
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", TORCH)
def test_torch(name, warmup):
    """torch works in float64, some of it step by step; a float32 rate below 0.4 is off by a few 3e-8."""
    torch = pytest.importorskip("torch")
    schedulers, total = torch.optim.lr_scheduler, 60
    options, build = TORCH[name]

    def make(optimizer):
        if not warmup:
            return build(schedulers, optimizer, total, warmup)
        rise = schedulers.LinearLR(optimizer, 0.1 / 0.4, 1.0, warmup)
        return schedulers.SequentialLR(optimizer, [rise, build(schedulers, optimizer, total, warmup)], [warmup])

    found = rates(name, 0.4, total, warmup, **options | ({"start": 0.1} if warmup else {}))
    np.testing.assert_allclose(found, torch_rates(torch, total, make), rtol=0, atol=2e-7)


@pytest.mark.parity
@pytest.mark.parametrize("share, total", [(0.3, 100), (0.25, 60)])
def test_one_cycle_of_torch(share, total):
    torch = pytest.importorskip("torch")
    expected = torch_rates(torch, total, lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total, pct_start=share))
    found = rates("one_cycle", 0.4, total, warmup=round(share * total))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)
