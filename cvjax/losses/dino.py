"""DINO's loss, and measures of its teacher's answers (Caron et al. 2021, https://arxiv.org/abs/2104.14294).

The teacher's answers to the global views are centred and sharpened; the student has to give the same answers to every
other view of the image (eq. 1 to 4, algorithm 1).
"""

import jax
import jax.numpy as jnp


def teacher_answers(logits: jax.Array, center: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """The teacher's probabilities `softmax((logits - center) / temperature)`, float32, of logits `(..., K)`."""
    return jax.nn.softmax((logits.astype(jnp.float32) - center) / temperature)


def dino_loss(student_logits: jax.Array, answers: jax.Array, temperature: float = 0.1) -> jax.Array:
    """Cross-entropy of the student on each view against the teacher on each *other* global view: float32 `(B,)`.

    student_logits: `(B, V, K)`, the global views first. answers: the teacher's probabilities `(B, G, K)` for these G
    global views, V > 1. Each example's loss is the mean over its G (V - 1) pairs.
    """
    views, globals_ = student_logits.shape[1], answers.shape[1]
    log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature)
    pairs = -jnp.einsum("bgk,bvk->bgv", answers, log_p, precision=jax.lax.Precision.HIGHEST)
    other = jnp.arange(globals_)[:, None] != jnp.arange(views)
    return jnp.where(other, pairs, 0.0).sum((1, 2)) / (globals_ * (views - 1))


def update_center(center: jax.Array, batch_center: jax.Array, momentum: float = 0.9) -> jax.Array:
    """The running mean of the teacher's logits `(K,)` (eq. 4); `batch_center`: their mean over views and batch."""
    return center * momentum + batch_center * (1 - momentum)


def entropy(probabilities: jax.Array) -> jax.Array:
    """Entropy in nats over the last axis; 0 ln 0 = 0."""
    return -jax.scipy.special.xlogy(probabilities, probabilities).sum(axis=-1)
