import numpy as np
import pytest

from cvjax.visualize.predictions import plot_predictions
from tests.visualize.figures import NAMES, read, texts


@pytest.mark.parametrize("count", [1, 2, 6])
def test_dots_are_images_and_the_line_is_the_truth(tmp_path, saved, count):
    numbers = np.random.default_rng(0)
    truth = numbers.standard_normal((20, count)) * 50 + 1000
    found = truth + numbers.standard_normal((20, count)) * 9
    plot_predictions(tmp_path / "predictions.png", truth, found, NAMES[:count], title="test split")
    assert (read(tmp_path / "predictions.png") < 0.5).any()
    shown = [axes for axes in saved[0].axes if axes.get_visible()]
    assert len(shown) == count and "test split: 20 images" in texts(saved[0])
    for axes, x, y in zip(shown, truth.T, found.T, strict=True):
        line, dots = axes.lines
        np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
        np.testing.assert_array_equal((dots.get_xdata(), dots.get_ydata()), (x, y))
        assert axes.get_xlim() == axes.get_ylim() and axes.get_xlim()[0] < min(x.min(), y.min())


def test_of_many_columns_the_first_are_shown_and_one_number_can_be_drawn(tmp_path, saved):
    plot_predictions(tmp_path / "many.png", np.ones((1, 20)), np.ones((1, 20)), [f"{i}" for i in range(20)])
    assert len([axes for axes in saved[0].axes if axes.get_visible()]) == 12
    assert "1 images, the first 12 of 20 columns" in texts(saved[0])


@pytest.mark.parametrize("truth, found", [(np.ones((2, 1)), np.ones((2, 2))), (np.ones((0, 2)), np.ones((0, 2))),
                                          (np.full((1, 2), np.nan), np.ones((1, 2)))])
def test_other_numbers_are_refused(tmp_path, truth, found):
    with pytest.raises(ValueError, match="truth and predictions"):
        plot_predictions(tmp_path / "predictions.png", truth, found, ["a", "b"])
