"""Attention rollout: how much of each patch reaches the output of a vision transformer.

Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", sec. 3 (https://arxiv.org/abs/2005.00928).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.ops.patches import patch_grid


@runtime_checkable
class PatchTransformer(Protocol):
    """A vision transformer whose tokens are `prefix` others, then the patches in row-major order."""

    patch_size: int
    prefix: int
    pool: str  # the output is "token": the first token; "avg": the patches' mean; or both; "map": an attention pool's


def attention_weights(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> list[jax.Array]:
    """The attention weights of every layer, first layer first: float32 `(B, heads, T, T)` each.

    Entry [b, h, i, j] is the attention of token i to token j; its sum over j is 1. If a layer attends within windows,
    windows count as examples. An attention pool counts as a layer `(B, heads, 1, L)` of its one query. The arithmetic
    is that of the layers, which do not keep their weights.

    images: normalised float `(B, H, W, C)`. Raises ValueError for a model without `SelfAttention`.
    """
    _, state = model.apply(variables, images, train=False, mutable=["intermediates"])
    weights = []
    for layer in _attention_layers(dict(state).get("intermediates", {})):
        for q, k, bias in zip(layer["queries"], layer["keys"], layer["score_bias"]):  # one of each per call
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) / jnp.sqrt(q.shape[-1])
            weights.append(jax.nn.softmax(scores + bias))
    if not weights:
        raise ValueError(f"{type(model).__name__} has no self-attention (the layer SelfAttention)")
    return weights


def _attention_layers(intermediates: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What each `SelfAttention` or `AttentionPool` sowed. Flax keeps layers in the order in which they first sow."""
    if "score_bias" in intermediates:
        yield intermediates
    for part in intermediates.values():
        if isinstance(part, Mapping):
            yield from _attention_layers(part)


def attention_rollout(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Share of each patch in the pooled output of a ViT: float32 `(B, gh, gw)`, 0 or more.

    Heads are averaged, half of each layer's attention is replaced by the identity (the residual connection), and the
    layers' matrices are multiplied. The result is the class token's row with `pool="token"`, the mean row of the patch
    tokens with `pool="avg"`, half of each with "token+avg", and their mean by the pool's weights with `pool="map"`. The
    sum over patches is at most 1; the rest is the share of the class token and of registers.

    model: a `PatchTransformer`. images: normalised float `(B, H, W, C)`.
    """
    if not isinstance(model, PatchTransformer):
        raise ValueError(f"attention rollout needs a ViT, received a {type(model).__name__}")
    rows, columns = patch_grid(images.shape[1], images.shape[2], model.patch_size)
    layers, length = attention_weights(model, variables, images), model.prefix + rows * columns
    pool = layers.pop().mean(axis=1) if model.pool == "map" else None  # (B, 1, L)
    if any(weights.shape[-1] != length for weights in layers):
        raise ValueError(f"attention rollout needs {model.prefix} + {rows}x{columns} tokens in each layer, "
                         f"received layers of {sorted({weights.shape[-1] for weights in layers})} tokens")
    flow = identity = jnp.eye(length)
    for weights in layers:
        attention = 0.5 * weights.mean(axis=1) + 0.5 * identity
        flow = jnp.matmul(attention, flow, precision=jax.lax.Precision.HIGHEST)
    patches = flow[:, model.prefix:]
    if pool is not None:
        pooled = jnp.matmul(pool, patches, precision=jax.lax.Precision.HIGHEST)[:, 0]
    else:
        token, mean = flow[:, 0], patches.mean(axis=1)
        pooled = {"token": token, "avg": mean, "token+avg": (token + mean) / 2}[model.pool]
    return pooled[:, model.prefix:].reshape(-1, rows, columns)
