"""The views that a DINO configuration asks for: a function of one example, for the device."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from cvjax.data.augment import View, multi_crop, normalize


def make_views(config: Any, image_size: int,
               statistics: tuple[Any, Any]) -> Callable[[jax.Array, Mapping[str, jax.Array]], list[jax.Array]]:
    """`views(key, example) -> [(2, g, g, C), (N, l, l, C)]`, normalised by the statistics (mean, deviation).

    example: `image` uint8 `(H, W, C)`, and `extent` where it was squeezed.
    """
    def recipe(size: int, scale: tuple[float, float], blur: float, solarize: float) -> View:
        return View(size=size, scale=scale, flip=config.flip, jitter=config.color_jitter, grayscale=config.grayscale,
                    blur=blur, blur_sigma=config.blur_sigma, solarize=solarize)

    first, second, local = config.blur
    global_views = (recipe(image_size, config.crop_scale, first, 0.0),
                    recipe(image_size, config.crop_scale, second, config.solarize))
    local_view = recipe(config.local_size, config.local_scale, local, 0.0)

    def views(key: jax.Array, example: Mapping[str, jax.Array]) -> list[jax.Array]:
        crops = multi_crop(key, example["image"], global_views, local_view, config.local_crops, example.get("extent"))
        return [normalize(x, *statistics) for x in crops]

    return views
