import numpy as np
import pytest

from cvjax.visualize.precision_recall import plot_precision_recall
from tests.visualize.figures import NAMES, misplaced, read, texts

CURVE = np.array([0.25, 0.25, 0.5, 0.5]), np.array([1, 0.5, 2 / 3, 0.5])


def test_lines_are_the_curves_and_the_legend_has_their_areas(tmp_path, saved):
    plot_precision_recall(tmp_path / "p.png", [CURVE, None, (np.array([]), np.array([])), (np.ones(1), np.ones(1))],
                          ["a", "b", "c", "d"], title="a model " * 6)
    lines = {line.get_label(): line.get_xydata() for line in saved[0].axes[0].lines}
    # 0.25 * 1 + 0.25 * 2 / 3, precision made falling
    assert list(lines) == ["d  100.00 %", "a  41.67 %", "c  0.00 %"]
    np.testing.assert_allclose(lines["a  41.67 %"], [[0, 1], [0.25, 1], [0.25, 2 / 3], [0.5, 2 / 3], [0.5, 0.5],
                                                   [0.5, 0]])
    assert "average precision" in texts(saved[0]) and misplaced(saved[0]) == []
    assert read(tmp_path / "p.png").shape == (576, 864, 3)


def test_any_names(tmp_path, saved):
    plot_precision_recall(tmp_path / "p.png", [CURVE] * 6, NAMES)
    assert misplaced(saved[0]) == []


@pytest.mark.parametrize("curves, message", [
    ([None], "at least one curve"), ([CURVE, CURVE], "received 2 curves"),
    ([(CURVE[0][::-1], CURVE[1])], "recall of a, which rises"),
    ([(CURVE[0], CURVE[1][:2])], r"received \(4,\) and \(2,\)"),
    ([(CURVE[0], 2 * CURVE[1])], r"must lie in \[0, 1\], received")])
def test_errors_say_what_came(tmp_path, curves, message):
    with pytest.raises(ValueError, match=message):
        plot_precision_recall(tmp_path / "p.png", curves, ["a"])
