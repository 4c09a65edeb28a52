"""Classification losses and counts."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float = 0.0) -> jax.Array:
    """Targets float32 `(B, K)` of int labels `(B,)`: `1 - smoothing` on the class, the rest spread evenly over all K.

    The targets of a label outside [0, K) are nan, so that its loss cannot be overlooked.
    Source: Szegedy et al. 2016, sec. 7 (https://arxiv.org/abs/1512.00567).
    """
    targets = jax.nn.one_hot(labels, num_classes) * (1.0 - smoothing) + smoothing / num_classes
    return jnp.where(_is_class(labels, num_classes)[..., None], targets, jnp.nan)


def _is_class(labels: jax.Array, num_classes: int) -> jax.Array:
    return (labels >= 0) & (labels < num_classes)


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of logits `(B, K)` with target distributions `(B, K)`, in nats: float32 `(B,)`."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(axis=-1)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array, *, threshold: float | None = None) -> jax.Array:
    """One yes-or-no question per class: logits `(B, K)`, targets in [0, 1] `(B, K)` -> float32 `(B,)`, in nats.

    The mean over the classes, so that the mean over a batch is the mean of all entries, as in torch and timm; the sum
    is K times it. Source: Wightman et al. 2021, recipes A1 to A3 (https://arxiv.org/abs/2110.00476).

    threshold: targets above it count as 1 and the others as 0, so every class that mixup or cutmix left in the picture
    counts in full. It must be above the target that label smoothing gives to absent classes.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    if threshold is not None:
        targets = (targets > threshold).astype(jnp.float32)
    # Both logarithms are exact in the tails; log(sigmoid) would be -inf and log(1 - sigmoid) would lose all digits.
    return -(targets * jax.nn.log_sigmoid(logits) + (1.0 - targets) * jax.nn.log_sigmoid(-logits)).mean(axis=-1)


def top_k_correct(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> jax.Array:
    """1.0 where the label is among the k largest logits, else 0.0: `(B, K)`, `(B,)` -> float32 `(B,)`.

    Among equal logits the first counts as larger. A row that has a nan, or a label outside [0, K), counts as wrong.
    Counting, unlike sorting, keeps each row on its device.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    before = (logits == own) & (jnp.arange(logits.shape[-1]) < labels[:, None])
    rank = ((logits > own) | before).sum(axis=-1)
    valid = _is_class(labels, logits.shape[-1]) & ~jnp.isnan(logits).any(axis=-1)
    return ((rank < k) & valid).astype(jnp.float32)
