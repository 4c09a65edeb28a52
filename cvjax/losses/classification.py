"""Classification losses and counts."""

import jax
import jax.numpy as jnp


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float = 0.0) -> jax.Array:
    """Targets float32 `(B, K)` of int labels `(B,)`: `1 - smoothing` on the class, the rest spread evenly over all K.

    Source: Szegedy et al. 2016, sec. 7 (https://arxiv.org/abs/1512.00567).
    """
    return jax.nn.one_hot(labels, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of logits `(B, K)` with target distributions `(B, K)`, in nats: float32 `(B,)`."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(axis=-1)


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """1.0 where the label is among the k largest logits, else 0.0: `(B, K)`, `(B,)` -> float32 `(B,)`.

    Of equal logits the first counts as the larger; a row with nan is wrong. Counting instead of sorting keeps each row
    on its device.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    before = (logits == own) & (jnp.arange(logits.shape[-1]) < labels[:, None])
    rank = ((logits > own) | before).sum(axis=-1)
    return ((rank < k) & ~jnp.isnan(logits).any(axis=-1)).astype(jnp.float32)
