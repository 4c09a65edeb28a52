"""Batches mixed with themselves in reversed order: images `(B, H, W, C)`, targets `(B, K)` class probabilities.

All of a batch shares one draw (timm's batch mode). Results are float32 of the same shapes; images best come
normalised, so that nothing is rounded.
"""

import jax
import jax.numpy as jnp

from cvjax.data.augment.chance import happens
from cvjax.data.augment.erasing import inside_box


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with its partner in the reversed batch, by one lambda ~ Beta(alpha, alpha) for all.

    Zhang 2017 (arXiv 1710.09412, section 2).

    Args:
        images: `(B, H, W, C)`, float, so that the mixture is not rounded.
        targets: `(B, K)` class probabilities.
        alpha: above 0.

    Returns:
        Images and targets of the same shapes, float32.
    """
    share = _beta(key, alpha)
    return _mix(images, targets, share, share)


def cutmix(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of its partner in the reversed batch into each example, the same box for all.

    Yun 2019 (arXiv 1905.04899, section 3.1 and algorithm 1): the box takes the share 1 - lambda of the area,
    lambda ~ Beta(alpha, alpha), with the image's proportions, around a centre uniform over the pixels, and is cut off
    at the border. Targets are mixed by the area that is left. An odd side stays odd: the authors' code and timm reach
    `side // 2` pixels to either side of the centre, so theirs becomes one pixel shorter.

    Args:
        images: `(B, H, W, C)`.
        targets: `(B, K)` class probabilities.
        alpha: above 0.

    Returns:
        Images and targets of the same shapes, float32.
    """
    return _mix(images, targets, *_cut(key, images.shape, alpha))


def mixup_or_cutmix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    mixup_alpha: float,
    cutmix_alpha: float,
    switch_probability: float = 0.5,
    probability: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """`cutmix` with the switch probability, else `mixup`; with 1 - probability neither. timm's `Mixup`, mode "batch".

    Args:
        images: `(B, H, W, C)`, float, so that the mixture is not rounded.
        targets: `(B, K)` class probabilities, already smoothed if they are to be.
        mixup_alpha: at least 0; 0 leaves mixup out, and cutmix is then not switched.
        cutmix_alpha: the same for CutMix.
        switch_probability: of cutmix, if both are on.
        probability: of mixing this batch at all.

    Returns:
        Images and targets of the same shapes, float32.
    """
    if min(mixup_alpha, cutmix_alpha) < 0 or max(mixup_alpha, cutmix_alpha) == 0:
        raise ValueError(f"alphas must be at least 0 and one above 0, got mixup {mixup_alpha}, cutmix {cutmix_alpha}")
    mixup_key, cutmix_key, switch_key, key = jax.random.split(key, 4)
    if not cutmix_alpha:
        weight = share = _beta(mixup_key, mixup_alpha)
    else:
        weight, share = _cut(cutmix_key, images.shape, cutmix_alpha)
    if mixup_alpha and cutmix_alpha:
        blend, is_cut = _beta(mixup_key, mixup_alpha), happens(switch_key, switch_probability)
        weight, share = jnp.where(is_cut, weight, blend), jnp.where(is_cut, share, blend)
    mixes = happens(key, probability)
    return _mix(images, targets, jnp.where(mixes, weight, 1), jnp.where(mixes, share, 1))


def _beta(key, alpha):
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    return jax.random.beta(key, alpha, alpha)


def _cut(key, shape, alpha):
    """Weight of each pixel, 1 outside of a box and 0 inside, `(H, W, 1)`; and its mean."""
    height, width = shape[1:3]
    share_key, centre_key = jax.random.split(key)
    sides = jnp.array([height, width])
    box = jnp.floor(sides * jnp.sqrt(1 - _beta(share_key, alpha))).astype(jnp.int32)
    corner = jax.random.randint(centre_key, (2,), 0, sides) - box // 2
    weight = 1 - inside_box(height, width, *corner, *box).astype(jnp.float32)
    return weight, weight.mean()


def _mix(images, targets, weight, share):
    return weight * images + (1 - weight) * images[::-1], share * targets + (1 - share) * targets[::-1]
