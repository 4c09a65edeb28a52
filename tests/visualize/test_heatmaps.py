import numpy as np
import pytest

from cvjax.visualize import heatmap_panel, overlay
from tests.visualize.figures import NAMES, misplaced, read, texts

HEAT = np.zeros((4, 2, 2))
HEAT[np.arange(4), np.arange(4) // 2, np.arange(4) % 2] = 0.3


def images(count=4, side=8, channels=3):
    return np.random.default_rng(0).random((count, side, side, channels), np.float32)


def panel(path, **change):
    arguments = dict(images=images(), heatmaps={"Grad-CAM": HEAT, "occlusion": HEAT - 0.1}, labels=[2, 1, 3, 5],
                     predictions=[2, 5, 3, 1], probability=[0.5, 0.999, 1.0, 0.25], names=NAMES)
    heatmap_panel(path, **arguments | change)


@pytest.mark.parametrize("channels", [1, 3])
def test_heat_lies_where_it_belongs(channels):
    shown = overlay(np.full((4, 8, 8, channels), 0.5), HEAT)
    assert shown.shape == (4, 8, 8, 3) and shown.min() >= 0 and shown.max() <= 1
    redder = shown[..., 0] - shown[..., 2]
    for example in range(4):
        corners = redder[example, ::7, ::7] > 0
        np.testing.assert_array_equal(corners, HEAT[example] > 0)
        assert np.abs(redder[example, ::7, ::7]).min() > 0.25


def test_the_image_shows_through_and_the_scale_is_each_maps_own():
    shown = overlay(images(), HEAT)
    np.testing.assert_allclose(overlay(images(), 100 * HEAT + 7), shown, atol=1e-5)
    np.testing.assert_allclose(overlay(images(), np.where(HEAT > 0, HEAT, -5)), shown, atol=1e-5)  # negative is none
    flat = overlay(images(), np.ones((4, 2, 2)))
    grey = images().mean(axis=-1)
    np.testing.assert_allclose(flat[..., 1] - flat[..., 1].min(), 0.4 * (grey - grey.min()), atol=1e-5)


@pytest.mark.parametrize("count, side, channels", [(1, 224, 3), (4, 8, 1), (7, 28, 3), (16, 32, 3)])
def test_panels_of_any_size(tmp_path, saved, count, side, channels):
    which = np.arange(count)
    panel(tmp_path / "h.png", images=images(count, side, channels), heatmaps={"attention rollout": HEAT[which % 4]},
          labels=which % 6, predictions=which % 5, probability=which / count, title="long title " * 9)
    assert misplaced(saved[0]) == []
    png = read(tmp_path / "h.png")
    assert png.shape[1] < 2000 and (png < 0.98).any(axis=-1).mean() > 0.3


def test_captions_tell_prediction_truth_and_range(tmp_path, saved):
    panel(tmp_path / "h.png")
    written = texts(saved[0])
    assert "100.0 % class 3" in written and "true: class 3" in written and "true: $x^2$ and $y" in written
    assert [t for t in written if t.startswith("50.0 % a very long name")]
    assert written.count("0 to 0.3") == written.count("-0.1 to 0.2") == 4
    colour = {text.get_text()[:6]: text.get_color() for text in saved[0].texts}
    assert colour["100.0 "] == "#1a7f37" and colour["99.9 %"] == colour["25.0 %"] == "#c62828"


def test_the_panel_holds_the_images_and_their_overlays(tmp_path):
    panel(tmp_path / "h.png", images=images(1), heatmaps={"Grad-CAM": HEAT[:1]}, labels=[0], predictions=[0],
          probability=[1])
    png, top = read(tmp_path / "h.png"), 16 + 6 + 2 * 16
    big = images(1).repeat(18, axis=1).repeat(18, axis=2)
    np.testing.assert_allclose(png[top:top + 144, 18:18 + 144], big[0], atol=1 / 255)
    np.testing.assert_allclose(png[top:top + 144, 168:168 + 144], overlay(big, HEAT[:1])[0], atol=1 / 255)


@pytest.mark.parametrize("change, message", [
    (dict(images=images() * 255), r"images must lie in \[0, 1\]"),
    (dict(images=images(0)), "received 0 and 2"), (dict(heatmaps={}), "received 4 and 0"),
    (dict(heatmaps={"a": HEAT[:3]}), r"N = 4, received shape \(3, 2, 2\)"),
    (dict(heatmaps={"a": HEAT * np.nan}), "heat must be finite"),
    (dict(labels=[0, 1]), r"labels must be integers of shape \(4,\)"),
    (dict(predictions=[0, 1, 2, 6]), r"predictions must lie in \[0, 6\), the named classes, received 0 to 6"),
    (dict(probability=[1, 2, 3, 4]), r"probability must lie in \[0, 1\], received 1 to 4"),
    (dict(probability=[1]), "each of 4 images")])
def test_errors_say_what_came(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        panel(tmp_path / "h.png", **change)


def test_without_labels_no_truth_is_claimed(tmp_path, saved):
    panel(tmp_path / "h.png", labels=None)
    written = texts(saved[0])
    assert any(text.startswith("50.0 %") for text in written) and not any("true" in text for text in written)
