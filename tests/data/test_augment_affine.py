"""Affine warps against Pillow's, and against a slow loop."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cvjax.data import augment
from tests.data.augmenting import photo, quick

HEIGHT, WIDTH = 60, 80
PICTURES = [photo(HEIGHT, WIDTH), np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)]
FILL = (10, 20, 30)
MATRICES = {
    "identity": augment.shear(0.0, 0.0),
    "shear_x": augment.shear(0.27, 0.0),
    "shear_y": augment.shear(0.0, -0.9),
    "both shears": augment.shear(-0.31, 0.23),
    "whole shift": augment.translation(7.0, -5.0),
    "fraction of a shift": augment.translation(-7.3, 5.8),
    "out of sight": augment.translation(200.0, 0.0),
    "turn": augment.rotation(27.0, HEIGHT, WIDTH),
    "turn back": augment.rotation(-133.0, HEIGHT, WIDTH),
}
WARP = quick(augment.affine, static_argnums=(2, 3))


def by_pillow(picture, matrix, resampling):
    numbers = tuple(map(float, matrix))
    return np.asarray(Image.fromarray(picture).transform((WIDTH, HEIGHT), Image.Transform.AFFINE, numbers, resampling,
                                                         fillcolor=FILL))


def between_pixels(matrix):
    """Whether each pixel's source is within a hundredth of where one pixel gives way to the next."""
    a, b, c, d, e, f = map(float, matrix)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    near = lambda source: np.abs(source - np.round(source)) < 0.01  # noqa: E731
    return near(a * x + b * y + c) | near(d * x + e * y + f)


@pytest.mark.parametrize("name", MATRICES)
def test_nearest_is_that_of_pillow(name):
    for picture in PICTURES:
        ours = WARP(jnp.asarray(picture), MATRICES[name], "nearest", FILL)
        differs = (np.asarray(ours) != by_pillow(picture, MATRICES[name], Image.Resampling.NEAREST)).any(-1)
        # If two pixels are equally near, Pillow's 16-bit fixed point may choose another one than floating point.
        assert ours.dtype == jnp.uint8 and not (differs & ~between_pixels(MATRICES[name])).any()
        assert differs.mean() < 0.01


@pytest.mark.parametrize("name", MATRICES)
def test_bilinear_is_that_of_pillow(name):
    for picture in PICTURES:
        ours = WARP(jnp.asarray(picture), MATRICES[name], "bilinear", FILL)
        apart = np.abs(np.asarray(ours, int) - by_pillow(picture, MATRICES[name], Image.Resampling.BILINEAR))
        # Both cut fractions off, after a sum in 32 bits here and in 64 there.
        assert ours.dtype == jnp.uint8 and apart.max() <= 1 and (apart > 0).mean() < 0.03


@pytest.mark.parametrize("degrees", [0.0, 17.0, -30.0, 135.0])
def test_rotation_is_that_of_pillow(degrees):
    matrix = augment.rotation(degrees, HEIGHT, WIDTH)
    ours = np.asarray(WARP(jnp.asarray(PICTURES[0]), matrix, "nearest", 0))
    theirs = np.asarray(Image.fromarray(PICTURES[0]).rotate(degrees, Image.Resampling.NEAREST))
    assert ((ours == theirs).all(-1) | between_pixels(matrix)).all() and (ours == theirs).mean() > 0.99


def test_floats_are_interpolated_as_a_slow_loop_does():
    image = np.random.default_rng(1).normal(size=(7, 9, 2)).astype(np.float32)
    matrix = (0.9, -0.4, 1.7, 0.35, 1.1, -1.2)
    expected = np.full((7, 9, 2), 50.0)
    for row in range(7):
        for column in range(9):
            x = matrix[0] * (column + 0.5) + matrix[1] * (row + 0.5) + matrix[2]
            y = matrix[3] * (column + 0.5) + matrix[4] * (row + 0.5) + matrix[5]
            if 0 <= x < 9 and 0 <= y < 7:
                total = np.zeros(2)
                for j in (math.floor(y - 0.5), math.floor(y - 0.5) + 1):
                    for i in (math.floor(x - 0.5), math.floor(x - 0.5) + 1):
                        weight = (1 - abs(x - 0.5 - i)) * (1 - abs(y - 0.5 - j))
                        total += weight * image[min(max(j, 0), 6), min(max(i, 0), 8)]
                expected[row, column] = total
    assert 10 < (expected == 50).sum() < 100
    # Values below 0 do not occur in images, and are clipped.
    ours = WARP(jnp.asarray(image), matrix, "bilinear", 50.0)
    np.testing.assert_allclose(ours, np.clip(expected, 0, 255), atol=1e-5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_one_level_stays_that_level(interpolation):
    flat = jnp.full((HEIGHT, WIDTH, 1), 93, jnp.uint8)
    assert (np.asarray(WARP(flat, MATRICES["turn"], interpolation, 93)) == 93).all()


def test_matrices_move_a_dot_where_their_descriptions_say():
    dot = jnp.zeros((21, 31, 1)).at[4, 25].set(1)
    place = lambda matrix: tuple(map(int, np.argwhere(np.asarray(WARP(dot, matrix)))[0][:2]))  # noqa: E731
    assert place(augment.translation(3, 5)) == (9, 28)
    assert place(augment.shear(0.5, 0.0)) == (4, 23)
    assert place(augment.shear(0.0, 0.125)) == (1, 25)
    # A quarter turn to the left around (15.5, 10.5): 10 to the right and 6 up become 6 to the left and 10 up.
    assert place(augment.rotation(90.0, 21, 31)) == (0, 9)


def test_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="interpolation must be 'nearest' or 'bilinear', got 'bicubic'"):
        augment.affine(jnp.zeros((3, 3, 1)), augment.shear(0.0, 0.0), "bicubic")
