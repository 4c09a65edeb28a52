"""A long training takes no more at its end than soon after its start."""

import pytest

from tests.endurance import ends, train


@pytest.mark.slow
def test_memory_files_threads_and_the_folder_stay_as_they_are(environment, tmp_path):
    """Between the second and the last fifth lie 10 evaluations and checkpoints and 2,400 steps: a thread or a file that
    each leaves behind shows, and so do 4 kB of memory in each step."""
    samples = train(tmp_path, 4000, environment())
    assert len(samples) >= 10
    found = ends(samples)
    early, late = found["memory"]
    assert late < early + 10
    for kind, most in (("files", 8), ("threads", 8), ("processes", 0), ("other_files", 0)):
        early, late = found[kind]
        assert late <= early + most, (kind, found)
    # The two newest, the best, and the one before them until the next save begins.
    assert max(one.checkpoints for one in samples) <= 4
