"""The guard's warnings about windows made by hand."""

import json
import math
import re

import pytest

from cvjax.evaluate.collapse import ProjectionGuard, TeacherGuard

K = 256
LARGEST = math.log(K)


def window(loss, entropy, spread, top=0.05):
    """spread: the entropy of the mean answer; all three in shares of ln K."""
    return {"loss": loss * LARGEST, "teacher_entropy": entropy * LARGEST, "kl_to_uniform": (1 - spread) * LARGEST,
            "top_prototype": top, "center_norm": 1.0}


HEALTHY = window(0.6, 0.3, 0.9)
UNIFORM = window(1.0, 0.999, 1.0)
ONE_PROTOTYPE = window(0.001, 0.001, 0.004, top=0.98)
CONSTANT = window(0.5, 0.5, 0.50005)
SKIPPED = dict.fromkeys(HEALTHY, math.nan)


def said(guard, *windows):
    """The warning after each window."""
    seen = []
    for means in windows:
        guard.update(means)
        seen.append(guard.warning)
    return seen


@pytest.mark.parametrize("means, message", [
    (UNIFORM, r"collapse: loss at ln\(256\) and the teacher's answers are uniform; a lower teacher temperature"),
    (ONE_PROTOTYPE, "collapse: the teacher's entropy is 0 and one prototype takes 98% of the images; centring works"),
    (CONSTANT, "collapse: the teacher answers every image alike"),
])
def test_each_collapse_is_said_after_patience_windows_and_in_one_line(means, message):
    guard = TeacherGuard(K, patience=3)
    assert said(guard, HEALTHY, means, means) == [None] * 3
    (warning,) = said(guard, means)
    assert re.match(message, warning) and "\n" not in warning
    assert said(guard, means) == [warning] and not guard.stopped


@pytest.mark.parametrize("means", [
    HEALTHY,
    window(0.98, 0.999, 1.0),  # uniform answers that the student does not yet give
    window(1.0, 0.98, 1.0),  # an untrained student of a teacher that says something
    window(0.2, 0.001, 0.9),  # every image has a sharp answer of its own
    window(0.2, 0.005, 0.6, top=0.5),  # one prototype for half of the images
    window(0.5, 0.5, 0.5002),  # a fiftieth of a per cent of ln K tells the images apart
])
def test_what_is_no_collapse(means):
    assert said(TeacherGuard(K, patience=1), means) == [None]


def test_a_healthy_window_begins_the_count_anew():
    guard = TeacherGuard(K, patience=2, stop=True)
    assert said(guard, UNIFORM, HEALTHY, CONSTANT, HEALTHY, ONE_PROTOTYPE) == [None] * 5 and not guard.stopped
    assert said(guard, UNIFORM)[0].startswith("collapse: loss at"), "different collapses follow each other in a row"
    assert guard.stopped


def test_a_run_that_recovers_is_well_again():
    guard = TeacherGuard(K, patience=1)
    first, second, third = said(guard, CONSTANT, HEALTHY, HEALTHY)
    assert first is not None and second is third is None


def test_a_window_of_skipped_steps_tells_nothing_either_way():
    guard = TeacherGuard(K, patience=2, stop=True)
    assert said(guard, SKIPPED, SKIPPED, SKIPPED) == [None] * 3
    assert said(guard, CONSTANT, SKIPPED, CONSTANT)[-1] is not None, "it is no sign of health"
    assert said(guard, SKIPPED)[0] is not None and guard.stopped


def test_only_a_guard_that_shall_stop_a_run_does():
    for stop in (False, True):
        guard = TeacherGuard(K, patience=1, stop=stop)
        assert not guard.stopped
        guard.update(UNIFORM)
        assert guard.stopped is stop


@pytest.mark.parametrize("saved_after", range(5))
def test_goes_on_from_its_state_as_if_nothing_had_happened(saved_after):
    windows = [CONSTANT, CONSTANT, CONSTANT, HEALTHY, CONSTANT]
    expected = said(TeacherGuard(K, patience=2), *windows)
    first, second = (TeacherGuard(K, patience=2, stop=True) for _ in range(2))
    before = said(first, *windows[:saved_after])
    second.restore(json.loads(json.dumps(first.state())))
    assert (second.warning, second.stopped) == (first.warning, first.stopped)
    assert before + said(second, *windows[saved_after:]) == expected


@pytest.mark.parametrize("out_dim, patience", [(1, 1), (2, 0), (0, 5)])
def test_a_guard_without_a_sense_is_refused(out_dim, patience):
    with pytest.raises(ValueError, match=f"out_dim {out_dim}, patience {patience}: they must be at least 2 and 1"):
        TeacherGuard(out_dim, patience=patience)


def test_projections_that_point_one_way_are_a_collapse_after_patience_windows():
    """Spread evenly in 64 dimensions, a channel's deviation is 1/8; a half of that is where a collapse is seen."""
    guard, healthy, alike = ProjectionGuard(64, patience=2, stop=True), {"projection_std": 0.063}, 0.06
    assert said(guard, healthy, {"projection_std": alike}, healthy, {"projection_std": alike}) == [None] * 4
    (warning,) = said(guard, {"projection_std": alike})
    assert warning == "collapse: the deviation of the projections is 0.48 of 1 / sqrt(64): images become alike"
    assert guard.stopped
    assert said(guard, {"projection_std": math.nan}) == [warning], "a window of skipped steps tells nothing"
    assert said(guard, healthy) == [None]


@pytest.mark.parametrize("dim, patience", [(0, 1), (2, 0)])
def test_a_guard_of_no_projections_is_refused(dim, patience):
    with pytest.raises(ValueError, match=f"dim {dim}, patience {patience}: they must be at least 1"):
        ProjectionGuard(dim, patience=patience)
