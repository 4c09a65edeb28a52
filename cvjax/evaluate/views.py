"""Predictions averaged over several views of each test image: mirrored, and moved by a pixel."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Views = Literal["one", "mirror", "mirror_shift"]


def averaged(answer: Callable[[jax.Array], jax.Array], images: jax.Array, views: Views) -> jax.Array:
    """Predictions `(B, K)` for images `(B, H, W, C)`, averaged over their views, which pass in one batch.

    "one": only the image. "mirror": the image and its mirror image. "mirror_shift": both, with a weight of one half,
    and the same of the image moved by one pixel up and left, and down and right, with a weight of one quarter each.
    Pixels that enter at a border are reflected. Source: Jordan 2024 (https://arxiv.org/abs/2404.00498).
    """
    if views == "one":
        return answer(images)
    seen, weights = [images], [1.0]
    if views == "mirror_shift":
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        seen += [padded[:, 2:2 + height, 2:2 + width], padded[:, :height, :width]]
        weights = [0.5, 0.25, 0.25]
    stacked = jnp.stack([side for view in seen for side in (view, view[:, :, ::-1])], axis=1)
    answers = answer(stacked.reshape(-1, *images.shape[1:]))  # adjacent views stay on one device
    shares = jnp.repeat(jnp.array(weights) / 2, 2)
    return (answers.reshape(images.shape[0], len(shares), -1) * shares[:, None]).sum(axis=1)
