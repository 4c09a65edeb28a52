"""Optimizers by name, with the decay mask and layer-wise learning rates of transformer recipes."""

from collections.abc import Callable
from typing import Any

import jax
import optax

TOKENS_AND_POSITIONS = ("cls_token", "mask_token", "pos_embed")


def leaf_names(tree: Any) -> Any:
    """The tree with each leaf replaced by its path, such as `blocks/0/attn/qkv/kernel`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), tree)


def decay_mask(params: Any) -> Any:
    """True on the leaves that weight decay shrinks: matrices and kernels, not norms, biases, positions or tokens."""
    return jax.tree.map(lambda name, x: x.ndim > 1 and name.split("/")[-1] not in TOKENS_AND_POSITIONS,
                        leaf_names(params), params)


def scale_by_layer(scale: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiply each leaf's update by `scale(path)`, for example layer-wise learning-rate decay."""
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda name, u: u * scale(name), leaf_names(updates), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def vit_layer_decay(rate: float, depth: int) -> Callable[[str], float]:
    """Layer-wise learning-rate decay of a ViT (Clark et al. 2020; Bao et al. 2022, https://arxiv.org/abs/2106.08254).

    The head and the last norm keep the full rate, block `i` of `depth` gets `rate ** (depth - i)`, and the patch
    embedding, tokens and positions `rate ** (depth + 1)`.
    """
    def scale(name: str) -> float:
        parts = name.split("/")
        if parts[0] == "blocks":
            return rate ** (depth - int(parts[1]))
        return rate ** (depth + 1) if parts[0] in ("patch_embed", *TOKENS_AND_POSITIONS) else 1.0

    return scale


OPTIMIZERS = ("adamw", "sgd")


def make_optimizer(name: str, schedule: optax.Schedule, *, weight_decay: float = 0.0, b2: float = 0.999,
                   clip_norm: float | None = None,
                   layer_scale: Callable[[str], float] | None = None) -> optax.GradientTransformation:
    """An optax optimizer.

    name: "adamw" (betas 0.9 and `b2`) or "sgd" (Nesterov momentum 0.9, decay added to the gradient).
    clip_norm: limit on the global gradient norm, None for none. layer_scale: see `scale_by_layer`.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: it must be one of {', '.join(OPTIMIZERS)}")
    decay = optax.add_decayed_weights(weight_decay, mask=decay_mask)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    parts += {"adamw": [optax.scale_by_adam(b2=b2), decay],
              "sgd": [decay, optax.trace(decay=0.9, nesterov=True)]}[name]
    parts += [scale_by_layer(layer_scale)] if layer_scale else []
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))
