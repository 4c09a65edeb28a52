"""The changes of a training image inside the compiled step, from uint8 to the model's input."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from cvjax.data.augment import random_flip, random_resized_crop
from cvjax.data.preprocessing import Preprocessing
from cvjax.workflow.normalization import normalized

Operation = Callable[[jax.Array, jax.Array], jax.Array]  # (key, image in [0, 255] or normalised) -> image


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a training image. With the default fields, nothing is random.

    crop_scale: least and greatest share of the area that a random crop keeps; (1, 1) for no cropping.
    flip: mirror half of the images. alternating: mirror each image in every other epoch, which `Gather` does.
    pixel_operations, normalized_operations: further changes, before and after an image is normalised.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    alternating: bool = False
    pixel_operations: tuple[Operation, ...] = ()
    normalized_operations: tuple[Operation, ...] = ()

    def __call__(self, key: jax.Array, image: jax.Array, how: Preprocessing, *, size: int | None) -> jax.Array:
        """One image uint8 or float32 in [0, 255] `(H, W, C)` to float32 `(size, size, C)`, normalised.

        size: side of the crop; None for an image that was cropped on the host.
        """
        floats = jnp.issubdtype(image.dtype, jnp.floating)
        crop_key, flip_key, key = jax.random.split(key, 3)  # fold_in(key, 0) of one key is the first of its split
        if size is not None and (self.crop_scale != (1.0, 1.0) or image.shape[:2] != (size, size)):
            image = random_resized_crop(crop_key, image, size, self.crop_scale)
            image = jnp.clip(image, 0, 255) if floats else image  # cubic weights overshoot
        if self.flip and not self.alternating:
            image = random_flip(flip_key, image)
        for i, operation in enumerate(self.pixel_operations):
            image = operation(jax.random.fold_in(key, 2 * i), image)
        image = normalized(image, how)
        for i, operation in enumerate(self.normalized_operations):
            image = operation(jax.random.fold_in(key, 2 * i + 1), image)
        return image


@dataclass(frozen=True)
class Recoloring:
    """Changes of colour only, for images with boxes or label maps, whose geometry the host has already changed.

    pixel_operations: changes of an image in [0, 255] before it is normalised; pixels must keep their places.
    """

    pixel_operations: tuple[Operation, ...] = ()

    def __call__(self, key: jax.Array, image: jax.Array, how: Preprocessing) -> jax.Array:
        """One image uint8 `(H, W, C)` to the model's input, float32."""
        for i, operation in enumerate(self.pixel_operations):
            image = operation(jax.random.fold_in(key, i), image)
        return normalized(image, how)
