"""What a student loses against the answers of its teacher: soft labels (Hinton et al. 2015), a hard one, features."""

from typing import Literal

import jax
import jax.numpy as jnp

from cvjax.losses.classification import softmax_cross_entropy
from cvjax.losses.simsiam import negative_cosine

Distance = Literal["cosine", "mse"]
EPSILON = 1e-6  # added to variances


def soft_label_loss(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """T^2 times the divergence KL(teacher || student) of softmaxes at temperature T: logits `(B, K)` -> float32 `(B,)`.

    It differs from the cross-entropy of Hinton et al. 2015, sec. 2 (https://arxiv.org/abs/1503.02531), by the teacher's
    entropy, a constant, so that it is 0 for a student that agrees. T^2 keeps its gradient of one size (sec. 2.1): for
    large T it is that of half the squared difference of centred logits over K, whatever T.
    """
    taught = teacher_logits.astype(jnp.float32) / temperature
    log_taught = jax.nn.log_softmax(taught)
    log_learnt = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(log_taught) * (log_taught - log_learnt)).sum(axis=-1)


def hard_label_loss(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Cross-entropy with the teacher's likeliest class: logits `(B, K)` -> float32 `(B,)`, in nats.

    Source: hard-label distillation, Touvron et al. 2021, eq. 3 (https://arxiv.org/abs/2012.12877).
    """
    likeliest = jax.nn.one_hot(teacher_logits.argmax(axis=-1), teacher_logits.shape[-1])
    return softmax_cross_entropy(logits, likeliest)


def feature_distance(features: jax.Array, teacher_features: jax.Array, distance: Distance) -> jax.Array:
    """The distance of features `(B, D)` to the teacher's: float32 `(B,)`, 0 where they agree.

    cosine: 1 minus the cosine of the angle, from 0 to 2. mse: the mean squared difference to the teacher's features
    after these are brought to mean 0 and deviation 1, each image by itself, because some teachers have a few channels
    that would outweigh all others (whitened targets, Wei et al. 2022, sec. 3, https://arxiv.org/abs/2205.14141).
    """
    features, targets = features.astype(jnp.float32), teacher_features.astype(jnp.float32)
    if distance == "cosine":
        return 1 + negative_cosine(features, targets)
    targets = (targets - targets.mean(axis=-1, keepdims=True)) / jnp.sqrt(
        targets.var(axis=-1, keepdims=True) + EPSILON)
    return jnp.square(features - targets).mean(axis=-1)
