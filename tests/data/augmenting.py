"""Shared by tests of augmentations: a real photograph, and compilation that does not outlast the test."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

# Keys are fixed, so a test of a random law passes always or never. Its bound is one that the right law misses for one
# set of keys in a thousand.
LIKELY = 1e-3


@functools.cache
def photo(height: int = 60, width: int = 80) -> np.ndarray:
    """A temple under a pale sky, uint8 `(height, width, 3)`, which scikit-learn brings along; not to be written to."""
    pixels = np.array(Image.fromarray(load_sample_image("china.jpg")).resize((width, height)))
    pixels.setflags(write=False)
    return pixels


def quick(function: Callable, **options) -> Callable:
    """`jax.jit` that compiles in a third of the time, to slower code."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)
