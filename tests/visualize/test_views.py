import numpy as np
import pytest

from cvjax.visualize.views import views_panel
from tests.visualize.figures import misplaced, read, texts


def drawn(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def crops(count=2, large=8, small=4, local=5, channels=3):
    return {"global": drawn(count, 2, large, large, channels), "local": drawn(count, local, small, small, channels)}


@pytest.mark.parametrize("count, side, large, small, channels", [
    (1, 300, 224, 96, 3), (5, 8, 8, 4, 1), (3, 32, 32, 16, 3), (2, 20, 12, 12, 1)])
def test_panels_of_any_size(tmp_path, saved, count, side, large, small, channels):
    views_panel(tmp_path / "v.png", drawn(count, side, side, channels), crops(count, large, small, channels=channels),
                title="long title " * 9)
    assert misplaced(saved[0]) == []
    png = read(tmp_path / "v.png")
    assert png.shape[1] < 2000 and (png < 0.98).any(axis=-1).mean() > 0.3
    written = set(texts(saved[0]))
    assert {"image", f"{side}×{side}", "2 global", f"{large}×{large}", "5 local", f"{small}×{small}"} <= written


def test_views_are_true_to_their_size_and_place(tmp_path):
    images, views = drawn(2, 8, 8, 3), crops()
    views_panel(tmp_path / "v.png", images, views)
    png = read(tmp_path / "v.png")

    def shows(picture, top, left):
        big = picture.repeat(12, axis=0).repeat(12, axis=1)  # 8 to 96 pixels, 4 to 48
        height, width = big.shape[:2]
        np.testing.assert_allclose(png[top:top + height, left:left + width], big, atol=1 / 255)  # 8 bits
        outline = np.pad(np.zeros((height, width), bool), 1, constant_values=True)
        around = png[top - 1:top + height + 1, left - 1:left + width + 1]
        np.testing.assert_allclose(around[outline], 0.7, atol=1 / 255)

    for row in range(2):
        top = 2 * 16 + 1 + row * (96 + 18)
        shows(images[row], top, 18)
        for view in range(2):
            shows(views["global"][row, view], top, 132 + view * 102)
        for view in range(5):  # two of 48 pixels fit below each other: three, then two
            shows(views["local"][row, view], top + view // 3 * 54, 348 + view % 3 * 54)
    assert png.shape[:2] == (2 * 16 + 2 * (96 + 18), 348 + 3 * 54 - 6 + 18)


def test_one_view_has_no_number(tmp_path, saved):
    views_panel(tmp_path / "v.png", drawn(1, 8, 8, 1), {"global": drawn(1, 1, 8, 6, 1)})
    assert texts(saved[0]) == ["image", "8×8", "global", "6×8"]  # width and height


@pytest.mark.parametrize("change, message", [
    (dict(images=drawn(2, 8, 8, 3) * 255), r"images must lie in \[0, 1\]"),
    (dict(images=drawn(0, 8, 8, 3)), "received 0 and 2"), (dict(views={}), "received 2 and 0"),
    (dict(views={"local": drawn(2, 8, 8, 3)}), r"local views must be \(N, V, h, w, C\) with N = 2 .* received \(2, 8"),
    (dict(views=crops(3)), "global views must be .* N = 2"), (dict(views=crops(local=0)), "local views must be"),
    (dict(views={"local": drawn(2, 1, 4, 4, 3) * 2}), r"images must lie in \[0, 1\]")])
def test_errors_say_what_came(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        views_panel(tmp_path / "v.png", **dict(images=drawn(2, 8, 8, 3), views=crops()) | change)
