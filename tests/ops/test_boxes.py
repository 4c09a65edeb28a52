"""Boxes against arithmetic one box at a time; degenerate ones have finite overlaps and gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection_twins import boxes, iou_matrix, one_iou

from cvjax.ops.boxes import (
    LARGEST_LOG_SCALE,
    area,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    from_centres,
    generalized_iou,
    iou,
    is_large,
    pairwise_iou,
    to_centres,
)


def test_overlaps_of_every_pair() -> None:
    """Exactly: on a grid of quarter pixels all products are whole, and both divide with correct rounding."""
    rng = np.random.default_rng(0)
    a, b = boxes(rng, 80).reshape(2, 40, 4), boxes(rng, 60).reshape(2, 30, 4)
    expected = np.array([[[one_iou(x, y) for y in b[i]] for x in a[i]] for i in range(2)])
    np.testing.assert_array_equal(iou_matrix(a, b), expected)
    found = jax.jit(pairwise_iou)(a, b)
    assert found.shape == (2, 40, 30) and found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(iou(a[:, :30], b), expected[:, range(30), range(30)])
    np.testing.assert_array_equal(area(a), np.maximum(0, a[..., 2] - a[..., 0]) * np.maximum(0, a[..., 3] - a[..., 1]))


def test_worked_overlaps() -> None:
    """Squares of side 2 a step of 1 apart: 2 of 6 are shared; in a row with a gap of 2, the hull is half empty."""
    a = jnp.array([0.0, 0, 2, 2])
    np.testing.assert_allclose(iou(a, jnp.array([1.0, 0, 3, 2])), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(generalized_iou(a, jnp.array([1.0, 0, 3, 2])), 1 / 3, rtol=1e-6)
    far = jnp.array([4.0, 0, 6, 2])  # hull 12, union 8
    np.testing.assert_allclose([iou(a, far), generalized_iou(a, far)], [0, -1 / 3], rtol=1e-6)
    np.testing.assert_array_equal([iou(a, a), generalized_iou(a, a)], [1, 1])
    np.testing.assert_array_equal(iou(a, jnp.array([jnp.nan, 0, 1, 1])), 0)


def test_generalized_overlaps_of_random_pairs() -> None:
    rng = np.random.default_rng(1)
    a, b = boxes(rng, 3000), boxes(rng, 3000)
    low, high = np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])
    hull = np.maximum(0, high - low).prod(-1)
    sums = [np.maximum(0, x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    shared = np.maximum(0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).prod(-1)
    union = sums[0] + sums[1] - shared
    with np.errstate(invalid="ignore"):
        expected = np.where(union > 0, shared / union, 0) - np.where(hull > 0, (hull - union) / hull, 0)
    np.testing.assert_allclose(generalized_iou(a, b), expected, atol=3e-7)  # one subtraction of numbers up to 1


@pytest.mark.parametrize("overlap", [iou, generalized_iou])
def test_gradients_are_finite_everywhere_and_right_where_smooth(overlap: Callable) -> None:
    rng = np.random.default_rng(2)
    a, b = boxes(rng, 500), boxes(rng, 500)
    a[:50] = b[:50]
    pull = jax.jit(jax.grad(lambda a, b: overlap(a, b).sum(), (0, 1)))
    for gradient in pull(a, b):
        assert np.isfinite(gradient).all()
    a = np.array([[1.0, 2, 9, 8], [0, 0, 3, 3]], np.float32)
    b = np.array([[3.0, 1, 12, 6], [5, 4, 9, 9]], np.float32)
    step = 2**-6  # truncation of the central difference below 1e-4 of slopes near 0.1, rounding 1e-7 / step
    for i in range(4):
        move = np.eye(4, dtype=np.float32)[i] * step
        slope = (overlap(a + move, b) - overlap(a - move, b)) / (2 * step)
        np.testing.assert_allclose(pull(a, b)[0][:, i], slope, atol=5e-5)


def test_clipping_and_small_boxes() -> None:
    given = np.array([[-5, -1, 30, 7], [8, 3, 9, 9], [40, 1, 50, 2]], np.float32)
    np.testing.assert_array_equal(clip_boxes(given, 6, 20), [[0, 0, 20, 6], [8, 3, 9, 6], [20, 1, 20, 2]])
    per_image = clip_boxes(np.stack([given, given]), np.array([[6.0], [2]]), np.array([[20.0], [45]]))
    np.testing.assert_array_equal(per_image[1], [[0, 0, 30, 2], [8, 2, 9, 2], [40, 1, 45, 2]])
    np.testing.assert_array_equal(is_large(given, 1), [True, True, True])
    np.testing.assert_array_equal(is_large(given, 1.5), [True, False, False])
    assert not is_large(np.array([0, 0, np.nan, 9], np.float32), 1)


def test_centres_and_back() -> None:
    given = boxes(np.random.default_rng(3), 100)
    centres = to_centres(given)
    np.testing.assert_array_equal(centres[:, 2], given[:, 2] - given[:, 0])
    np.testing.assert_array_equal(centres[:, 1], (given[:, 1] + given[:, 3]) / 2)
    np.testing.assert_array_equal(from_centres(centres), given)


def test_offsets_as_the_paper_writes_them() -> None:
    """A box of 20 x 10 at (20, 10) from an anchor of 10 x 10 at (10, 10): one width to the right, twice as wide."""
    anchor, box = np.array([5, 5, 15, 15], np.float32), np.array([10, 5, 30, 15], np.float32)
    np.testing.assert_allclose(encode_boxes(box, anchor), [1, 0, np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(encode_boxes(box, anchor, (10, 10, 5, 5)), [10, 0, 5 * np.log(2), 0], rtol=1e-6)
    codes = np.array([[1, 0, np.log(2), 0], [0, 0, 9, -9]], np.float32)
    np.testing.assert_allclose(decode_boxes(codes[0], anchor), box, rtol=1e-6)
    grown = to_centres(decode_boxes(codes[1], anchor))
    np.testing.assert_allclose(grown, [10, 10, 625, 10 * np.exp(-9)], rtol=1e-4)
    assert np.exp(LARGEST_LOG_SCALE) == pytest.approx(62.5)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_boxes_come_back_from_their_offsets(weights: tuple) -> None:
    rng = np.random.default_rng(4)
    centres = rng.uniform(1, 64, (2, 2000, 4)).astype(np.float32)
    anchors, given = from_centres(centres)
    back = decode_boxes(encode_boxes(given, anchors, weights), anchors, weights)
    # Coordinates up to 100 lose a few of float32's 8e-6 in the centre, the sides a few rounding errors of the exponent.
    np.testing.assert_allclose(back, given, atol=2e-4)
    codes = rng.normal(size=(5, 3, 4)).astype(np.float32)
    by_class = decode_boxes(codes, anchors[:5, None])
    assert by_class.shape == (5, 3, 4)
    np.testing.assert_array_equal(by_class[:, 1], decode_boxes(codes[:, 1], anchors[:5]))


def test_boxes_without_a_side_have_no_offsets_and_finite_gradients() -> None:
    rng = np.random.default_rng(5)
    given, anchors = boxes(rng, 2000), boxes(rng, 2000)
    sound = np.all([x[:, 2:] > x[:, :2] for x in (given, anchors)], axis=(0, 2))
    assert 100 < (~sound).sum() < 1900
    codes = np.asarray(encode_boxes(given, anchors))
    assert np.isfinite(codes).all() and not codes[~sound].any()
    for gradient in jax.grad(lambda a, b: encode_boxes(a, b).sum(), (0, 1))(given, anchors):
        assert np.isfinite(gradient).all() and not gradient[~sound].any()
    huge = jnp.array([1e30, -1e30, 1e30, -1e30])
    assert np.isfinite(jax.grad(lambda codes: decode_boxes(codes, anchors[:, None]).sum() * 1e-30)(huge)).all()
