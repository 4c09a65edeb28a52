"""Answers averaged over several views of each test image: mirrored, and moved by a pixel."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Views = Literal["one", "mirror", "mirror_shift"]


def averaged(answer: Callable[[jax.Array], jax.Array], images: jax.Array, views: Views) -> jax.Array:
    """Mean answers `(B, K)` of images `(B, H, W, C)` over their views, all in one batch.

    "one": the image alone. "mirror": it and its mirror image. "mirror_shift": half of it is that, and a quarter each
    the same of the image moved by a pixel up and left, and down and right; what comes in at a border is reflected.
    Source: the multi-crop evaluation of Jordan 2024 (https://arxiv.org/abs/2404.00498).
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
    answers = answer(stacked.reshape(-1, *images.shape[1:]))  # an image's views one after the other: on one device
    shares = jnp.repeat(jnp.array(weights) / 2, 2)
    return (answers.reshape(len(images), len(shares), -1) * shares[:, None]).sum(axis=1)
