"""Where the class token of a vision transformer looks: attention maps, masks, and how well these fit objects.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO), fig. 1, 3 and 4
(https://arxiv.org/abs/2104.14294). The authors' code for the figures is `visualize_attention.py`. Issue 54 of
facebookresearch/dino explains how fig. 4 counts.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate.attention_rollout import attention_weights
from cvjax.evaluate.mask_scores import VOID, jaccard, resize_nearest
from cvjax.ops.patches import patch_grid


@runtime_checkable
class ClassTokenTransformer(Protocol):
    """A vision transformer whose tokens are the class token, if it has one, registers, and the patches in row-major
    order."""

    patch_size: int
    class_token: bool  # whether it has one
    prefix: int  # how many tokens stand before the patches


def class_attention(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Attention of the class token to each patch in the last block: float32 `(B, heads, gh, gw)`, 0 or more.

    The sum over the patches of a head is at most 1; the rest is the attention to itself and to registers. Under jit
    only the last block's weights are computed. With `pool="avg"`, nothing uses the class token after the last block.

    model: a `ClassTokenTransformer`, with a class token. images: normalised float `(B, H, W, C)`, whose sides the patch
    size divides.
    """
    if not (isinstance(model, ClassTokenTransformer) and model.class_token):
        raise ValueError(f"class attention needs a ViT with a class token, received a {type(model).__name__}")
    rows, columns = patch_grid(images.shape[1], images.shape[2], model.patch_size)
    last = attention_weights(model, variables, images)[-1]
    if last.shape[-1] != model.prefix + rows * columns:
        raise ValueError(f"class attention needs {model.prefix} + {rows}x{columns} tokens in the last block, "
                         f"received {last.shape[-1]} tokens")
    return last[:, :, 0, model.prefix:].reshape(*last.shape[:2], rows, columns)


def mass_mask(attention: ArrayLike, mass: float = 0.6) -> np.ndarray:
    """The smallest set of patches that holds at least this share of each map's sum: bool `(..., gh, gw)`.

    Among equal patches, those that come first in row-major order are taken first. A map of zeros has an empty mask.
    attention: finite `(..., gh, gw)`, 0 or more. mass: in (0, 1]. Anything else raises ValueError.
    """
    attention = np.asarray(attention, np.float64)  # rounding of a sum over thousands of patches must decide nothing
    if attention.ndim < 2 or not np.isfinite(attention).all() or (attention < 0).any():
        raise ValueError(f"attention must be finite (..., gh, gw), 0 or more, received shape {attention.shape}")
    if not 0 < mass <= 1:
        raise ValueError(f"mass must be a share in (0, 1], received {mass}")
    flat = attention.reshape(*attention.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    held = np.cumsum(np.take_along_axis(flat, order, axis=-1), axis=-1)
    before = np.concatenate([np.zeros_like(held[..., :1]), held[..., :-1]], axis=-1)
    mask = np.empty(flat.shape, bool)
    np.put_along_axis(mask, order, before < mass * held[..., -1:], axis=-1)
    return mask.reshape(attention.shape)


def best_head_jaccard(masks: ArrayLike, label_map: ArrayLike) -> np.ndarray:
    """The Jaccard index of each object with the head that fits it best, averaged over an image's objects: `(B,)`.

    The result is float64; the score of fig. 4 is its mean over images. An object is any label other than 0 (background)
    and 255 (void: such pixels do not count). An image without objects has NaN, so take `np.nanmean`, as fig. 4 must.

    Masks are compared at the resolution of the truth, which is never resized: each pixel takes the patch in which its
    centre lies. If the truth has the size of the model's input, each patch is repeated `patch_size` times, as in DINO's
    code. If the image was resized for the model, the truth keeps its own size. Both must show the same field of view:
    if the image was cropped, crop its truth. Fig. 4's masks hold 60 % of the mass, on PASCAL VOC 2012 val. Deviation:
    it is not known whether DINO counts void pixels.

    masks: bool `(B, heads, gh, gw)`, see `mass_mask`. label_map: int `(B, H, W)`, 0 to 255.
    """
    masks, label_map = np.asarray(masks), np.asarray(label_map)
    if masks.dtype != bool or masks.ndim != 4 or 0 in masks.shape:
        raise ValueError(f"masks must be bool (B, heads, gh, gw), received {masks.dtype} of shape {masks.shape}")
    if label_map.ndim != 3 or len(label_map) != len(masks) or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(f"label_map must be integers (B, H, W) with B = {len(masks)}, "
                         f"received {label_map.dtype} of shape {label_map.shape}")
    if label_map.size and (label_map.min() < 0 or label_map.max() > VOID):
        raise ValueError(f"label_map must lie in [0, {VOID}], received {label_map.min()} to {label_map.max()}")
    scores = np.full(len(masks), np.nan)
    for image, (heads, labels) in enumerate(zip(masks, label_map)):
        heads = resize_nearest(heads, *labels.shape)
        objects = np.setdiff1d(labels, [0, VOID])
        if len(objects):
            scores[image] = np.mean([jaccard(heads, labels == label, labels == VOID).max() for label in objects])
    return scores
