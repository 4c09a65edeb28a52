"""Warped regions against a loop over their pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops.warp import warp_regions


def warp_slowly(image, box, size, context, extent):
    """One region, pixel by pixel, in float64."""
    result = np.zeros((size, size, image.shape[2]))
    height, width = extent
    x1, y1, x2, y2 = (float(v) for v in box)
    for i in range(size):
        for j in range(size):
            # The region's own pixels are those from `context` to `size - context`.
            y = y1 + (i + 0.5 - context) * (y2 - y1) / (size - 2 * context)
            x = x1 + (j + 0.5 - context) * (x2 - x1) / (size - 2 * context)
            if not (0 <= y < height and 0 <= x < width):
                continue
            for row, down in ((math.floor(y - 0.5), 1 - (y - 0.5) % 1), (math.floor(y - 0.5) + 1, (y - 0.5) % 1)):
                for column, across in ((math.floor(x - 0.5), 1 - (x - 0.5) % 1),
                                       (math.floor(x - 0.5) + 1, (x - 0.5) % 1)):
                    pixel = image[min(max(row, 0), math.ceil(height) - 1), min(max(column, 0), math.ceil(width) - 1)]
                    result[i, j] += down * across * pixel
    return result


BOXES = np.float32([[3, 4, 11, 9],  # inside, and its context too
                    [0, 0, 18, 14],  # the whole image: context lies outside
                    [-6, 5, 4, 30],  # across two borders
                    [9.3, 2.7, 10.1, 12.9],  # narrow, between pixels
                    [40, 40, 50, 50],  # nothing of it is in the image
                    [5, 5, 5, 5]])  # a point


@pytest.mark.parametrize("context, extent", [(0, None), (2, None), (3.3, (10.0, 13.0))])
def test_a_warped_region_equals_a_loop_over_pixels(context, extent):
    image = np.random.default_rng(0).normal(size=(14, 18, 2)).astype(np.float32)
    warped = jax.jit(lambda image, boxes: warp_regions(image, boxes, 12, context=context, extent=extent))(image, BOXES)
    slow = np.stack([warp_slowly(image, box, 12, context, extent or image.shape[:2]) for box in BOXES])
    # Places are float32 numbers up to 50: eps(50) = 4e-6 of a pixel, times differences of pixels up to 6.
    np.testing.assert_allclose(warped, slow, atol=5e-5)
    assert not np.any(warped[4]) and (context or np.ptp(warped[5], axis=(0, 1)).max() == 0)


def test_the_whole_image_at_its_size_is_itself():
    image = np.random.default_rng(1).normal(size=(9, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(warp_regions(image, np.float32([[0, 0, 9, 9]]), 9, context=0)[0], image, atol=1e-6)


def test_boxes_have_no_gradient_and_pixels_have():
    boxes, image = jnp.float32([[1, 1, 5, 6]]), jnp.ones((8, 8, 1))
    by_image, by_box = jax.grad(lambda *x: warp_regions(*x, 6, context=1).sum(), (0, 1))(image, boxes)
    assert not by_box.any() and by_image.sum() == pytest.approx(36, rel=1e-5)  # weights of each result add up to 1


@pytest.mark.parametrize("shape, boxes, options, message", [
    ((4, 4), (1, 4), {}, "image and boxes must be"),
    ((4, 4, 3), (4,), {}, "image and boxes must be"),
    ((4, 4, 3), (1, 4), {"context": 4}, r"context must lie in \[0, 4.0\), half of size, received 4"),
])
def test_what_cannot_be_is_told(shape, boxes, options, message):
    with pytest.raises(ValueError, match=message):
        warp_regions(jnp.zeros(shape), jnp.zeros(boxes), 8, **dict(context=1) | options)
