"""The campaign of `python -m tests.faults`, in its shortest form."""

import pytest

from tests.faults import EXPERIMENTS, campaign
from tests.power_cut import Unavailable


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_experiment_ends_as_the_undisturbed_one_after_faults(environment, tmp_path):
    found = []
    try:
        for outcome in campaign(5, 0, tmp_path, environment()):
            found.append(outcome)
    except Unavailable as missing:
        print(f"not done: {missing}")
    assert [outcome for outcome in found if outcome.problem] == []
    assert {outcome.experiment for outcome in found} == set(EXPERIMENTS)
