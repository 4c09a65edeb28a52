import numpy as np
import pytest

from cvjax.visualize.attention import attention_panel, mask_pictures
from cvjax.visualize.heatmaps import overlay
from tests.visualize.figures import misplaced, read, texts

YELLOW = np.array([1, 0.85, 0.1], np.float32)


def images(count=2, side=8, channels=3):
    return np.random.default_rng(0).random((count, side, side, channels), np.float32)


def attention(count=2, heads=3, grid=4):
    return np.random.default_rng(1).dirichlet(np.ones(grid * grid), (count, heads)).reshape(count, heads, grid, grid)


def panel(path, **change):
    arguments = dict(images=images(), attention=attention(), masks=attention() > 0.05)
    attention_panel(path, **arguments | change)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_keeps_the_image_inside_and_has_an_outline(channels):
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 1:3, 1:] = True  # 8x12 pixels of 16x16, up to the right edge
    pictures = mask_pictures(images(1, 16, channels), mask)
    assert pictures.shape == (1, 16, 16, 3) and pictures.dtype == np.float32
    outline = np.zeros((16, 16), bool)
    outline[4:12, 4:] = True
    outline[5:11, 5:] = False  # the image's own edge is no edge of the mask
    np.testing.assert_array_equal((np.abs(pictures[0] - YELLOW) < 1e-6).all(axis=-1), outline)
    np.testing.assert_array_equal(pictures[0, 5:11, 5:], np.broadcast_to(images(1, 16, channels)[0, 5:11, 5:],
                                                                        (6, 11, 3)))
    outside = np.ones((16, 16), bool)
    outside[4:12, 4:] = False
    assert (pictures[0, outside][:, 2] - pictures[0, outside][:, 0] > 0.2).all() and pictures[0, outside].max() < 0.7


@pytest.mark.parametrize("count, heads, side, channels", [(1, 8, 224, 3), (5, 3, 8, 1), (2, 6, 32, 3), (1, 1, 28, 1)])
def test_panels_of_any_size(tmp_path, saved, count, heads, side, channels):
    maps = attention(count, heads, 4)
    panel(tmp_path / "a.png", images=images(count, side, channels), attention=maps, masks=maps > 0.05,
          title="long title " * 9)
    assert misplaced(saved[0]) == []
    png, written = read(tmp_path / "a.png"), texts(saved[0])
    assert png.shape[1] < 2000 and (png < 0.98).any(axis=-1).mean() > 0.3
    if heads == 8:  # 6 heads and the image would fit beside each other, so 8 heads are two lines of 4
        assert png.shape[1] == 5 * 230 - 6 + 36 and png.shape[0] > 2 * (3 * 16 + 2 * 224)
    assert [written.count(f"head {head + 1}") for head in range(heads)] == [count] * heads
    assert written.count("image") == written.count("mean of heads") == count


def test_captions_tell_peak_and_share(tmp_path, saved):
    maps = np.zeros((1, 2, 2, 2))
    maps[0, 0, 0, 0], maps[0, 1, 1, 1] = 0.5, 0.25
    panel(tmp_path / "a.png", images=images(1), attention=maps, masks=maps > 0.3)
    written = texts(saved[0])
    assert sorted(text for text in written if "peak" in text) == ["peak 25 %", "peak 25 %", "peak 50 %"]
    assert [text for text in written if "of the image" in text] == ["25 % of the image", "0 % of the image"]


def test_the_panel_holds_its_pictures(tmp_path):
    maps = attention(1, 2)
    panel(tmp_path / "a.png", images=images(1), attention=maps, masks=maps > 0.05)
    png = read(tmp_path / "a.png")
    big = images(1).repeat(14, axis=1).repeat(14, axis=2)  # 8 to 112 pixels
    upper, lower = 6 + 16, 6 + 2 * 16 + 112
    expected = {(upper, 18): big, (lower, 18): overlay(big, maps.mean(axis=1))}
    for head in range(2):
        expected[upper, 18 + 118 * (head + 1)] = overlay(big, maps[:, head])
        expected[lower, 18 + 118 * (head + 1)] = mask_pictures(big, maps[:, head] > 0.05)
    for (top, left), picture in expected.items():
        np.testing.assert_allclose(png[top:top + 112, left:left + 112], picture[0], atol=1 / 255)  # 8 bits


@pytest.mark.parametrize("change, message", [
    (dict(images=images() * 255), r"images must lie in \[0, 1\]"),
    (dict(images=images(0)), r"N = 0 > 0, received \(2, 3, 4, 4\)"),
    (dict(images=images(0), attention=attention(0), masks=attention(0) > 0), "N = 0 > 0"),
    (dict(attention=attention()[0]), r"\(N, heads, gh, gw\) with N = 2 > 0, received \(3, 4, 4\)"),
    (dict(attention=attention() * 20), r"attention must lie in \[0, 1\], received"),
    (dict(attention=attention() * np.nan), r"attention must lie in \[0, 1\], received nan"),
    (dict(masks=attention()), r"masks must be bool of the attention's shape \(2, 3, 4, 4\), received float64"),
    (dict(masks=attention()[:1] > 0), r"received bool of shape \(1, 3, 4, 4\)")])
def test_errors_say_what_came(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        panel(tmp_path / "a.png", **change)


def test_masks_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"masks must be bool \(N, h, w\) with N = 2, received float64"):
        mask_pictures(images(), np.ones((2, 4, 4)))
