"""The loss of label maps, pixel by pixel, and weights of classes that are rare in them."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

IGNORE = 255  # the label of pixels that do not count


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array,
                        class_weights: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the pixels that count, in nats, times their classes' weights; and these weights: sums `(B,)`.

    The first sum over a batch divided by the second is torch's `CrossEntropyLoss(weight, ignore_index=255)`.

    Args:
        logits: float `(B, H, W, K)`.
        labels: int `(B, H, W)` in [0, K), or 255.
        class_weights: float `(K,)`, 0 or more; None for 1.
    """
    logits, counted = logits.astype(jnp.float32), labels != IGNORE
    known = jnp.where(counted, labels, 0)
    own = jnp.take_along_axis(logits, known[..., None], axis=-1)[..., 0]
    weights = counted.astype(jnp.float32)
    if class_weights is not None:
        weights = weights * jnp.asarray(class_weights, jnp.float32)[known]
    losses = jax.nn.logsumexp(logits, axis=-1) - own
    # Chosen, not multiplied: where a pixel does not count its logits may be anything.
    return (jnp.where(counted, losses, 0.0) * weights).sum(axis=(1, 2)), weights.sum(axis=(1, 2))


def weighted_mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    """`total / weight`, and 0 where no pixel counts: torch gives nan there, which would end a training."""
    return total / jnp.where(weight > 0, weight, 1.0)


def median_frequency_weights(label_maps: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """Weights float32 `(K,)`: the median of the classes' frequencies by each class's own.

    A class's frequency is its share of the pixels that count in the images that it is in. A class that is nowhere gets
    0 and is left out of the median. Source: Eigen and Fergus 2015 (https://arxiv.org/abs/1411.4734), taken up by SegNet
    for CamVid.

    label_maps: int `(H, W)` each, of labels in [0, K) and 255. ValueError for others, and where no pixel counts.
    """
    pixels, present = np.zeros(num_classes), np.zeros(num_classes)
    for labels in label_maps:
        counts = np.bincount(labels[labels != IGNORE], minlength=num_classes)
        if len(counts) > num_classes:
            raise ValueError(f"a label map has label {len(counts) - 1}: labels must be in [0, {num_classes}), or "
                             f"{IGNORE}")
        pixels += counts
        present += np.where(counts > 0, counts.sum(), 0)
    if not pixels.any():
        raise ValueError("the label maps have no pixel that counts")
    there = pixels > 0
    frequency = pixels[there] / present[there]
    weights = np.zeros(num_classes, np.float32)
    weights[there] = np.median(frequency) / frequency
    return weights
