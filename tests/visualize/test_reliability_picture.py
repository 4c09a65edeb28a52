import numpy as np
import pytest

from cvjax.visualize import plot_reliability
from tests.visualize.figures import misplaced, read, texts

CONFIDENCE = np.array([0.2, np.nan, 0.7, 0.9])
ACCURACY = np.array([0.4, np.nan, 0.6, 0.7])
COUNT = np.array([10, 0, 30, 60])


def test_bars_are_the_bins(tmp_path, saved):
    plot_reliability(tmp_path / "r.png", CONFIDENCE, ACCURACY, COUNT, title="a model " * 12)
    upper, lower = saved[0].axes
    kept, sure, unsure = (container.patches for container in upper.containers)
    assert [bar.get_x() for bar in kept] == [0, 0.5, 0.75] and [bar.get_width() for bar in kept] == [0.25] * 3
    np.testing.assert_allclose([bar.get_height() for bar in kept], ACCURACY[[0, 2, 3]])
    spans = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in [*sure, *unsure]]
    np.testing.assert_allclose(spans, [(0.6, 0.7), (0.7, 0.9), (0.2, 0.4)])
    assert [bar.get_x() for bar in [*sure, *unsure]] == [0.5, 0.75, 0]
    np.testing.assert_allclose([bar.get_height() for bar in lower.containers[0].patches], COUNT / 100)
    written = " ".join(texts(saved[0]))
    assert "expected calibration error 17.00 %" in written  # 0.1 * 0.2 + 0.3 * 0.1 + 0.6 * 0.2
    assert "mean confidence 77.0 %" in written and "mean accuracy 64.0 %" in written
    assert "too sure" in written and "too unsure" in written
    assert misplaced(saved[0]) == []
    png = read(tmp_path / "r.png")
    blue = np.abs(png - np.array([31, 119, 180]) / 255).max(axis=-1) < 0.02
    assert png.shape == (768, 600, 3) and blue.mean() > 0.05


@pytest.mark.parametrize("change, message", [
    (dict(count=COUNT * 0), r"not all 0, received int64 \[0, 0, 0, 0\]"), (dict(count=COUNT / 1.0), "received float64"),
    (dict(count=-COUNT), "0 or more"), (dict(accuracy=ACCURACY[:3]), r"must be \(4,\) like count, received"),
    (dict(accuracy=ACCURACY * 2), r"accuracy must lie in \[0, 1\], received \[0.8"),
    (dict(count=np.ones(4, int)), "accuracy must lie"),
    (dict(confidence=CONFIDENCE[::-1]), "confidence must lie in its bin, received 0.9 in bin 0 of 4")])
def test_errors_say_what_came(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        plot_reliability(tmp_path / "r.png", **dict(confidence=CONFIDENCE, accuracy=ACCURACY, count=COUNT) | change)
