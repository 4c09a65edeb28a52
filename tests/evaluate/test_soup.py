"""Model soups: exact means, a greedy choice that is never worse than the best, and batch norm's own statistics."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvjax.evaluate.soup import greedy_soup, mean_of, renewing_statistics, unmoved
from cvjax.layers.norm import frozen_statistics
from cvjax.models import create_model


def test_the_mean_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 4)).astype(np.float32) * np.float32(10.0 ** i) for i in range(7)]
    found = mean_of([{"a": array, "b": {"c": -array}} for array in arrays])
    exact = (sum(array.astype(np.float64) for array in arrays) / 7).astype(np.float32)
    np.testing.assert_array_equal(found["a"], exact)
    np.testing.assert_array_equal(found["b"]["c"], -exact)
    assert found["a"].dtype == np.float32
    alone = {"a": arrays[0]}
    assert mean_of([alone]) is alone


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_a_greedy_soup_is_never_below_the_best(scores: list[int], seed: int) -> None:
    asked: list[tuple[int, ...]] = []

    def judge(positions: list[int]) -> float:
        asked.append(tuple(positions))
        return float(np.random.default_rng([seed, *sorted(positions)]).integers(0, 10))

    kept, reached = greedy_soup(scores, judge)
    assert reached[0] == max(scores) and reached == sorted(reached) and kept[0] == scores.index(max(scores))
    assert len(asked) == len(scores) - 1 and all(len(each) > 1 for each in asked)
    if len(kept) > 1:
        assert judge(kept) == reached[-1]
    tried = [each[-1] for each in asked[:len(scores) - 1]]
    assert [scores[i] for i in tried] == sorted((scores[i] for i in tried), reverse=True)


def test_equal_scores_stay_and_what_is_no_number_does_not() -> None:
    assert greedy_soup([0.5, 0.9, 0.7], lambda positions: 0.9) == ([1, 2, 0], [0.9, 0.9, 0.9])
    assert greedy_soup([np.nan, 0.2], lambda positions: np.nan) == ([1], [0.2])


def test_statistics_are_those_of_the_network_itself() -> None:
    """Of the second norm, too: of what the first layers give when they are normalised by a batch's own statistics."""
    model = create_model("resnet20", depths=(1,), width=4, num_classes=3, image_size=8)
    rng = np.random.default_rng(0)
    images = rng.normal(1, 3, (2, 16, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images[0])
    variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables)
    found = renewing_statistics(model)(variables, list(images))
    np.testing.assert_array_equal(found["params"]["conv1"]["kernel"], variables["params"]["conv1"]["kernel"])

    def of_training(batch: np.ndarray) -> dict:  # its running statistics keep 0.9 of the zeros that they start from
        empty = jax.tree.map(np.zeros_like, variables["batch_stats"])
        state = model.apply({**variables, "batch_stats": empty}, batch, train=True, mutable=["batch_stats"])[1]
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) / 0.1, state["batch_stats"])

    expected = jax.tree.map(lambda a, b: (a + b) / 2, *map(of_training, images))
    assert expected["layer1"]["0"]["bn2"]["mean"].shape == (4,)
    # Rounding in float32 of ten times a number that is the difference of two.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5), found["batch_stats"], expected)
    distance = np.abs(found["batch_stats"]["bn1"]["mean"] - variables["batch_stats"]["bn1"]["mean"])
    assert distance.max() > 0.1, "the running ones were others"


def test_frozen_statistics_stay_and_those_above_are_of_what_they_give() -> None:
    """Those that no training has moved, of `--freeze`: a head on a frozen backbone was learnt with them."""
    model = create_model("resnet20", depths=(1,), width=4, num_classes=3, image_size=8)
    images = np.random.default_rng(0).normal(1, 3, (16, 8, 8, 3)).astype(np.float32)
    one = jax.device_get(jax.jit(model.init)(jax.random.key(0), images))
    other = jax.tree.map(np.copy, one)
    assert unmoved([one, other]) == {"bn1", "layer1/0/bn1", "layer1/0/bn2"}
    assert renewing_statistics(model, unmoved([one, other]))(one, []) is one
    other["batch_stats"]["layer1"]["0"]["bn2"]["var"][0] += 1
    kept = unmoved([one, other])
    assert kept == {"bn1", "layer1/0/bn1"}
    found = renewing_statistics(model, kept)(one, [images])["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, [found["bn1"], found["layer1"]["0"]["bn1"]],
                 [one["batch_stats"]["bn1"], one["batch_stats"]["layer1"]["0"]["bn1"]])
    with frozen_statistics(kept.__contains__):
        state = model.apply(one, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]["layer1"]["0"]["bn2"]
    start = one["batch_stats"]["layer1"]["0"]["bn2"]
    # The running ones keep 0.9 of the first: rounding in float32 of ten times a difference.
    jax.tree.map(lambda found, state, start: np.testing.assert_allclose(found, (state - 0.9 * start) / 0.1, rtol=3e-5,
                                                                        atol=3e-5),
                 found["layer1"]["0"]["bn2"], jax.device_get(state), start)
    assert unmoved([{"params": {}}] * 2) == frozenset()


def test_dropout_stays_off_and_networks_without_batch_norm_stay_as_they_are() -> None:
    model = create_model("vgg11_bn", width=2, fc_width=4, depths=(1,), num_classes=2, image_size=8, dropout=0.9)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    renewing_statistics(model)(variables, [images])  # no key for dropout, and no error for the lack of one
    with pytest.raises(ValueError, match="no batch"):
        renewing_statistics(model)(variables, [])
    plain = {"params": variables["params"]}
    assert renewing_statistics(model)(plain, []) is plain
