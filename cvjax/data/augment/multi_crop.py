"""Multi-crop: several views of one image, as DINO's student and teacher see them.

Caron et al. 2021, sec. 3.1 and 3.2 (https://arxiv.org/abs/2104.14294), from SwAV (Caron et al. 2020,
https://arxiv.org/abs/2006.09882) and BYOL (Grill et al. 2020, app. B, https://arxiv.org/abs/2006.07733).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from cvjax.data.augment.chance import random_apply
from cvjax.data.augment.colour import solarize
from cvjax.data.augment.geometry import random_flip, random_resized_crop
from cvjax.data.augment.jitter import color_jitter, gaussian_blur, random_grayscale


@dataclass(frozen=True)
class View:
    """How one view is made; the numbers are DINO's for its first global view.

    size: side in pixels. scale: share of the image's area. flip: whether half of the views are mirrored.
    jitter: strengths of brightness, contrast, saturation and hue, with probability `jitter_chance`.
    grayscale, blur, solarize: probabilities. blur_sigma: least and greatest deviation of the blur, in its pixels.
    """

    size: int = 224
    scale: tuple[float, float] = (0.4, 1.0)
    flip: bool = True
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_chance: float = 0.8
    grayscale: float = 0.2
    blur: float = 1.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0


GLOBAL_1 = View()
GLOBAL_2 = replace(GLOBAL_1, blur=0.1, solarize=0.2)
LOCAL = replace(GLOBAL_1, size=96, scale=(0.05, 0.4), blur=0.5)


def view(key: jax.Array, image: jax.Array, recipe: View, extent: jax.Array | None = None) -> jax.Array:
    """One view of an image uint8 `(H, W, C)`: float32 `(size, size, C)` in [0, 255], see `changed`.

    extent: see `random_resized_crop`.
    """
    cropped = random_resized_crop(jax.random.split(key, 6)[0], image, recipe.size, recipe.scale, extent=extent)
    return changed(key, cropped, recipe)


def changed(key: jax.Array, crop: jax.Array, recipe: View) -> jax.Array:
    """A crop `(size, size, C)` with all but its box random: float32 in [0, 255]; C = 1 has no colours to change.

    An operation of probability 0 is left out of the program. Pillow rounds to whole levels between operations. Here
    nothing is rounded, because one device would then round where eight do not.
    """
    keys, out = jax.random.split(key, 6), crop.astype(jnp.float32)
    if recipe.flip:
        out = random_flip(keys[1], out)
    if recipe.jitter_chance and any(recipe.jitter):
        strengths = dict(zip(("brightness", "contrast", "saturation", "hue"), recipe.jitter))
        if crop.shape[-1] == 1:
            strengths |= dict(saturation=0.0, hue=0.0)
        out = random_apply(keys[2], out, recipe.jitter_chance, partial(color_jitter, **strengths))
    if recipe.grayscale and crop.shape[-1] == 3:
        out = random_grayscale(keys[3], out, recipe.grayscale)
    if recipe.blur:
        out = random_apply(keys[4], out, recipe.blur, partial(gaussian_blur, sigma=recipe.blur_sigma))
    if recipe.solarize:
        out = random_apply(keys[5], out, recipe.solarize, lambda _, image: solarize(image, 128))
    return out


def multi_crop(key: jax.Array, image: jax.Array, global_views: Sequence[View], local_view: View, local_crops: int,
               extent: jax.Array | None = None) -> list[jax.Array]:
    """The views of one image uint8 `(H, W, C)`, by size: `[(G, g, g, C), (N, l, l, C)]`, the global ones first.

    They are float32 in [0, 255], see `view`.

    global_views: one recipe for each, all of one size. local_crops: how many local views, 0 for none (and no second
    array); they may have the global views' size.
    """
    sizes = {recipe.size for recipe in global_views}
    if len(sizes) != 1 or local_crops < 0:
        raise ValueError(f"global views must have one size and local crops be 0 or more, got sizes {sorted(sizes)} and "
                         f"{local_crops} crops")
    keys = jax.random.split(key, len(global_views) + 1)
    views = [jnp.stack([view(k, image, recipe, extent) for k, recipe in zip(keys, global_views)])]
    if local_crops:
        local = jax.vmap(lambda k: view(k, image, local_view, extent))
        views.append(local(jax.random.split(keys[-1], local_crops)))
    return views


def changed_crops(key: jax.Array, crops: Sequence[jax.Array], global_views: Sequence[View], local_view: View
                  ) -> list[jax.Array]:
    """The views of `multi_crop`, from boxes that are cut out already, uint8 `[(G, g, g, C), (N, l, l, C)]` or without
    the second (`cvjax.data.crops.SeveralCrops`)."""
    keys = jax.random.split(key, len(global_views) + 1)
    views = [jnp.stack([changed(k, crop, recipe) for k, crop, recipe in zip(keys, crops[0], global_views)])]
    for local in crops[1:]:
        own = jax.random.split(keys[-1], len(local))
        views.append(jax.vmap(lambda k, crop: changed(k, crop, local_view))(own, local))
    return views
