"""(sum, count) pairs: added everywhere, divided once."""

import math

import jax.numpy as jnp
import pytest

from cvjax.train import metrics


def test_mean_of_unequal_parts_weighs_every_example_alike():
    parts = [{"top1": (jnp.float32(3), jnp.float32(4))}, {"top1": (jnp.float32(0), jnp.float32(1))}]
    assert metrics.mean(metrics.sum_over(parts)) == {"top1": 3 / 5}  # not (3/4 + 0) / 2


def test_an_empty_total_is_zero_and_nothing_counted_is_nan():
    pair = {"loss": (1.0, 2.0)}
    assert metrics.add({}, pair) == pair and metrics.add(pair, pair) == {"loss": (2.0, 4.0)}
    assert metrics.sum_over([]) == {}
    assert math.isnan(metrics.mean({"loss": (0.0, 0.0)})["loss"])


def test_totals_must_have_the_same_names():
    with pytest.raises(ValueError):
        metrics.add({"loss": (1.0, 1.0)}, {"top1": (1.0, 1.0)})


def test_host_sums_are_python_floats_of_the_device_values():
    values = metrics.to_host({"loss": (jnp.float32(0.1), jnp.int32(3))})
    assert values == {"loss": (float(jnp.float32(0.1)), 3.0)} and all(type(v) is float for v in values["loss"])


def test_each_batch_is_fetched_while_the_next_is_computed():
    order = []

    class Value:
        def __init__(self, number):
            self.number = number

        def __array__(self, *_, **__):
            order.append(f"fetch {self.number}")
            return jnp.ones(()).__array__()

    def batches():
        for number in range(3):
            order.append(f"start {number}")
            yield {"loss": (Value(number), 1)}

    assert metrics.sum_over(batches()) == {"loss": (3.0, 3.0)}
    assert order == ["start 0", "start 1", "fetch 0", "start 2", "fetch 1", "fetch 2"]
