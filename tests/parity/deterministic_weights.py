"""Weights from nothing but names and shapes: the same numbers on every machine, with or without torch."""

import hashlib
import math
from collections.abc import Mapping

import numpy as np


def fill(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Parameter name -> float32 array, sized so that every part of a network matters to its output.

    Matrices have standard deviation 1 / sqrt(fan in), tokens and positions 0.2; scales are around 1, biases
    not zero, running variances positive. The names and layouts are torch's.
    """
    return {name: _values(name, shape) for name, shape in shapes.items()}


def fill_role(shapes: Mapping[str, tuple[int, ...]], role: str) -> dict[str, np.ndarray]:
    """Other parameters of these shapes for each role that a network has, such as "teacher"."""
    filled = fill({f"{role}.{name}": shape for name, shape in shapes.items()})
    return {name: filled[f"{role}.{name}"] for name in shapes}


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = random(f"{name}{tuple(shape)}").standard_normal(shape)
    if name.endswith("running_var"):
        values = np.exp(0.3 * normal)
    elif len(shape) == 1:
        around = 0.0 if name.endswith(("bias", "running_mean")) else 1.0
        values = around + 0.1 * normal
    elif shape[0] == 1:  # tokens and positions (1, T, D)
        values = 0.2 * normal
    else:
        values = normal / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float32)


def random(name: str) -> np.random.Generator:
    """A generator of its own for each name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(seed))


def sketch(name: str, array: np.ndarray, buckets: int = 256) -> np.ndarray:
    """An array as it is, or, where it is long, sums of its numbers with random signs over random buckets.

    Any difference between two arrays shows in their sketches, whose size a file can bear.
    """
    if array.size <= 8 * buckets:
        return array
    drawn = random(f"{name} sketch")
    signed = array.ravel().astype(np.float64) * drawn.choice([-1.0, 1.0], array.size)
    return np.bincount(drawn.integers(0, buckets, array.size), signed, buckets).astype(np.float32)
