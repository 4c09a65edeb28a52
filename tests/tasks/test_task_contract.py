"""The contract of every task: keys belong to records, and sums leave padding out."""

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.tasks.task import batch_key, example_keys, masked_sum, total


def words(keys):
    return np.asarray(jax.random.key_data(keys))


def test_a_record_draws_the_same_wherever_its_row_is():
    rng = jax.random.key(0)
    keys = words(example_keys(rng, {"index": jnp.array([5, 3, 9, 0])}))
    moved = words(example_keys(rng, {"index": jnp.array([0, 9])}))
    np.testing.assert_array_equal(moved, keys[[3, 2]])
    assert len({tuple(key) for key in keys}) == 4


def test_copies_of_a_record_draw_their_own():
    rng = jax.random.key(0)
    batch = {"index": jnp.array([5, 5, 5, 3]), "copy": jnp.array([0, 1, 2, 0])}
    keys = words(example_keys(rng, batch))
    assert len({tuple(key) for key in keys}) == 4
    np.testing.assert_array_equal(words(example_keys(rng, {name: x[1:2] for name, x in batch.items()})), keys[1:2])
    same_record = [{"index": jnp.array([5]), "copy": jnp.array([copy])} for copy in (0, 2)]
    assert not np.array_equal(*(words(batch_key(rng, shard)) for shard in same_record))


def test_another_step_draws_anew():
    batch = {"index": jnp.arange(4)}
    first, second = (words(example_keys(jax.random.key(step), batch)) for step in (1, 2))
    assert not (first == second).all(axis=1).any()


def test_batch_keys_differ_between_shards_and_from_their_examples():
    rng = jax.random.key(0)
    shards = [{"index": jnp.arange(start, start + 4)} for start in (0, 4, 8)]
    keys = [tuple(words(batch_key(rng, shard))) for shard in shards]
    examples = [tuple(key) for shard in shards for key in words(example_keys(rng, shard))]
    assert len({*keys, *examples}) == 3 + 12


def test_padding_counts_for_nothing_even_where_it_is_not_finite():
    values, mask = jnp.array([1.0, jnp.nan, 2.0, jnp.inf]), jnp.array([True, False, True, False])
    assert tuple(map(float, masked_sum(values, mask))) == (3, 2)
    assert tuple(map(float, total(jnp.array([1.0, 4.0])))) == (5, 2)
    assert tuple(map(float, masked_sum(values, jnp.zeros(4, bool)))) == (0, 0)
