import numpy as np
import pytest

from cvjax.visualize.colours import class_colours
from cvjax.visualize.segmentation import paint_labels, segmentation_panel
from tests.visualize.figures import NAMES, misplaced, read, texts

RNG = np.random.default_rng(0)
PHOTO = RNG.random((20, 30, 3)).astype(np.float32)
TRUTH = np.repeat([[0, 1, 2], [3, 4, 5]], 10, axis=0).repeat(10, axis=1)


def test_colours_are_told_apart():
    for count, least in ((1, 0), (2, 0.5), (11, 0.25), (21, 0.14), (60, 0.02)):
        colours = class_colours(count)
        assert colours.shape == (count, 3) and 0 <= colours.min() and colours.max() <= 1
        assert (np.abs(colours[:, None] - colours).max(axis=2) + 2 * np.eye(count)).min() > least


def test_a_class_has_its_colour_the_background_the_photos_and_void_is_dark():
    labels = np.array([[0, 1], [2, 255]])
    image = np.full((2, 2, 3), [0.2, 0.4, 0.6], np.float32)
    painted = paint_labels(image, labels, ["background", "cat", "dog"])
    np.testing.assert_allclose(painted[0, 0], [0.2, 0.4, 0.6], rtol=1e-6)
    for place, label in (((0, 1), 1), ((1, 0), 2)):
        np.testing.assert_allclose(painted[place], 0.6 * class_colours(3)[label] + 0.4 * 0.4, rtol=1e-5)
    np.testing.assert_allclose(painted[1, 1], 0.16, rtol=1e-5)
    grey = paint_labels(image.mean(axis=2, keepdims=True), labels, ["background", "cat", "dog"])
    np.testing.assert_allclose(grey[0, 0], [0.4] * 3, rtol=1e-5)


def test_photo_prediction_truth_and_mistakes_stand_side_by_side(tmp_path, saved):
    said, truth = TRUTH.copy(), TRUTH.copy()
    said[:5, :5], truth[:5, 5:10] = 3, 255
    segmentation_panel(tmp_path / "s.png", [PHOTO], [said], [truth], NAMES, title="test split")
    written = texts(saved[0])
    assert written[:6] == ["test split", "photo", "prediction", "truth", "wrong",
                           f"{100 * 550 / 575:.1f} % of the pixels right"]
    assert len(written) == 13 and written[-1] == "does not count" and misplaced(saved[0]) == []
    png, top, zoom, pitch = read(tmp_path / "s.png"), 18 + 6 + 16, 6, 30 * 6 + 6
    for place, expected in enumerate([PHOTO, paint_labels(PHOTO, said, NAMES), paint_labels(PHOTO, truth, NAMES)]):
        left = 18 + place * pitch
        np.testing.assert_allclose(png[top:top + 20 * zoom, left:left + 30 * zoom],
                                   np.kron(expected, np.ones((zoom, zoom, 1))), atol=1 / 255)
    wrong = png[top:top + 20 * zoom, 18 + 3 * pitch:][::zoom, :30 * zoom:zoom]
    red = np.abs(wrong - [0.9, 0.1, 0.1]).max(axis=2) < 0.01
    np.testing.assert_array_equal(red, (truth != 255) & (said != truth))


@pytest.mark.parametrize("sizes", [[(700, 900)], [(20, 30), (400, 100), (3, 2)], [(40, 50)] * 5])
def test_photos_of_any_size(tmp_path, saved, sizes):
    images = [RNG.random((*size, 1)) for size in sizes]
    labels = [RNG.integers(0, 6, size) for size in sizes]
    segmentation_panel(tmp_path / "s.png", images, labels, labels, NAMES, title="a long title " * 30)
    assert misplaced(saved[0]) == [] and max(read(tmp_path / "s.png").shape) < 2500


def test_without_a_truth_there_is_photo_and_prediction(tmp_path, saved):
    segmentation_panel(tmp_path / "s.png", [PHOTO], [TRUTH * 0], None, NAMES)
    assert texts(saved[0]) == ["photo", "prediction", "zero"] and misplaced(saved[0]) == []
    segmentation_panel(tmp_path / "s.png", [PHOTO], [TRUTH], [np.full_like(TRUTH, 255)], NAMES)
    assert "no pixel counts" in texts(saved[1])


@pytest.mark.parametrize("change, message", [
    (dict(images=[]), "received 0, 1 and 1"), (dict(predictions=[]), "received 1, 0 and 1"),
    (dict(truths=[TRUTH] * 2), "received 1, 1 and 2"), (dict(predictions=[TRUTH[1:]]), r"integers \(20, 30\)"),
    (dict(names=["a", "b"]), r"in \[0, 2\) or be 255, received 2"), (dict(images=[PHOTO * 2]), r"lie in \[0, 1\]"),
    (dict(truths=[TRUTH.astype(float)]), "received float64")])
def test_errors_say_what_came(tmp_path, change, message):
    arguments = dict(images=[PHOTO], predictions=[TRUTH], truths=[TRUTH], names=NAMES)
    with pytest.raises(ValueError, match=message):
        segmentation_panel(tmp_path / "s.png", **arguments | change)
