"""The nearest known words."""

import pytest

from cvjax.spelling import did_you_mean, nearest

KNOWN = ["batch_size", "seed", "steps", "steps_per_dispatch", "epochs"]


@pytest.mark.parametrize("word, found", [
    ("step", ["steps", "steps_per_dispatch"]), ("Seed", ["seed"]), ("epoch", ["epochs"]), ("b", ["batch_size"]),
    ("zzz", []), ("", [])])
def test_the_nearest_words(word, found):
    assert nearest(word, KNOWN) == found


def test_the_hint_is_a_question_or_what_is_said_otherwise():
    assert did_you_mean("sed", iter(KNOWN)) == "did you mean seed?"
    assert did_you_mean("zzz", KNOWN, "no such word") == "no such word"
