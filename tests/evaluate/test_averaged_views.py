"""Answers over several views of an image."""

import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate.views import averaged

IMAGES = np.random.default_rng(0).normal(size=(3, 5, 4, 2)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)


def answer(images):
    return jnp.tanh(images.reshape(len(images), -1) @ WEIGHTS)  # not linear: a mean of views is no answer of their mean


def by_hand(images, views):
    """One view at a time, in words."""
    moves = {"one": {(0, 0): 1.0}, "mirror": {(0, 0): 1.0}, "mirror_shift": {(0, 0): 0.5, (1, 1): 0.25, (-1, -1): 0.25}}
    total = np.zeros((len(images), 6))
    rows, columns = np.arange(5), np.arange(4)
    for (down, right), weight in moves[views].items():
        row = np.abs(rows + down)  # what is one beyond the border is the second from it
        column = np.abs(columns + right)
        row, column = np.where(row > 4, 8 - row, row), np.where(column > 3, 6 - column, column)
        moved = images[:, row][:, :, column]
        sides = [moved] if views == "one" else [moved, moved[:, :, ::-1]]
        total += weight * sum(np.asarray(answer(side), np.float64) for side in sides) / len(sides)
    return total


@pytest.mark.parametrize("views", ["one", "mirror", "mirror_shift"])
def test_answers_are_weighted_means_over_the_views(views):
    # Float32 sums of 40 products of order one, and of six answers.
    np.testing.assert_allclose(averaged(answer, IMAGES, views), by_hand(IMAGES, views), atol=1e-5)


def test_mirror_images_get_the_same_answer():
    mirrored = IMAGES[:, :, ::-1]
    assert np.abs(np.asarray(answer(IMAGES)) - np.asarray(answer(mirrored))).max() > 0.1
    np.testing.assert_allclose(averaged(answer, IMAGES, "mirror"), averaged(answer, mirrored, "mirror"), atol=1e-6)
