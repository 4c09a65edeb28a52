"""Balanced samples: how many of each kind, never one twice, and each subset as often as any other."""

import collections

import jax
import numpy as np
import pytest

from cvjax.ops.sampling import balanced_sample


def draw(positive: np.ndarray, negative: np.ndarray, size: int, fraction: float, count: int):
    keys = jax.random.split(jax.random.key(0), count)
    in_axes = (0, *(None if x.ndim == 1 else 0 for x in (positive, negative)))
    run = jax.vmap(lambda k, p, n: balanced_sample(k, p, n, size, fraction), in_axes)
    return jax.tree.map(np.asarray, jax.jit(run)(keys, positive, negative))


@pytest.mark.parametrize("size, fraction", [(8, 0.25), (8, 0.5), (40, 0.3), (5, 1.0), (5, 0.0)])
def test_counts_and_kinds(size: int, fraction: float) -> None:
    rng = np.random.default_rng(0)
    kinds = np.stack([rng.choice(3, 20, p=p) for p in rng.dirichlet(np.full(3, 0.5), 1000)])
    positive, negative = kinds == 0, kinds == 1
    found = draw(positive, negative, size, fraction, 1000)
    positives = np.minimum(positive.sum(1), int(size * fraction))
    total = positives + np.minimum(negative.sum(1), size - positives)
    np.testing.assert_array_equal(found.positive, np.arange(size) < positives[:, None])
    np.testing.assert_array_equal(found.valid, np.arange(size) < total[:, None])
    assert not found.index[~found.valid].any()
    rows = np.arange(1000)[:, None]
    assert positive[rows, found.index][found.positive].all()
    assert negative[rows, found.index][found.valid & ~found.positive].all()
    for index, valid in zip(found.index, found.valid):
        assert len(set(index[valid])) == valid.sum()


def test_every_subset_is_drawn_as_often() -> None:
    """2 of 4 positives and 1 of 3 negatives: 18 outcomes, 9,000 draws; chi squared of 17 degrees exceeds 40.8 once in
    a thousand seeds, and this seed is fixed."""
    positive, negative = np.arange(10) % 3 == 0, np.arange(10) % 3 == 1
    found = draw(positive, negative, 3, 0.67, 9000)
    assert found.valid.all()
    counts = collections.Counter((frozenset(index[:2]), index[2]) for index in found.index)
    assert len(counts) == 6 * 3
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 40.8


def test_what_it_does_not_take() -> None:
    kinds = np.ones(3, bool)
    with pytest.raises(ValueError, match=r"must be \(N,\), received \(3,\) and \(2,\)"):
        balanced_sample(jax.random.key(0), kinds, kinds[:2], 4, 0.5)
    with pytest.raises(ValueError, match=r"positive_fraction in \[0, 1\], received 4 and 2"):
        balanced_sample(jax.random.key(0), kinds, ~kinds, 4, 2)
