import numpy as np
import pytest

from cvjax.visualize import detection_panel
from cvjax.visualize.boxes import draw_box
from cvjax.visualize.colours import class_colours
from tests.visualize.figures import NAMES, misplaced, read, texts

IMAGES = np.full((3, 60, 80, 1), 0.9, np.float32)
BOXES = np.float32([[[10, 20, 30, 50], [40, 5, 75, 25]], [[0, 0, 80, 60], [9, 9, 9, 9]],
                    [[5, 5, 8, 8], [-9, 1, 20, 90]]])
TRUTH = {"boxes": BOXES, "box_label": np.array([[0, 1], [3, 99], [5, 2]]), "box_difficult": np.zeros((3, 2), bool),
         "box_mask": np.array([[True, True], [True, False], [True, True]])}
FOUND = {"boxes": BOXES, "box_label": np.array([[0, 4], [0, 1], [2, 2]]), "valid": np.ones((3, 2), bool),
         "score": np.array([[0.9, 0.4], [0.2, 0.31], [0.1, 0.05]])}
TOP = 18 + 6 + 16 + 6  # of the pictures: a title of one line, a legend of one, and the gaps
ZOOM = 4


def test_boxes_are_drawn_where_they_are(tmp_path, saved):
    detection_panel(tmp_path / "b.png", IMAGES[:1], NAMES[:2], truth={key: value[:1] for key, value in TRUTH.items()},
                    title="cells")
    assert texts(saved[0]) == ["cells", "zero", "$x^2$ and $y", "true: 2 objects"]
    expected = np.full((240, 320, 3), 0.9)
    for (x1, y1, x2, y2), colour in zip(BOXES[0].astype(int) * ZOOM, class_colours(2)):
        inner = expected[y1 + 2:y2 - 2, x1 + 2:x2 - 2].copy()
        expected[y1:y2, x1:x2] = colour
        expected[y1 + 2:y2 - 2, x1 + 2:x2 - 2] = inner
    np.testing.assert_allclose(read(tmp_path / "b.png")[TOP:TOP + 240, 18:18 + 320], expected, atol=1 / 255)


def test_truth_and_detections_side_by_side(tmp_path, saved):
    detection_panel(tmp_path / "b.png", IMAGES, NAMES, truth=TRUTH, found=FOUND)
    written = texts(saved[0])
    assert [text for text in written if text.startswith("true")] == ["true: 2 objects", "true: 1 object",
                                                                      "true: 2 objects"]
    assert [text for text in written if text.startswith("found")] == [
        "found: 2 objects of score 0.3 or more", "found: 1 object of score 0.3 or more",
        "found: 0 objects of score 0.3 or more"]
    assert [text for text in written if text[0] == "0"] == ["0.40", "0.90", "0.31"]
    # All classes but 99, which is padding.
    assert set(written) >= {"zero", "$x^2$ and $y", "class 3", "日本語", "été Ж"}
    assert misplaced(saved[0]) == []


def test_classes_may_have_a_least_score_each(tmp_path, saved):
    detection_panel(tmp_path / "b.png", IMAGES, NAMES, found=FOUND, least_score=[0.2, 0.5, 0.06, 0, 0.3, 0])
    written = texts(saved[0])
    assert [text for text in written if text.startswith("found")] == [
        "found: 2 objects", "found: 1 object", "found: 1 object"]
    assert [text for text in written if text[0] == "0"] == ["0.40", "0.90", "0.20", "0.10"]
    with pytest.raises(ValueError, match=r"least_score must be a number or \(6,\), received \(2,\)"):
        detection_panel(tmp_path / "b.png", IMAGES, NAMES, found=FOUND, least_score=[0.2, 0.5])


def test_what_is_outside_of_the_extent_is_not_shown(tmp_path):
    image = np.zeros((1, 60, 80, 3), np.float32)
    image[:, :40, :, 0] = 1
    truth = {"boxes": np.zeros((1, 0, 4)), "box_label": np.zeros((1, 0), int), "box_mask": np.zeros((1, 0), bool)}
    detection_panel(tmp_path / "b.png", image, [], truth=truth, extent=np.float32([[40, 80]]))
    png = read(tmp_path / "b.png")
    assert png[22:22 + 240, 18:18 + 480, 0].min() > 0.99 and not ((png.max(-1) < 0.01).sum(1) > 200).any()


def test_difficult_boxes_are_dashed():
    plain, dashed = np.zeros((50, 50, 3)), np.zeros((50, 50, 3))
    draw_box(plain, [5, 5, 45, 40], 1.0)
    draw_box(dashed, [5, 5, 45, 40], 1.0, dashed=True)
    assert not (dashed > plain).any() and 0.4 < dashed.sum() / plain.sum() < 0.6


@pytest.mark.parametrize("box", [[-20, -20, -5, -5], [60, 60, 80, 90], [3, 3, 3, 3], [49.9, 49.9, 80, 80],
                                 [0, 0, 1, 1]])
def test_odd_boxes_can_be_drawn(box):
    picture = np.zeros((50, 50, 3))
    draw_box(picture, box, 1.0)
    assert picture.max() <= 1 and (picture[..., 0] > 0).sum() <= 4


@pytest.mark.parametrize("count", [0, 1, 10, 11, 20, 21, 80])
def test_classes_have_colours_of_their_own(count):
    colours = class_colours(count)
    assert colours.shape == (count, 3) and len({tuple(colour) for colour in colours.tolist()}) == count
    assert count == 0 or colours.min() >= 0 and colours.max() <= 1


def test_a_long_legend_takes_several_lines(tmp_path, saved):
    count = 30
    truth = {"boxes": np.tile(np.float32([1, 1, 5, 5]), (1, count, 1)), "box_label": np.arange(count)[None],
             "box_mask": np.ones((1, count), bool)}
    detection_panel(tmp_path / "b.png", IMAGES[:1], [f"class number {i}" for i in range(count)], truth=truth)
    assert sum(text.startswith("class number") for text in texts(saved[0])) == count and misplaced(saved[0]) == []


@pytest.mark.parametrize("change, message", [
    (dict(truth=None, found=None), "either truth or found, received 3 pictures"),
    (dict(images=IMAGES[:0]), "received 0 pictures"),
    (dict(truth=TRUTH | {"boxes": BOXES[:2]}), r"boxes of truth must be \(3, M, 4\), received \(2, 2, 4\)"),
    (dict(truth=TRUTH | {"box_mask": np.ones((3, 2))}), r"box_mask must be bool \(3, 2\), received float64"),
    (dict(found=FOUND | {"score": np.ones(3)}), r"score must be \(3, 2\), one per box, received \(3,\)"),
    (dict(found=FOUND | {"box_label": np.full((3, 2), 6)}), r"box_label of found must lie in \[0, 6\)"),
    (dict(found=FOUND | {"boxes": BOXES * np.nan}), "boxes of found must be finite"),
    (dict(extent=np.ones(3)), r"extent must be \(3, 2\)")])
def test_errors_say_what_came(tmp_path, change, message):
    arguments = dict(images=IMAGES, names=NAMES, truth=TRUTH, found=FOUND) | change
    with pytest.raises(ValueError, match=message):
        detection_panel(tmp_path / "b.png", **arguments)
