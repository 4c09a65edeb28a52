"""The memory that a program is reckoned to need, against hand-worked bytes."""

import jax
import jax.numpy as jnp
import pytest

from cvjax.workflow.liveness import flatten, temporary_bytes

ROWS, IN, OUT = 32, 8, 16
X, W, V = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((ROWS, IN), (IN, OUT), (OUT, OUT)))
MAP = 4 * ROWS * OUT  # bytes of X @ W


def needed(function, *arguments, platform="cuda"):
    return temporary_bytes(flatten(jax.make_jaxpr(function)(*arguments), platform))


def test_elementwise_arithmetic_is_fused_into_the_sum():
    assert needed(lambda x: (jnp.sin(x) * x + 2).sum(), X) == 0


def test_between_two_products_lies_what_the_second_reads():
    assert needed(lambda x, w, v: (x @ w) @ v, X, W, V) == MAP
    # The first product is read to compute its sine, which is written for the second product: both lie there.
    assert needed(lambda x, w, v: jnp.sin(x @ w) @ v, X, W, V) == 2 * MAP


def test_half_precision_takes_half():
    half = [jax.ShapeDtypeStruct(array.shape, jnp.bfloat16) for array in (X, W, V)]
    assert needed(lambda x, w, v: jnp.sin(x @ w) @ v, *half) == MAP


def test_a_gradient_keeps_what_the_backward_pass_reads():
    def loss(w, v, x):
        return (jnp.sin(x @ w) @ v).sum()

    # For the gradients: the product (its cosine) and its sine (v's gradient); then the gradient of the sine, a product,
    # and from it that of the first product, which w's reads. The sum's own gradient is ones, which nobody writes.
    assert needed(jax.grad(loss, (0, 1)), W, V, X) == 3 * MAP


@pytest.mark.parametrize("depth", [1, 4])
def test_a_sum_of_products_is_kept_and_not_its_parts(depth):
    def residual(x, w, v):
        x = x @ w
        for _ in range(depth):
            x = x + x @ v
        return (x @ v).sum()

    # While a sum is computed, the sum before it, the product, and the new sum lie there.
    assert needed(residual, X, W, V) == 3 * MAP


def test_a_loop_takes_one_turns_memory():
    def looped(length):
        return lambda x, w, v: jax.lax.scan(lambda c, _: (jnp.sin(c @ v) @ v, None), x @ w, length=length)[0].sum()

    assert needed(looped(2), X, W, V) == needed(looped(50), X, W, V) == 4 * MAP  # first and last state, and two inside


def test_the_platforms_own_way_is_taken():
    def chosen(x, w):
        return jax.lax.platform_dependent(x, w, cuda=lambda x, w: jnp.sin(x @ w) @ w.T,
                                          default=lambda x, w: jnp.sin(x)).sum()

    assert needed(chosen, X, W) == 2 * MAP and needed(chosen, X, W, platform="tpu") == 0


def test_views_take_nothing():
    def viewed(x, w, v):
        return ((x @ w).reshape(2, ROWS // 2, OUT).reshape(ROWS, OUT) @ v).sum()

    assert needed(viewed, X, W, V) == 2 * MAP
