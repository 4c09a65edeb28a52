"""The sheet under the picture grids: pixels where they belong, text that fits, any name."""

import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from cvjax.visualize.sheet import Sheet, class_labels, columns_for, enlarge, zoom_to


def test_pictures_lie_where_they_were_put(tmp_path) -> None:
    sheet, picture = Sheet(60, 40, ""), np.random.default_rng(0).random((10, 12, 3))
    sheet.paste(picture, 5, 7)
    sheet.paste(picture[..., :1], 30, 20)
    sheet.save(tmp_path / "sheet.png")
    png = imread(tmp_path / "sheet.png")[..., :3]
    assert png.shape == (40, 60, 3)
    np.testing.assert_allclose(png[7:17, 5:17], picture, atol=1 / 255)
    np.testing.assert_allclose(png[20:30, 30:42], np.repeat(picture[..., :1], 3, axis=-1), atol=1 / 255)
    png[7:17, 5:17] = png[20:30, 30:42] = 1
    assert (png == 1).all()


@pytest.mark.parametrize("text", ["W" * 200, "i" * 200, "a word", "日本語" * 30, "$x^2$ and $y", "Ж" * 80, "", "_^{$$"])
def test_text_stays_in_its_place(tmp_path, text) -> None:
    sheet = Sheet(200, 60, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that the font lacks is no news
        sheet.write(text, 40, 20, 90)
        sheet.save(tmp_path / "sheet.png")
    ink = np.argwhere(imread(tmp_path / "sheet.png")[..., :3].min(axis=-1) < 1)
    if text:
        (top, left), (bottom, right) = ink.min(axis=0), ink.max(axis=0)
        assert 39 <= left and right <= 131 and 18 <= top and bottom <= 38
    assert bool(text) == bool(len(ink))
    if len(text) > 20:
        assert right > 115  # the space was used


def test_a_long_title_takes_the_lines_it_needs(tmp_path) -> None:
    for title, height in (("", 50), ("short", 74), ("a title of many words " * 4, 128)):
        sheet = Sheet(220, 50, title)
        sheet.paste(np.zeros((50, 220, 1)), 0, 0)
        sheet.save(tmp_path / "sheet.png")
        png = imread(tmp_path / "sheet.png")[..., :3]
        assert png.shape == (height, 220, 3)
        assert (png[-50:] == 0).all() and (png[:-50] < 0.5).any() == bool(title)  # text is above, never over it


def test_names_are_one_line_and_never_empty() -> None:
    assert class_labels(["cat", "", " two\nlines ", "ñ"]) == ["cat", "class 1", "two lines", "ñ"]


def test_grids_are_about_square_and_full() -> None:
    assert [columns_for(n, 10, 10) for n in (1, 2, 3, 4, 10, 16, 97, 100)] == [1, 1, 3, 2, 5, 4, 14, 10]
    assert columns_for(6, 400, 100) < columns_for(6, 100, 100) < columns_for(6, 100, 400)
    assert max(columns_for(n, 1, 1000) - n for n in range(1, 50)) == 0  # never more columns than blocks


def test_pixels_are_enlarged_crisply() -> None:
    picture = np.arange(6).reshape(2, 3, 1)
    np.testing.assert_array_equal(enlarge(picture, 2)[..., 0], np.kron(picture[..., 0], np.ones((2, 2))))
    assert [zoom_to(96, 8, 8), zoom_to(96, 28, 40), zoom_to(96, 224, 224)] == [12, 4, 1]


def test_figures_are_saved_without_pyplot(tmp_path) -> None:
    import matplotlib.pyplot as plt

    before, sheet = plt.get_fignums(), Sheet(50, 50, "t")
    sheet.save(tmp_path / "sheet.png")
    assert plt.get_fignums() == before and isinstance(sheet._figure, Figure)
