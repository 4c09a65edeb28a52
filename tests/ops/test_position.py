"""Resizing of learned positions, against sums over sixteen neighbours that are written out; and rotary positions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops.position import PositionResize, resize_positions, rotary_angles, rotate

FIELD = np.random.default_rng(0).standard_normal((4, 4, 2)).astype(np.float32)


def keys(distance: float) -> float:
    """The cubic kernel with a = -3/4, by its values in the two intervals."""
    x = abs(distance)
    if x < 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0.0


def source(place: int, size: int, trained: int, how: str) -> float:
    """Where a new place lies among the trained ones, as each publisher's call of `interpolate` puts it."""
    if how == "torchvision":  # align_corners=True
        return place * (trained - 1) / (size - 1)
    factor = (size + 0.1) / trained if how == "dino" else size / trained
    return (place + 0.5) / factor - 0.5


def written_out(grid: tuple[int, int], how: str) -> np.ndarray:
    out = np.zeros((*grid, 2))
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = source(row, grid[0], 4, how), source(column, grid[1], 4, how)
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    seen = FIELD[min(max(i, 0), 3), min(max(j, 0), 3)]
                    out[row, column] += keys(y - i) * keys(x - j) * seen
    return out.reshape(-1, 2)


@pytest.mark.parametrize("grid", [(2, 2), (6, 5), (4, 7)])
@pytest.mark.parametrize("how", ["deit", "dino", "torchvision"])
def test_bicubic_is_the_sum_over_sixteen_neighbours(grid: tuple[int, int], how: PositionResize) -> None:
    """Sixteen float32 products of numbers up to 3, of weights up to 1.3: rounding stays below 1e-6 * 3."""
    found = resize_positions(jnp.asarray(FIELD.reshape(16, 2)), (4, 4), grid, how)
    np.testing.assert_allclose(found, written_out(grid, how), rtol=0, atol=3e-6)


@pytest.mark.parametrize("how", ["timm", "deit", "dino", "torchvision"])
def test_the_trained_grid_is_left_as_it_is(how: PositionResize) -> None:
    positions = jnp.asarray(FIELD.reshape(16, 2))
    assert resize_positions(positions, (4, 4), (4, 4), how) is positions


def test_the_four_ways_differ() -> None:
    """Each is a way of its own: no two agree to a thousandth."""
    found = [np.asarray(resize_positions(jnp.asarray(FIELD.reshape(16, 2)), (4, 4), (6, 6), how))
             for how in ("timm", "deit", "dino", "torchvision")]
    assert min(np.abs(a - b).max() for i, a in enumerate(found) for b in found[:i]) > 1e-3


def test_rotary_angles_are_those_of_the_patches_centres() -> None:
    angles = rotary_angles(8, (2, 3)).reshape(2, 3, 2, 2)  # (rows, columns, row or column, periods 1 and 10)
    places = [[(row, column) for column in (-2 / 3, 0, 2 / 3)] for row in (-1 / 2, 1 / 2)]
    expected = 2 * math.pi * np.array(places)[..., None] / [1, 10]
    np.testing.assert_allclose(angles, expected, atol=1e-6)  # 2**-24 of 2 pi
    assert angles.dtype == np.float32
    with pytest.raises(ValueError, match="a width of each head that is a multiple of 4, got 6"):
        rotary_angles(6, (2, 3))


def test_rotated_queries_and_keys_meet_by_the_difference_of_their_angles() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 5, 1, 8)).astype(np.float32)  # (B, T, heads, D)
    a, b = rng.uniform(-6, 6, (2, 1, 5, 4)).astype(np.float32)

    def scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((rotate(jnp.asarray(q), jnp.asarray(a)) * rotate(jnp.asarray(k), jnp.asarray(b))).sum(-1))

    # Eight products of numbers up to 3, whose sines are off by 12 * 2**-24.
    np.testing.assert_allclose(scores(a + 1, b + 1), scores(a, b), atol=1e-4)
    np.testing.assert_allclose(scores(a, a), scores(0 * a, 0 * a), atol=1e-4)
    assert np.abs(scores(a + 1, b) - scores(a, b)).max() > 0.1
    np.testing.assert_array_equal(rotate(jnp.asarray(q), jnp.zeros((1, 5, 4))), q)  # an angle of 0 changes no bit


def test_rotation_is_computed_in_float32() -> None:
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 2, 8)), jnp.bfloat16)
    angles = jnp.asarray(rotary_angles(8, (2, 3)))[None]
    np.testing.assert_array_equal(rotate(q, angles), rotate(q.astype(jnp.float32), angles).astype(jnp.bfloat16))
