"""Early stopping on metrics written out."""

import dataclasses
import json
import math

import pytest

from cvjax.train.early_stopping import EarlyStopping


def run(rule, values):
    """What the rule has seen and says after each value."""
    seen = []
    for value in values:
        rule = rule.update(value)
        seen.append((rule.best, rule.waited, rule.stopped))
    return seen


def test_stops_after_patience_evaluations_without_improvement():
    assert run(EarlyStopping(patience=2), [3.0, 2.0, 2.5, 1.5, 1.5, 1.6]) == [
        (3.0, 0, False), (2.0, 0, False), (2.0, 1, False), (1.5, 0, False), (1.5, 1, False), (1.5, 2, True)]


def test_larger_is_better():
    assert run(EarlyStopping(patience=1, mode="max"), [0.5, 0.6, 0.6]) == [
        (0.5, 0, False), (0.6, 0, False), (0.6, 1, True)]


@pytest.mark.parametrize("mode, sign", [("min", 1.0), ("max", -1.0)])
def test_an_improvement_must_exceed_min_delta(mode, sign):
    """Against the best, so that many small steps add up to one improvement."""
    seen = run(EarlyStopping(patience=9, mode=mode, min_delta=0.5), [sign * v for v in (4.0, 3.75, 3.5, 3.25)])
    assert seen == [(sign * 4.0, 0, False), (sign * 4.0, 1, False), (sign * 4.0, 2, False), (sign * 3.25, 0, False)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_improvement(value):
    assert run(EarlyStopping(patience=2), [value, 1.0, value, value]) == [
        (None, 1, False), (1.0, 0, False), (1.0, 1, False), (1.0, 2, True)]


def test_a_run_that_never_gives_a_number_stops():
    assert run(EarlyStopping(patience=2), [math.nan, math.nan])[-1] == (None, 2, True)


def test_update_leaves_the_state_before_as_it_was():
    rule = EarlyStopping(patience=2)
    assert rule.update(1.0) == EarlyStopping(patience=2, best=1.0)
    assert rule == EarlyStopping(patience=2) and not rule.stopped


def test_resumes_from_json_as_if_never_interrupted():
    values, rule = [3.0, 2.0, 2.5, 2.6, 2.7], EarlyStopping(patience=3)
    through = run(rule, values)
    for cut in range(len(values)):
        before = rule
        for value in values[:cut]:
            before = before.update(value)
        state = json.loads(json.dumps(before.state()))
        assert run(dataclasses.replace(rule, **state), values[cut:]) == through[cut:]


@pytest.mark.parametrize("options, message", [
    ({"patience": 0}, "patience 0: it must be at least 1"),
    ({"patience": 1, "mode": "best"}, "mode 'best': it must be 'min' or 'max'"),
    ({"patience": 1, "min_delta": -0.1}, "min_delta -0.1: it must be 0 or more"),
    ({"patience": 1, "min_delta": math.nan}, "min_delta nan: it must be 0 or more"),
])
def test_a_rule_not_allowed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)
