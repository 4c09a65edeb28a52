import numpy as np
import pytest

from cvjax.visualize import kernel_images, kernel_panel
from tests.visualize.figures import NAMES, misplaced, read, texts

KERNEL = np.random.default_rng(0).normal(size=(5, 4, 3, 6))


def test_zero_is_grey_and_the_largest_weight_is_the_end_of_the_scale():
    kernel = KERNEL.copy()
    kernel[0, 0, 0, 0], kernel[1, 1, 1, 1], kernel[..., 2] = 0, -9, 0
    pictures = kernel_images(kernel)
    assert pictures.shape == (6, 5, 4, 3) and pictures.dtype == np.float32
    assert pictures[0, 0, 0, 0] == 0.5 and pictures[1, 1, 1, 1] == 0 and (pictures[2] == 0.5).all()
    np.testing.assert_allclose(2 * pictures[3] - 1, kernel[..., 3] / np.abs(kernel[..., 3]).max(), atol=1e-6)
    np.testing.assert_allclose(kernel_images(100 * kernel), pictures, atol=1e-6)


def test_the_panel_holds_each_filter(tmp_path, saved):
    kernel_panel(tmp_path / "k.png", KERNEL, title="conv1")
    png, zoom = read(tmp_path / "k.png"), 8  # 32 / 4
    assert texts(saved[0]) == ["conv1"]
    width, height = 4 * zoom + 6, 5 * zoom + 6
    title = png.shape[0] - (2 * height - 6 + 36)  # two rows of three
    assert title == 24
    for number, picture in enumerate(kernel_images(KERNEL)):
        top, left = title + 18 + number // 3 * height, 18 + number % 3 * width
        shown = png[top:top + 5 * zoom, left:left + 4 * zoom]
        np.testing.assert_allclose(shown, np.kron(picture, np.ones((zoom, zoom, 1))), atol=1 / 255)


def test_templates_carry_the_names_of_their_classes(tmp_path, saved):
    weights = np.random.default_rng(0).normal(size=(8 * 8, 6))
    kernel_panel(tmp_path / "k.png", weights.reshape(8, 8, 1, 6), NAMES, title="templates")
    written = texts(saved[0])
    assert written[0] == "templates" and written[1:3] == ["zero", "$x^2$ and $y"] and written[4] == "class 3"
    assert written[3].startswith("a very long") and written[3].endswith("…") and misplaced(saved[0]) == []


@pytest.mark.parametrize("shape, names", [((11, 11, 3, 96), False), ((3, 3, 1, 1), False), ((32, 32, 3, 100), True),
                                          ((16, 16, 3, 384), False)])
def test_grids_of_any_size(tmp_path, saved, shape, names):
    kernel = np.random.default_rng(0).normal(size=shape)
    names = [f"a class of number {i}" for i in range(shape[-1])] if names else None
    kernel_panel(tmp_path / "k.png", kernel, names, title="filters")
    png = read(tmp_path / "k.png")
    assert misplaced(saved[0]) == [] and max(png.shape) < 2000 and (png < 0.99).any(axis=-1).sum() > 9 * shape[-1]


@pytest.mark.parametrize("kernel, names, message", [
    (KERNEL[:, :, :2], None, r"C = 1 or 3, received shape \(5, 4, 2, 6\)"), (KERNEL[0], None, "received shape"),
    (KERNEL * np.nan, None, "must be finite"), (KERNEL, ["a"], "each of 6 filters, received 1")])
def test_errors_say_what_came(tmp_path, kernel, names, message):
    with pytest.raises(ValueError, match=message):
        kernel_panel(tmp_path / "k.png", kernel, names)
