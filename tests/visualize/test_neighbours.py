import numpy as np
import pytest

from cvjax.visualize.neighbours import neighbour_panel
from tests.visualize.figures import NAMES, misplaced, read, texts

GREEN, RED = np.array([0x1A, 0x7F, 0x37]) / 255, np.array([0xC6, 0x28, 0x28]) / 255


def images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def panel(path, count=2, k=3, side=8, channels=3, **change):
    arguments = dict(images=images(count, side, side, channels), neighbours=images(count, k, side, side, channels),
                     similarity=np.linspace(1, -0.25, count * k).reshape(count, k), labels=np.arange(count) % 6,
                     neighbour_labels=np.arange(count * k).reshape(count, k) % 6, names=NAMES)
    neighbour_panel(path, **arguments | change)


@pytest.mark.parametrize("count, k, side, channels", [(1, 1, 8, 1), (6, 5, 8, 1), (3, 6, 224, 3), (12, 2, 32, 3)])
def test_panels_of_any_size(tmp_path, saved, count, k, side, channels):
    panel(tmp_path / "n.png", count, k, side, channels, title="long title " * 9)
    assert misplaced(saved[0]) == []
    png = read(tmp_path / "n.png")
    assert png.shape[1] < 2000 and (png < 0.98).any(axis=-1).mean() > 0.3


def test_the_panel_holds_queries_and_framed_neighbours(tmp_path):
    panel(tmp_path / "n.png", 1, labels=[1])  # neighbours of the classes 0, 1, 2
    png = read(tmp_path / "n.png")
    big = images(1, 8, 8, 3).repeat(12, axis=1).repeat(12, axis=2)
    near = images(1, 3, 8, 8, 3).repeat(12, axis=2).repeat(12, axis=3)
    np.testing.assert_allclose(png[16 + 4:16 + 4 + 96, 18:18 + 96], big[0], atol=1 / 255)  # 8 bits
    for place, colour in enumerate([RED, GREEN, RED]):
        left = 18 + 96 + 18 + place * (96 + 8 + 6)
        framed = png[16:16 + 104, left:left + 104]
        np.testing.assert_allclose(framed[4:-4, 4:-4], near[0, place], atol=1 / 255)
        frame = np.ones((104, 104), bool)
        frame[4:-4, 4:-4] = False
        np.testing.assert_allclose(framed[frame], np.broadcast_to(colour, (frame.sum(), 3)), atol=1 / 255)


def test_captions_tell_class_and_similarity(tmp_path, saved):
    panel(tmp_path / "n.png", 1, labels=[1])
    colours = {text.get_text(): text.get_color() for text in saved[0].texts}
    assert [text for text in texts(saved[0]) if "." in text] == ["1.000", "0.375", "-0.250"]
    assert colours["zero"] == "#c62828" and "$x^2$ and $y" in colours
    assert texts(saved[0]).count("$x^2$ and $y") == 2  # the query and its second neighbour
    assert colours["$x^2$ and $y"] == "#1a7f37"


def test_without_labels_nothing_is_right_or_wrong(tmp_path, saved):
    panel(tmp_path / "n.png", 1, labels=None)
    assert {text.get_color() for text in saved[0].texts} == {"black", "dimgrey"}
    png = read(tmp_path / "n.png")
    assert (png[16:20] == 1).all()
    assert texts(saved[0]).count("$x^2$ and $y") == 1


@pytest.mark.parametrize("change, message", [
    (dict(images=images(2, 8, 8, 3) * 255), r"images must lie in \[0, 1\]"),
    (dict(neighbours=images(2, 3, 8, 8, 3) * 255), r"images must lie in \[0, 1\]"),
    (dict(neighbours=images(2, 3, 8, 9, 3)), r"for images \(2, 8, 8, 3\) with N > 0, received \(2, 3, 8, 9, 3\)"),
    (dict(neighbours=images(2, 0, 8, 8, 3)), "with k > 0"), (dict(neighbours=images(1, 3, 8, 8, 3)), "received .1, 3"),
    (dict(images=images(0, 8, 8, 3), neighbours=images(0, 3, 8, 8, 3)), "N > 0"),
    (dict(similarity=np.ones((2, 2))), r"similarity must be finite \(2, 3\), one per neighbour, received \(2, 2\)"),
    (dict(similarity=np.full((2, 3), np.nan)), "similarity must be finite"),
    (dict(labels=[0]), r"labels must be integers of shape \(2,\)"),
    (dict(neighbour_labels=[0, 1, 2]), r"neighbour_labels must be \(2, 3\), one per neighbour, received \(3,\)"),
    (dict(neighbour_labels=np.full((2, 3), 6)), r"neighbour_labels must lie in \[0, 6\), the named classes")])
def test_errors_say_what_came(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        panel(tmp_path / "n.png", **change)
