"""Anchors by hand, one at a time."""

import numpy as np
import pytest

from cvjax.ops.anchors import anchor_shapes, grid_anchors, pyramid_anchors


def test_three_sizes_of_three_shapes() -> None:
    """128 at half the height: 128 / sqrt(1/2) = 181.02 wide and 90.51 high, corners at 90.51 and 45.25, rounded."""
    shapes = anchor_shapes()
    assert shapes.shape == (9, 4) and shapes.dtype == np.float32
    np.testing.assert_array_equal(shapes[0], [-91, -45, 91, 45])
    np.testing.assert_array_equal(shapes[4], [-128, -128, 128, 128])  # 256, square
    np.testing.assert_array_equal(shapes[8], [-181, -362, 181, 362])  # 512, upright
    np.testing.assert_array_equal(anchor_shapes((1, 3, 5), (1,))[:, 2], [0, 2, 2])  # halves to the even number


def test_they_stand_on_a_grid_row_by_row_and_level_by_level() -> None:
    anchors = np.asarray(grid_anchors((2, 3), (16, 8)))
    expected = [shape + np.array([8 * j, 16 * i] * 2) for i in range(2) for j in range(3) for shape in anchor_shapes()]
    np.testing.assert_array_equal(anchors, expected)
    levels = pyramid_anchors([(2, 3), (1, 1)], [(16, 8), (32, 32)], [(128, 256, 512), (7,)])
    np.testing.assert_array_equal(levels[:54], anchors)
    np.testing.assert_array_equal(levels[54:], anchor_shapes((7,)))


def test_what_they_do_not_take() -> None:
    with pytest.raises(ValueError, match=r"positive numbers, received \(32, 0\) and \(1,\)"):
        anchor_shapes((32, 0), (1,))
    with pytest.raises(ValueError, match=r"two positive numbers each, received \(0, 3\) and \(16, 16\)"):
        grid_anchors((0, 3), (16, 16))
    with pytest.raises(ValueError, match="one for each map, received 2, 1 and 2"):
        pyramid_anchors([(2, 3)] * 2, [(16, 16)], [(32,)] * 2)
