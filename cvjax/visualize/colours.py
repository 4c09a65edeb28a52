"""Colours by which the classes of one picture are told apart."""

import math

import numpy as np


def class_colours(count: int) -> np.ndarray:
    """Colours float32 `(count, 3)` in [0, 1]: hues evenly spaced, neighbours in number far apart, in two tones."""
    from matplotlib.colors import hsv_to_rgb

    stride = next(step for step in range(max(1, round(0.382 * count)), count + 2) if math.gcd(step, count) == 1)
    number = np.arange(count)
    hues = (0.6 + number * stride % count / max(count, 1)) % 1  # starts with blue
    odd = (number * stride % count) % 2 == 1  # hues side by side differ in brightness
    return hsv_to_rgb(np.stack([hues, np.where(odd, 0.75, 1.0), np.where(odd, 1.0, 0.7)], axis=1)).astype(np.float32)
