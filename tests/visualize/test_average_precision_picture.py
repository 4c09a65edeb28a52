import numpy as np
import pytest

from cvjax.visualize.average_precision import plot_average_precision
from tests.visualize.figures import NAMES, misplaced, read, texts


def test_bars_rise_to_the_best_label_and_unknown_ones_are_left_out(tmp_path, saved):
    values = np.array([0.5, 0.25, 1.0, np.nan, 0.75, 0.0])
    plot_average_precision(tmp_path / "ap.png", values, [3, 1, 2, 0, 1200, 4], NAMES, title="test split")
    assert (read(tmp_path / "ap.png") < 0.5).any() and misplaced(saved[0]) == []
    axes = saved[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0, 0.25, 0.5, 0.75, 1]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "日本語  (4)", "$x^2$ and $y  (1)", "zero  (3)", "été Ж  (1,200)", "a very long name, the great…  (2)"]
    assert axes.lines[0].get_xdata()[0] == 0.5 and "test split: mean 50.00 %, 5 labels" in texts(saved[0])


def test_of_many_labels_the_worst_are_shown(tmp_path, saved):
    plot_average_precision(tmp_path / "ap.png", np.linspace(0, 1, 100), np.ones(100, int), [f"{i}" for i in range(100)])
    assert len(saved[0].axes[0].patches) == 60 and "mean 50.00 %, the worst 60 of 100 labels" in texts(saved[0])
    assert misplaced(saved[0]) == []


@pytest.mark.parametrize("values, support", [([0.5], [1, 2]), ([0.5, 1.5], [1, 2]), ([0.5, 0.5, 0.5], [1, 2, 3])])
def test_other_numbers_are_refused(tmp_path, values, support):
    with pytest.raises(ValueError, match="precision"):
        plot_average_precision(tmp_path / "ap.png", values, support, ["a", "b"])
