"""What is compared with the references: models by their fields, and inputs that follow from the name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from deterministic_weights import random

CHANNELS = 3
BATCH = 2


def _patches(size: tuple[int, int], patch_size: int) -> int:
    return (size[0] // patch_size) * (size[1] // patch_size)


@dataclass(frozen=True)
class MaeCase:
    """A masked autoencoder and its loss; `normalize` is for the target."""

    name: str
    normalize: bool = True
    mask_ratio: float = 0.75
    image_size: tuple[int, int] = (16, 16)
    patch_size: int = 4
    width: int = 16
    depth: int = 2
    heads: int = 2
    decoder_width: int = 8
    decoder_depth: int = 1
    decoder_heads: int = 2

    def inputs(self) -> dict[str, np.ndarray]:
        noise = random(f"{self.name} noise").random((BATCH, _patches(self.image_size, self.patch_size)))
        return {"images": _images(self.name, self.image_size), "noise": noise.astype(np.float32)}


@dataclass(frozen=True)
class VitCase:
    """A classifier and the mean square of its logits.

    input_size: the images', `image_size` unless given. weights_size: what the loaded positions were made for.
    options: fields of VisionTransformer that only some cases have.
    """

    name: str
    image_size: tuple[int, int] = (16, 16)
    input_size: tuple[int, int] | None = None
    weights_size: tuple[int, int] | None = None
    patch_size: int = 4
    width: int = 12
    depth: int = 2
    heads: int = 2
    num_classes: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> dict[str, np.ndarray]:
        return {"images": _images(self.name, self.input_size or self.image_size)}

    def weight_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The shapes of a model's parameters with those of the positions that are loaded."""
        length = 1 + _patches(self.weights_size or self.image_size, self.patch_size)
        return {**shapes, "pos_embed": (1, length, self.width)}


def _images(name: str, size: tuple[int, int]) -> np.ndarray:
    return random(f"{name} images").standard_normal((BATCH, *size, CHANNELS)).astype(np.float32)


MAE_CASES = (
    MaeCase("mae_normalised"),
    MaeCase("mae_plain_half", normalize=False, mask_ratio=0.5),
    MaeCase("mae_wide_image", mask_ratio=0.6, image_size=(8, 24)),
)
VIT_CASES = (
    VitCase("vit_token"),
    VitCase("vit_qk_norm_layer_scale", options=dict(qk_norm=True, layer_scale=0.1)),
    VitCase("vit_average_larger_input", input_size=(24, 20), options=dict(pool="avg")),
    VitCase("vit_resized_weights", image_size=(12, 28), weights_size=(16, 16)),
)
