"""Matches against the rules applied to one box at a time, and images without ground truth."""

import jax
import numpy as np
import pytest
from detection_twins import boxes, iou_matrix

from cvjax.ops.matching import match_anchors, match_proposals


def scenes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    given = np.stack([boxes(rng, 20, 12) for _ in range(count)])
    truth = np.stack([boxes(rng, 4, 12) for _ in range(count)])
    truth[::3, 1] = given[::3, 5]  # some are hit exactly
    return given, truth, rng.random((count, 4)) < 0.6, rng.random((count, 20)) < 0.8


def slow_anchors(overlaps, mask, usable, high, low):
    real = np.flatnonzero(mask)
    positive, negative, index = np.zeros((3, len(overlaps)), int)
    for i in np.flatnonzero(usable):
        best = max((overlaps[i, j] for j in real), default=0)
        index[i] = next((j for j in real if overlaps[i, j] == best), 0)
        for j in real:
            column = overlaps[usable, j]
            positive[i] |= overlaps[i, j] > 0 and overlaps[i, j] == column.max()
        positive[i] |= len(real) > 0 and best >= np.float32(high)
        negative[i] = not positive[i] and best < np.float32(low)
    return positive, negative, index


def test_anchors() -> None:
    given, truth, mask, usable = scenes(np.random.default_rng(0), 600)
    match = jax.jit(jax.vmap(lambda a, b, m, u: match_anchors(a, b, m, usable=u)))
    found = jax.tree.map(np.asarray, match(given, truth, mask, usable))
    overlaps = iou_matrix(given, truth)
    for i in range(len(given)):
        positive, negative, index = slow_anchors(overlaps[i], mask[i], usable[i], 0.7, 0.3)
        np.testing.assert_array_equal(found.positive[i], positive)
        np.testing.assert_array_equal(found.negative[i], negative)
        np.testing.assert_array_equal(found.index[i][usable[i]], index[usable[i]])
        assert mask[i][found.index[i][found.positive[i]]].all()
    assert found.positive.sum() > 500 and (~found.positive & ~found.negative & usable).sum() > 100
    none = ~mask.any(axis=1)
    assert none.sum() > 5 and not found.positive[none].any() and not found.overlap[none].any()
    np.testing.assert_array_equal(found.negative[none], usable[none])


@pytest.mark.parametrize("background", [(0.0, 0.5), (0.1, 0.5)])
def test_proposals(background: tuple[float, float]) -> None:
    given, truth, mask, usable = scenes(np.random.default_rng(1), 600)
    match = jax.jit(jax.vmap(lambda a, b, m, u: match_proposals(a, b, m, usable=u, background=background)))
    found = jax.tree.map(np.asarray, match(given, truth, mask, usable))
    overlaps = np.where(mask[:, None], iou_matrix(given, truth), -1)
    best, some = overlaps.max(axis=2), mask.any(axis=1)[:, None]
    np.testing.assert_array_equal(found.index, overlaps.argmax(axis=2))
    np.testing.assert_array_equal(found.overlap, np.maximum(best, 0))
    np.testing.assert_array_equal(found.positive, usable & (best >= 0.5))
    inside = (best >= np.float32(background[0])) & (best < 0.5)
    np.testing.assert_array_equal(found.negative, usable & (inside | ~some))


def test_all_anchors_that_share_the_best_overlap_are_positive_but_not_all_that_share_none() -> None:
    anchors = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [20, 20, 24, 24], [3, 0, 5, 4]], np.float32)
    truth = np.array([[1, 0, 5, 4], [90, 90, 99, 99]], np.float32)  # 12 of 20 shared, twice; 8 of 16
    found = match_anchors(anchors, truth, np.ones(2, bool))
    np.testing.assert_array_equal(found.positive, [True, True, False, False])
    np.testing.assert_array_equal(found.negative, [False, False, True, False])
    np.testing.assert_allclose(found.overlap, [0.6, 0.6, 0, 0.5], rtol=1e-6)
    only = match_anchors(anchors, truth, np.ones(2, bool), usable=np.arange(4) > 1)
    np.testing.assert_array_equal(only.positive, [False, False, False, True])


def test_what_they_do_not_take() -> None:
    one, mask = np.ones((1, 4), np.float32), np.ones(1, bool)
    with pytest.raises(ValueError, match=r"M > 0, received \(1, 4\), \(0, 4\) and \(0,\)"):
        match_anchors(one, one[:0], mask[:0])
    with pytest.raises(ValueError, match=r"thresholds must rise in \[0, 1\], received \(0.7, 0.3\)"):
        match_anchors(one, one, mask, high=0.3, low=0.7)
    with pytest.raises(ValueError, match=r"received \(0.0, 0.6, 0.5\)"):
        match_proposals(one, one, mask, background=(0.0, 0.6))
