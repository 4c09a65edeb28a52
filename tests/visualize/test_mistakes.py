import numpy as np
import pytest

from cvjax.visualize import mistake_panel
from tests.visualize.figures import NAMES, misplaced, read, texts

IMAGES = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
LABELS, PREDICTIONS = np.array([0, 1, 2, 3, 4, 5]), np.array([0, 2, 2, 1, 0, 1])
PROBABILITY = np.array([1.0, 0.7, 0.9, 0.95, 0.2, 0.7])


def test_the_surest_mistakes_come_first(tmp_path, saved):
    mistake_panel(tmp_path / "m.png", IMAGES, LABELS, PREDICTIONS, PROBABILITY, NAMES, most=3, title="digits")
    written = texts(saved[0])
    assert written[:2] == ["digits", "3 of 4 mistakes"]
    assert written[2:4] == ["95.0 % $x^2$ and $y", "true: class 3"]
    assert written[4].startswith("70.0 % a very") and written[5] == "true: $x^2$ and $y"  # of equals the first
    assert written[6:] == ["70.0 % $x^2$ and $y", "true: 日本語"]
    assert misplaced(saved[0]) == []
    png, top = read(tmp_path / "m.png"), 18 + 6 + 16 + 6
    np.testing.assert_allclose(png[top:top + 136, 18:18 + 136],
                               np.kron(IMAGES[3], np.ones((17, 17, 3))), atol=1 / 255)


def test_the_count_of_all_mistakes_can_be_given(tmp_path, saved):
    mistake_panel(tmp_path / "m.png", IMAGES, LABELS, PREDICTIONS, PROBABILITY, NAMES, total=70)
    assert "4 of 70 mistakes" in texts(saved[0])


@pytest.mark.parametrize("count", [0, 5])
def test_no_mistake_is_said(tmp_path, saved, count):
    right = LABELS[:count]
    mistake_panel(tmp_path / "m.png", IMAGES[:count], right, right, PROBABILITY[:count], NAMES, title="test split")
    assert texts(saved[0]) == ["test split", "no mistakes"]
    assert (read(tmp_path / "m.png") < 0.5).any()


@pytest.mark.parametrize("count, most", [(1, 1), (7, 24), (200, 36)])
def test_grids_of_any_size(tmp_path, saved, count, most):
    which = np.arange(count)
    mistake_panel(tmp_path / "m.png", IMAGES[which % 6], which % 6, (which + 1) % 6, which / count, NAMES, most=most,
                  title="a long title " * 8)
    assert misplaced(saved[0]) == []
    assert sum(text.startswith("true: ") for text in texts(saved[0])) == min(count, most)
    assert max(read(tmp_path / "m.png").shape) < 2000


@pytest.mark.parametrize("change, message", [
    (dict(most=0), "most must be at least 1, received 0"),
    (dict(labels=LABELS[:2]), "labels must be integers of shape"),
    (dict(names=["a"]), r"labels must lie in \[0, 1\), the named classes, received 0 to 5"),
    (dict(probability=PROBABILITY + 1), "received 1.2 to 2"), (dict(images=IMAGES[0]), r"received \(8, 8, 1\)")])
def test_errors_say_what_came(tmp_path, change, message):
    arguments = dict(images=IMAGES, labels=LABELS, predictions=PREDICTIONS, probability=PROBABILITY, names=NAMES)
    with pytest.raises(ValueError, match=message):
        mistake_panel(tmp_path / "m.png", **arguments | change)
