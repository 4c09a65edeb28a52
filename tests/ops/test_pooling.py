"""Maxima over windows that tile the map, by comparisons, against XLA's own windows; means and blurs by hand."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cvjax.ops.pooling import adaptive_average_pool, average_pool, blur_pool, max_pool


def by_windows(x: jax.Array, window: int) -> jax.Array:
    shape = (1, window, window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, shape, shape, "VALID")


def of_three_values(shape: tuple[int, ...]) -> jax.Array:
    """Small integers: most windows have their maximum more than once."""
    return jnp.asarray(np.random.default_rng(0).integers(0, 3, shape), jnp.float32)


@pytest.mark.parametrize("window, shape", [(2, (3, 6, 4, 5)), (3, (2, 3, 9, 4)), (1, (1, 2, 3, 2)), (4, (2, 4, 4, 3))])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_maxima_and_gradients_are_those_of_windows_also_among_equals(window: int, shape: tuple[int, ...],
                                                                     dtype: jnp.dtype) -> None:
    x = of_three_values(shape).astype(dtype)
    weights = 1 + jnp.arange(x.size // window**2, dtype=jnp.float32)  # which window a gradient came from

    def numbers(pool: Callable) -> tuple[jax.Array, jax.Array]:
        return pool(x, window), jax.grad(lambda x: (pool(x, window).ravel() * weights).sum())(x)

    ours, gradient = numbers(lambda x, window: max_pool(x, window, window))
    theirs, expected = numbers(by_windows)
    assert ours.dtype == dtype and gradient.dtype == dtype
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(gradient, expected)


def test_the_first_of_equals_gets_the_whole_gradient() -> None:
    x = jnp.array([[1.0, 7.0], [7.0, 7.0]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(jax.grad(lambda x: 3 * max_pool(x, 2, 2).sum())(x).ravel(), [0, 3, 0, 0])


@pytest.mark.parametrize("place", range(4))
def test_nan_wins_wherever_it_is(place: int) -> None:
    x = jnp.array([1.0, jnp.inf, -jnp.inf, 2.0]).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    assert np.isnan(by_windows(x, 2)).all() and np.isnan(max_pool(x, 2, 2)).all()


def test_infinities_are_numbers() -> None:
    x = jnp.stack([jnp.full((2, 2, 1), -jnp.inf), jnp.full((2, 2, 1), -jnp.inf).at[1, 0, 0].set(-3.0)])
    np.testing.assert_array_equal(max_pool(x, 2, 2).ravel(), [-jnp.inf, -3.0])


OVERLAPPING = [dict(window=3, strides=2, padding=1), dict(window=3, strides=2, ceil_mode=True),
               dict(window=3, strides=1, padding=1), dict(window=3, strides=3, padding=1), dict(window=2, strides=3)]


@pytest.mark.parametrize("options", OVERLAPPING, ids=str)
@pytest.mark.parametrize("shape", [(2, 9, 10, 3), (1, 7, 8, 2)])
def test_overlapping_windows_give_the_gradient_to_the_first_of_equals(options: dict, shape: tuple[int, ...]) -> None:
    """Row after row, as XLA and torch count; whole numbers, so that sums are exact in any order."""
    x = of_three_values(shape)
    window, strides, padding = options["window"], options["strides"], options.get("padding", 0)
    y = max_pool(x, **options)
    g = np.random.default_rng(1).integers(1, 9, y.shape)
    padded = np.pad(x, ((0, 0), (padding, padding + 3), (padding, padding + 3), (0, 0)), constant_values=-np.inf)
    slow, gradient = np.zeros(y.shape), np.zeros(padded.shape)
    for b, i, j, c in np.ndindex(y.shape):
        seen = padded[b, i * strides:i * strides + window, j * strides:j * strides + window, c]
        row, column = np.unravel_index(seen.argmax(), seen.shape)  # the first
        slow[b, i, j, c] = seen[row, column]
        gradient[b, i * strides + row, j * strides + column, c] += g[b, i, j, c]
    inside = slice(padding, padding + shape[1]), slice(padding, padding + shape[2])
    np.testing.assert_array_equal(y, slow)
    pull = jax.jit(lambda x, g: jax.vjp(lambda x: max_pool(x, **options), x)[1](g)[0])
    np.testing.assert_array_equal(pull(x, jnp.asarray(g, jnp.float32)), gradient[:, *inside])


@pytest.mark.parametrize("place", range(9))
def test_nan_wins_in_overlapping_windows(place: int) -> None:
    x = jnp.arange(9.0).at[place].set(jnp.nan).reshape(1, 3, 3, 1)
    assert np.isnan(max_pool(x, 3, 2, 1)).sum() == np.isnan(
        lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)])).sum() > 0


@pytest.mark.parametrize("platform", ["tpu", "cuda", "rocm"])
def test_other_platforms_have_xlas_windows(platform: str) -> None:
    gradient, x = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())), jnp.ones((1, 8, 8, 2))
    text, cpu = (jax.export.export(gradient, platforms=[name])(x).mlir_module() for name in (platform, "cpu"))
    assert text.count('"stablehlo.select_and_scatter"(') == 1 and "select_and_scatter" not in cpu


@pytest.mark.parametrize("options", [dict(padding=1), dict(ceil_mode=True), {}])
def test_windows_that_do_not_tile_the_map_are_as_before(options: dict) -> None:
    """Five pixels in windows of two: one is left over, hangs over the edge, or is padded to six."""
    x = of_three_values((1, 5, 5, 2))
    padded = np.pad(x, ((0, 0), *((options.get("padding", 0), options.get("padding", 0) + 1),) * 2, (0, 0)),
                    constant_values=-np.inf)
    count = 2 if not options else 3
    slow = np.stack([[padded[0, 2 * i:2 * i + 2, 2 * j:2 * j + 2].max((0, 1)) for j in range(count)]
                     for i in range(count)])
    np.testing.assert_array_equal(max_pool(x, 2, 2, **options)[0], slow)


def test_pixels_that_no_window_sees_get_no_gradient() -> None:
    x = of_three_values((2, 5, 7, 3))
    gradients = [jax.grad(lambda x, pool=pool: (pool(x) ** 2).sum())(x)
                 for pool in (lambda x: max_pool(x, 2, 2), lambda x: by_windows(x, 2))]
    np.testing.assert_array_equal(*gradients)
    assert not gradients[0][:, 4].any() and not gradients[0][:, :, 6].any()


def test_adaptive_means_are_exact_products_on_every_platform() -> None:
    """A TPU's products round float32 to bfloat16 unless they are asked not to."""
    program = str(jax.make_jaxpr(lambda x: adaptive_average_pool(x, 3))(jnp.ones((1, 7, 8, 2))))
    assert program.count("dot_general") == program.count("HIGHEST, Precision.HIGHEST") == 2, program


def test_a_mean_over_the_edge_is_of_the_pixels_that_are_there() -> None:
    x = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1)
    whole, over = jax.jit(lambda x: (average_pool(x, 2, 2), average_pool(x, 2, 2, ceil_mode=True)))(x)
    np.testing.assert_array_equal(whole[0, :, :, 0], [[3, 5]])
    np.testing.assert_array_equal(over[0, :, :, 0], [[3, 5, 6.5], [10.5, 12.5, 14]])


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 2, 7, 2), (1, 1, 2, 1)])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_blur_reflects_the_edges(shape: tuple[int, ...], strides: int) -> None:
    x, (height, width) = np.random.default_rng(0).standard_normal(shape), shape[1:3]
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = sum(weights[i, j] * padded[:, i:i + height:strides, j:j + width:strides]
                   for i in range(3) for j in range(3))
    found = jax.jit(partial(blur_pool, strides=strides))(x.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)
