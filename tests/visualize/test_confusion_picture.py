import numpy as np
import pytest

from cvjax.visualize import plot_confusion
from tests.visualize.figures import NAMES, misplaced, read, texts


def matrix(classes, seed=0):
    return np.random.default_rng(seed).integers(0, 9, (classes, classes)) + 40 * np.eye(classes, dtype=int)


@pytest.mark.parametrize("classes", [1, 2, 6, 20, 21, 100])
def test_readable_from_one_class_to_a_hundred(tmp_path, saved, classes):
    names = (NAMES + [f"a class of number {i}" for i in range(6, 100)])[:classes]
    plot_confusion(tmp_path / "c.png", matrix(classes), names, title="test split " * 6)
    assert misplaced(saved[0]) == []
    axes = saved[0].axes[0]
    assert len(axes.get_xticklabels()) == len(axes.get_yticklabels()) == classes
    pitch = axes.get_window_extent().height / classes
    assert pitch >= 10 and all(label.get_window_extent().height <= pitch + 4 for label in axes.get_yticklabels())
    height, width, _ = read(tmp_path / "c.png").shape
    assert 300 < height < 2000 and 300 < width < 2000
    counts = {text.get_text() for text in axes.texts}
    assert bool(counts) == (classes <= 20)


def test_rows_are_the_truth_and_colours_are_shares_of_them(tmp_path, saved):
    counts = np.array([[3, 1, 0], [0, 0, 0], [20, 60, 1234]])
    plot_confusion(tmp_path / "c.png", counts, ["cat", "", "dog"], title="three")
    axes = saved[0].axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown[[0, 2]], counts[[0, 2]] / counts[[0, 2]].sum(axis=1, keepdims=True))
    assert np.isnan(shown[1]).all()
    assert (axes.get_ylabel(), axes.get_xlabel(), axes.get_title()) == ("true", "predicted", "three")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "class 1", "dog"]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "3", (1, 0): "1", (0, 2): "20", (1, 2): "60", (2, 2): "1234"}
    grey = np.abs(read(tmp_path / "c.png") - 211 / 255).max(axis=-1) < 0.01
    assert grey.sum() > 3000  # the row of nothing


def test_large_counts_do_not_touch(tmp_path, saved):
    plot_confusion(tmp_path / "c.png", np.full((12, 12), 1_234_567), [str(i) for i in range(12)])
    assert misplaced(saved[0]) == [] and "1234567" in texts(saved[0])


@pytest.mark.parametrize("counts, names, message", [
    (np.zeros((2, 3), int), ["a", "b"], r"\(K, K\) with K > 0, received shape \(2, 3\)"),
    (np.eye(2), ["a", "b"], "counts of 0 or more, received float64"), (-np.eye(2, dtype=int), ["a", "b"], "from -1"),
    (np.eye(2, dtype=int), ["a"], "each of 2 classes, received 1")])
def test_errors_say_what_came(tmp_path, counts, names, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion(tmp_path / "c.png", counts, names)
