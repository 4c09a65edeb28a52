"""Intermediate feature maps by name, to read (dense prediction) or to differentiate by (Grad-CAM)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax


class FeatureMaps(nn.Module):
    """Names the maps that a model passes through it; every image model holds one, called `maps`.

    `x = self.maps("layer1", x)` returns `x`. It has no parameters and costs nothing unless the caller makes the
    collection `intermediates` mutable (`feature_maps` does), or gives a map's offset in the collection
    `perturbations`, `{"maps": {"layer1": offset}}`: the gradient by a zero offset is the gradient by the map.
    """

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        self.sow("intermediates", name, x)
        if self.has_variable("perturbations", name):
            x = x + self.get_variable("perturbations", name)
        return x


def feature_maps(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
    """A model's named maps `(B, h, w, C)` of images `(B, H, W, C)`, in evaluation mode, first layer first.

    Empty for a model that names none.
    """
    order: list[str] = []

    def noting(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, FeatureMaps) and context.method_name == "__call__":
            order.append(arguments[0])
        return call(*arguments, **options)

    with nn.intercept_methods(noting):
        _, state = model.apply(variables, images, train=False, mutable=["intermediates"])
    maps = state.get("intermediates", {}).get("maps", {})
    return {name: maps[name][0] for name in dict.fromkeys(order)}
