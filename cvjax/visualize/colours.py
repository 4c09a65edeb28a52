"""Colours that distinguish the classes of one picture."""

import math

import numpy as np
from matplotlib.colors import hsv_to_rgb


def class_colours(count: int) -> np.ndarray:
    """Different colours, float32 `(count, 3)` in [0, 1].

    Hues are evenly spaced in two tones, and classes with adjacent numbers have hues that are far apart.
    """
    stride = next(step for step in range(max(1, round(0.382 * count)), count + 2) if math.gcd(step, count) == 1)
    number = np.arange(count)
    hues = (0.6 + number * stride % count / max(count, 1)) % 1  # starts with blue
    odd = (number * stride % count) % 2 == 1  # adjacent hues differ in brightness
    return hsv_to_rgb(np.stack([hues, np.where(odd, 0.75, 1.0), np.where(odd, 1.0, 0.7)], axis=1)).astype(np.float32)
