"""Attention rollout: how much of each patch reaches the output of a vision transformer.

Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", sec. 3 (https://arxiv.org/abs/2005.00928).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.attention import SelfAttention
from cvjax.ops.patches import patch_grid


def attention_weights(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> list[jax.Array]:
    """Attention of every layer, first layer first: float32 `(B, heads, T, T)`; entry [b, h, i, j] is how much token i
    takes from token j, and sums to 1 over j. Where a layer attends within windows, they count as examples.

    images: float `(B, H, W, C)`, already normalised. The same arithmetic as the layers' own, which do not keep it.
    Raises ValueError for a model without `SelfAttention`.
    """
    paths: list[tuple[str, ...]] = []

    def noting(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, SelfAttention) and context.method_name == "__call__":
            paths.append(context.module.path)
        return call(*arguments, **options)

    with nn.intercept_methods(noting):
        _, state = model.apply(variables, images, train=False, mutable=["intermediates"])
    weights = []
    for path in dict.fromkeys(paths):
        layer = state["intermediates"]
        for name in path:
            layer = layer[name]
        for q, k, bias in zip(layer["queries"], layer["keys"], layer["score_bias"]):  # one of each per call
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) / jnp.sqrt(q.shape[-1])
            weights.append(jax.nn.softmax(scores + bias))
    if not weights:
        raise ValueError(f"{type(model).__name__} has no self-attention (the layer SelfAttention)")
    return weights


def attention_rollout(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Share of each patch in what a ViT pools: float32 `(B, gh, gw)`, 0 or more.

    Heads are averaged, half of each layer's attention is replaced by the identity for the residual connection, and the
    layers' matrices are multiplied. With `pool="token"` it is the class token's row, with `pool="avg"` the mean row of
    the patch tokens; the sum over patches is at most 1, what lacks is the class token's own share.

    model: a ViT: attention over `prefix` tokens and then the patches in row-major order, with fields `patch_size` and
    `pool`. images: float `(B, H, W, C)`, already normalised.
    """
    if not (hasattr(model, "pool") and hasattr(model, "prefix")):
        raise ValueError(f"attention rollout needs a ViT, received a {type(model).__name__}")
    rows, columns = patch_grid(*images.shape[1:3], model.patch_size)
    layers, length = attention_weights(model, variables, images), model.prefix + rows * columns
    if any(weights.shape[-1] != length for weights in layers):
        raise ValueError(f"attention rollout needs {model.prefix} + {rows}x{columns} tokens in each layer, "
                         f"received layers of {sorted({weights.shape[-1] for weights in layers})} tokens")
    flow = identity = jnp.eye(length)
    for weights in layers:
        attention = 0.5 * weights.mean(axis=1) + 0.5 * identity
        flow = jnp.matmul(attention, flow, precision=jax.lax.Precision.HIGHEST)
    pooled = flow[:, 0] if model.pool == "token" else flow[:, model.prefix:].mean(axis=1)
    return pooled[:, model.prefix:].reshape(-1, rows, columns)
