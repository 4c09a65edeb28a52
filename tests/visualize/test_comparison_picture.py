import numpy as np
import pytest

from cvjax.visualize.comparison import plot_comparison
from tests.visualize.figures import NAMES, misplaced, read, texts

TITLES = ["knn", "linear_probe †", "few_shot/shots=1", "test/loss", "knn/$k$=20"]
COLUMNS = {title.removesuffix(" †"): title for title in TITLES}
ROWS = {"runs/digits… (3 seeds)": [(0.9312, 0.003), (0.95, 0.012), None, (2.3, 0.4), (0.5, None)],
        "b": [(0.9311, None), (0.7, 0.1), (0.31, None), (1.6, 0.01), None]}


def test_a_dot_for_each_number_with_its_deviation_and_none_where_there_is_none(tmp_path, saved):
    plot_comparison(tmp_path / "comparison.png", COLUMNS, ROWS)
    assert (read(tmp_path / "comparison.png") < 0.5).any()
    axes = saved[0].axes
    assert [a.get_title() for a in axes] == TITLES
    for number, (column, panel) in enumerate(zip(COLUMNS, axes, strict=True)):
        cells = [(place, row[number]) for place, row in enumerate(ROWS.values()) if row[number] is not None]
        for (place, (value, deviation)), drawn in zip(cells, panel.containers, strict=True):
            assert tuple(np.concatenate(drawn.lines[0].get_data())) == (value, place)
            assert drawn.has_xerr == (deviation is not None)
            if deviation is not None:
                ends = drawn.lines[2][0].get_segments()[0][:, 0]
                np.testing.assert_allclose(ends, [value - deviation, value + deviation])
        assert [text.get_text() for text in panel.texts] == [
            f"{value}" if column == "test/loss" else f"{100 * value:.2f} %" for _, (value, _) in cells]
        assert panel.xaxis.get_ticklabels()[0].get_text().endswith(" %") == (column != "test/loss")
        low, high = panel.get_ylim()
        assert low > high, "the first row is on top"
    shown = texts(saved[0])
    assert shown.count("b") == 2 and not misplaced(saved[0])  # labels stand once in each row of panels


def test_difficult_and_long_names_are_drawn_and_shortened_in_the_middle(tmp_path, saved):
    plot_comparison(tmp_path / "comparison.png", {"knn": "knn"}, {name: [(0.5, None)] for name in NAMES} | {
        "runs/" + "x" * 80 + "-seed=1": [(0.4, None)]})
    labels = [label.get_text() for label in saved[0].axes[0].get_yticklabels()]
    assert labels[-1].startswith("runs/xx") and labels[-1].endswith("x-seed=1") and len(labels[-1]) <= 44
    assert labels[1] == NAMES[1]


@pytest.mark.parametrize("columns, rows", [({}, {"a": []}), ({"knn": "knn"}, {}), ({"knn": "knn"}, {"a": []})])
def test_rows_that_do_not_fit_the_columns_are_refused(tmp_path, columns, rows):
    with pytest.raises(ValueError, match="rows must have a cell for each"):
        plot_comparison(tmp_path / "comparison.png", columns, rows)
