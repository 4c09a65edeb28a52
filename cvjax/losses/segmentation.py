"""The pixelwise loss of label maps, and class weights that make up for rare classes."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

IGNORE = 255  # the label of pixels that do not count


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array,
                        class_weights: jax.Array | Sequence[float] | None = None) -> tuple[jax.Array, jax.Array]:
    """Two sums over the pixels that count, `(B,)` each: cross-entropy in nats times class weight, and class weight.

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
    # `where`, not a product: the logits of a pixel that does not count may be nan.
    return (jnp.where(counted, losses, 0.0) * weights).sum(axis=(1, 2)), weights.sum(axis=(1, 2))


def weighted_mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    """`total / weight`, and 0 where no pixel counts. (torch gives nan there, which would end a training run.)"""
    return total / jnp.where(weight > 0, weight, 1.0)


def median_frequency_weights(label_maps: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """Class weights float32 `(K,)`: the median frequency of the classes divided by each class's own frequency.

    A class's frequency is its share of the pixels that count in the images that it is in. A class that does not
    occur gets 0 and is left out of the median. Source: Eigen and Fergus 2015
    (https://arxiv.org/abs/1411.4734), which SegNet took up for CamVid.

    label_maps: int `(H, W)` each, of labels in [0, K) and 255. ValueError for other labels, and if no pixel counts.
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
