"""Suppression against the greedy loop over one box at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection_twins import boxes, iou_matrix

from cvjax.ops.nms import class_wise_nms, nms


def slow(given: np.ndarray, scores: np.ndarray, valid: np.ndarray, threshold: float, limit: int,
         labels: np.ndarray | None = None) -> list[int]:
    overlaps = iou_matrix(given, given)
    kept = []
    for i in sorted(np.flatnonzero(valid & ~np.isnan(scores)), key=lambda i: (-scores[i], i)):
        rivals = kept if labels is None else [j for j in kept if labels[j] == labels[i]]
        if not (overlaps[i, rivals] > np.float32(threshold)).any():
            kept.append(i)
    return kept[:limit]


def scenes(rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, ...]:
    """Boxes, scores with ties, infinities and nan, labels, and which are valid."""
    given = np.stack([boxes(rng, size, rng.choice([4, 12, 40])) for _ in range(count)])
    scores = rng.integers(-5, 6, (count, size)).astype(np.float32) / 4
    scores[rng.random(scores.shape) < 0.03] = np.nan
    scores[rng.random(scores.shape) < 0.03] = np.inf
    scores[rng.random(scores.shape) < 0.03] = -np.inf
    return given, scores, rng.integers(0, 3, (count, size), np.int32), rng.random((count, size)) < 0.9


@pytest.mark.parametrize("threshold, size, limit, by_class", [(0.5, 24, 30, False), (0.0, 24, 6, True),
                                                              (0.25, 300, 200, True)])
def test_exactly_the_greedy_loop(threshold: float, size: int, limit: int, by_class: bool) -> None:
    """Also where an overlap equals the threshold, which quarter pixels often give; a whole batch under vmap."""
    count = 500 if size < 100 else 6
    given, scores, labels, valid = scenes(np.random.default_rng(size), count, size)
    valid[0] = False
    if by_class:
        run = jax.jit(jax.vmap(lambda b, s, k, v: class_wise_nms(b, s, k, v, threshold, limit)))
        indices, found = run(given, scores, labels, valid)
    else:
        indices, found = jax.jit(jax.vmap(lambda b, s, v: nms(b, s, v, threshold, limit)))(given, scores, valid)
    assert indices.shape == found.shape == (count, limit) and indices.dtype == jnp.int32 and found.dtype == bool
    indices, found = np.asarray(indices), np.asarray(found)
    for i in range(count):
        expected = slow(given[i], scores[i], valid[i], threshold, limit, labels[i] if by_class else None)
        np.testing.assert_array_equal(indices[i][found[i]], expected)
        assert found[i].sum() == found[i][:len(expected)].sum() and not indices[i][~found[i]].any()


def test_a_long_chain_is_resolved_box_by_box() -> None:
    """Each overlaps only its neighbours: every second one stays, through all tiles; on an accelerator as well."""
    x = np.arange(300, dtype=np.float32)
    chain = np.stack([x, 0 * x, x + 1.75, 0 * x + 1], axis=1)  # neighbours share 0.75 of 2.75
    run = jax.jit(lambda: nms(chain, -x, np.ones(300, bool), 0.25, 300))
    indices, found = run()
    np.testing.assert_array_equal(indices[found], np.arange(0, 300, 2))


def test_accelerators_compare_with_all_that_is_kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given, scores, labels, valid = (x[0] for x in scenes(np.random.default_rng(3), 1, 300))
    here = class_wise_nms(given, scores, labels, valid, 0.3, 100)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda cpu, default: default())
    for ours, theirs in zip(here, class_wise_nms(given, scores, labels, valid, 0.3, 100)):
        np.testing.assert_array_equal(ours, theirs)


def test_boxes_without_area_or_with_nan_stay() -> None:
    given = [[0, 0, 4, 4], [1, 1, 1, 3], [1, 1, 1, 3], [3, 3, 2, 2], [0, np.nan, 4, 4], [0, 0, 4, 4]]
    indices, found = nms(jnp.array(given), np.zeros(6, np.float32), np.ones(6, bool), 0.0, 8)
    np.testing.assert_array_equal(indices, [0, 1, 2, 3, 4, 0, 0, 0])
    np.testing.assert_array_equal(found, [True] * 5 + [False] * 3)


def test_far_labels_are_compared_exactly() -> None:
    """Moved to label times 1,001 pixels, two boxes that share 1/64 pixel would be one at label 2,000."""
    given = np.array([[0, 0, 1, 1], [63 / 64, 0, 2, 1]], np.float32)
    labels = np.full(2, 2000, np.int32)
    _, found = class_wise_nms(given, np.ones(2, np.float32), labels, np.ones(2, bool), 0.007, 2)
    assert found.sum() == 1  # they share (1/64) / (2 - ...) = 0.0078
    _, found = class_wise_nms(given, np.ones(2, np.float32), labels + np.arange(2), np.ones(2, bool), 0.0, 2)
    assert found.sum() == 2


def test_what_it_does_not_take() -> None:
    four, ones = np.ones((3, 4), np.float32), np.ones(3, np.float32)
    valid = np.ones(3, bool)
    with pytest.raises(ValueError, match=r"\(N, 4\), \(N,\) and \(N,\) with N > 0, received \(3, 4\), \(2,\)"):
        nms(four, ones[:2], valid, 0.5, 3)
    with pytest.raises(ValueError, match=r"N > 0, received \(0, 4\)"):
        nms(four[:0], ones[:0], valid[:0], 0.5, 3)
    with pytest.raises(ValueError, match=r"iou_threshold must lie in \[0, 1\], received 1.5"):
        nms(four, ones, valid, 1.5, 3)
    with pytest.raises(ValueError, match="max_outputs must be at least 1, received 0"):
        nms(four, ones, valid, 0.5, 0)
    with pytest.raises(ValueError, match=r"labels must have the scores' shape \(3,\), received \(2,\)"):
        class_wise_nms(four, ones, valid[:2], valid, 0.5, 3)
