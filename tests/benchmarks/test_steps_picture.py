import pytest

from benchmarks.steps.bars import Bar, plot_throughput
from tests.visualize.figures import NAMES, misplaced, read, texts

PANELS = [
    ("resnet18 train, 4 images of 224 pixels, float32", [
        Bar("cvjax", (0.9, 1.0, 1.25), "4 images/s, 1.25 x torch eager", "ours"),
        Bar("torch eager", (0.75, 0.8, 0.8), "5 images/s", "best"),
        Bar("torch compile+channels-last", None, "InvalidCxxCompiler: no compiler " + "x" * 200)]),
    ("vit_$x$ inference", [Bar("cvjax", (1e-3, 1e-3, 1e-3), "4000 images/s", "ours")]),
    ("nothing", [Bar("cvjax", None, "killed", "ours")])]


def test_a_bar_for_each_side_with_quartiles_and_a_reason_where_there_is_none(tmp_path, saved):
    plot_throughput(tmp_path / "t.png", PANELS, clock="processor's time")
    assert (read(tmp_path / "t.png") < 0.5).any()
    first, second, third = saved[0].axes
    assert [patch.get_width() for patch in first.patches] == [1000.0, 800.0] and len(second.patches) == 1
    assert [patch.get_facecolor() for patch in first.patches][0] != first.patches[1].get_facecolor()
    ends = [container.lines[2][0].get_segments()[0][:, 0].tolist() for container in first.containers
            if hasattr(container, "lines")]
    assert ends == [[900.0, 1250.0], [750.0, 800.0]]
    assert [label.get_text() for label in first.get_yticklabels()] == [bar.side for bar in PANELS[0][1]]
    assert first.get_ylim()[0] > first.get_ylim()[1] and first.get_xlim()[0] == 0, "from the top, and from 0"
    shown = texts(saved[0])
    assert {"4 images/s, 1.25 x torch eager", "5 images/s", "killed", "4000 images/s",
            "ms for a step, processor's time: median and quartiles"} <= set(shown)
    assert any(text.startswith("InvalidCxx") and len(text) == 120 for text in shown) and not third.patches
    assert not misplaced(saved[0])


def test_difficult_names_are_drawn(tmp_path, saved):
    plot_throughput(tmp_path / "t.png", [(NAMES[1], [Bar(name, (1.0, 2.0, 3.0), name) for name in NAMES])])
    assert [label.get_text() for label in saved[0].axes[0].get_yticklabels()] == NAMES


@pytest.mark.parametrize("panels", [[], [("a", [])]])
def test_no_bars_are_refused(tmp_path, panels):
    with pytest.raises(ValueError, match="panels must be one or more with at least one bar"):
        plot_throughput(tmp_path / "t.png", panels)
