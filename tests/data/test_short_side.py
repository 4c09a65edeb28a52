"""torchvision's resize of a detector's picture; `tests/parity/test_faster_rcnn_live.py` has torchvision itself."""

import numpy as np
import pytest

from cvjax.data.boxes.short_side import ShortSide


def bilinear(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each new pixel between its four old neighbours, without a filter; in float64."""
    for axis, length in enumerate(size):
        own = pixels.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * own / length - 0.5, 0, own - 1)
        low = np.minimum(place.astype(int), max(own - 2, 0))
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        high = np.minimum(low + 1, own - 1)
        pixels = np.take(pixels, low, axis) * (1 - share) + np.take(pixels, high, axis) * share
    return pixels


@pytest.mark.parametrize("size, expected, canvas", [
    ((40, 60), (80, 120), (96, 128)), ((61, 92), (80, 120), (96, 128)), ((92, 61), (120, 80), (128, 96)),
    ((30, 100), (39, 133), (64, 160)),
    ((300, 200), (120, 80), (128, 96))])
def test_sides_values_and_what_fills_the_canvas(size, expected, canvas):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    made = ShortSide((0.5, 0.25, 0.75), short=80, long=133)(pixels)
    height, width = expected
    assert made["extent"].tolist() == [height, width]
    assert made["image"].shape == (*canvas, 3)
    # Places are rounded in float32 to 1e-5 of a pixel, over which a value changes by 255 * 1e-5 at most.
    np.testing.assert_allclose(made["image"][:height, :width], bilinear(pixels.astype(float), expected), atol=5e-3)
    assert (made["image"][height:] == 255 * np.float32((0.5, 0.25, 0.75))).all()
    assert (made["image"][:, width:] == 255 * np.float32((0.5, 0.25, 0.75))).all()
    across, down = width / size[1], height / size[0]
    np.testing.assert_allclose(made["scale"], [[across, down, across, down]], rtol=1e-6)
