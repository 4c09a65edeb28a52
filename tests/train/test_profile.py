"""A trace holds the steps that were asked for, and changes none of them."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cvjax.train.profile import profiled


@jax.jit
def step(state, batch):
    return state + batch, {"sum": state.sum()}


def steps_of(folder: Path) -> list[str]:
    """Numbers of the steps in a folder's only trace."""
    (path,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted(event["args"]["step_num"] for event in events if event.get("name") == "train")


@pytest.mark.parametrize("calls, ran, traced", [(3, 12, ["5", "6", "7"]), (3, 6, ["5"])])
def test_the_steps_after_the_first_five_are_traced(tmp_path, calls, ran, traced):
    said, state = [], np.float32([0, 1])
    with profiled(step, tmp_path / "profile", calls, said.append) as traced_step:
        for _ in range(ran):
            state, metrics = traced_step(state, np.float32([1, 2]))
    np.testing.assert_array_equal(state, [ran, 2 * ran + 1])
    assert metrics["sum"] == 3 * ran - 2
    assert steps_of(tmp_path / "profile") == traced
    assert len(said) == 1 and said[0].startswith(f"{len(traced)} steps traced into {tmp_path / 'profile'}: ")


def test_a_run_that_ends_before_says_so_and_one_that_fails_leaves_no_trace_open(tmp_path):
    said = []
    with profiled(step, tmp_path / "short", 3, said.append) as traced_step:
        traced_step(np.float32(0), np.float32(1))
    assert said == ["no step was traced: the first 5 never are, and there were 1"] and not (tmp_path / "short").exists()
    for name in ("first", "second"):  # a trace that were still open would refuse the second
        with pytest.raises(RuntimeError, match="halt"), profiled(step, tmp_path / name, 3, said.append) as traced_step:
            for _ in range(6):
                traced_step(np.float32(0), np.float32(1))
            raise RuntimeError("halt")
        assert steps_of(tmp_path / name) == ["5"]


def test_without_calls_the_step_is_itself(tmp_path):
    with profiled(step, tmp_path, 0, print) as traced_step:
        assert traced_step is step
