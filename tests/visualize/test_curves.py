import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from cvjax.visualize import curves, plot_curves


@pytest.fixture
def figures(monkeypatch):
    """Each figure that gets saved, for a look at what is on it."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **kw: saved.append(self) or save(self, *a, **kw))
    return saved


def write(path, lines, end=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path


def a_run(steps=40):
    lines = []
    for step in range(1, steps + 1):
        metrics = {"train/learning_rate": 1e-3 / step, "train/loss": 3.0 / step}
        lines.append({"step": step, "epoch": step / 4, **metrics, "seconds": 0.1 * step})
        if step % 10 == 0:
            lines.append({"step": step, "test/loss": 4.0 / step, "test/top1": 1 - 1 / step})
    return lines


def drawn(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_one_panel_per_group_with_the_right_points(tmp_path, figures):
    plot_curves(write(tmp_path / "metrics.jsonl", a_run()), tmp_path / "curves.png")
    (figure,) = figures
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate", "top1"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    loss = drawn(figure.axes[0])
    assert list(loss) == ["train", "test"]
    np.testing.assert_allclose(loss["train"], [(step, 3 / step) for step in range(1, 41)])
    np.testing.assert_allclose(loss["test"], [(step, 4 / step) for step in (10, 20, 30, 40)])
    assert [axes.get_title() for axes in figure.axes] == ["", "", ""]
    assert [axes.get_legend() is not None for axes in figure.axes] == [True, False, False]


def test_the_classes_of_a_metric_share_a_panel(tmp_path, figures):
    lines = [{"step": step, "test/iou": 0.5, **{f"test/iou/{name}": i / 9 for i, name in enumerate(("sky", "a/b"))},
              **{f"test/ap/{i}": i / 20 for i in range(11)}} for step in (1, 2)]
    plot_curves(write(tmp_path / "metrics.jsonl", lines), tmp_path / "curves.png")
    panels = {axes.get_ylabel(): axes for axes in figures[0].axes}
    assert list(panels) == ["iou", "iou of each class", "ap of each class"]
    assert list(drawn(panels["iou of each class"])) == ["sky", "a/b"] and panels["iou of each class"].get_legend()
    assert len(drawn(panels["ap of each class"])) == 11 and not panels["ap of each class"].get_legend()


def test_the_png_holds_a_picture(tmp_path):
    plot_curves(write(tmp_path / "metrics.jsonl", a_run()), tmp_path / "curves.png")
    png = imread(tmp_path / "curves.png")[..., :3]
    assert png.shape == (360, 1512, 3)
    panels = np.split(png, 3, axis=1)
    blue, orange = np.array([31, 119, 180]) / 255, np.array([255, 127, 14]) / 255

    def count(panel, colour):
        return (np.abs(panel - colour).max(axis=2) < 0.02).sum()

    assert all(count(panel, blue) > 100 for panel in panels)  # every panel has its first curve
    assert [count(panel, orange) > 100 for panel in panels] == [True, False, False]  # the loss has two


@pytest.mark.parametrize(
    "losses, scale",
    [([5, 0.1], "log"), ([2, 1], "linear"), ([5, -1], "linear"), ([5, 0], "linear"), ([np.nan], "linear")],
)
def test_log_scale_for_a_positive_loss_over_decades(tmp_path, figures, losses, scale):
    lines = [{"step": step, "train/loss": loss} for step, loss in enumerate(losses)]
    plot_curves(write(tmp_path / "metrics.jsonl", lines), tmp_path / "curves.png")
    assert figures[0].axes[0].get_yscale() == scale


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path, figures):
    lines = [{"step": step, "train/loss": loss, "train/top1": 0.5}
             for step, loss in enumerate([1.0, float("nan"), 2.0, float("inf")])]
    plot_curves(write(tmp_path / "metrics.jsonl", lines), tmp_path / "curves.png")
    loss, top1 = figures[0].axes
    np.testing.assert_array_equal(drawn(loss)["train"], [(0, 1), (2, 2)])
    assert loss.get_title() == "2 non-finite values left out"
    assert top1.get_title() == ""


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [{"step": 1, "train/loss": 2.0}], end='{"step": 2, "tra')
    groups, _ = curves.read_curves(path)
    assert groups == {"loss": {"train": {1: 2.0}}}


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"step": 1\n{"step": 2, "a": 1}\n', "line 1 is not JSON"),
        ('{"train/loss": 1}\n', "line 1 has no step"),
        ("", "has no metric"),
        ('{"step": 1, "epoch": 0.5}\n', "has no metric"),
    ],
)
def test_errors_name_the_line(tmp_path, text, message):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


def test_names_are_shown_as_they_are(tmp_path, figures):
    """Names that begin with "_" or hold a "$" have a meaning in matplotlib; letters its font lacks become boxes."""
    names = ["_void", "$x$", "a$b", "犬"]
    lines = [{"step": step, **{f"test/iou/{name}": step / 10 for name in names}} for step in (1, 2)]
    plot_curves(write(tmp_path / "metrics.jsonl", lines), tmp_path / "curves.png")
    (axes,) = figures[0].axes
    texts = axes.get_legend().get_texts()
    assert [text.get_text() for text in texts] == names
    assert not any(text.get_parse_math() for text in texts)
