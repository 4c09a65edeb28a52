"""Intermediate feature maps by name, to read (dense prediction) or to differentiate by (Grad-CAM)."""

from collections.abc import Callable, Collection, Mapping
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


class _Enough(Exception):
    """All maps that somebody wanted are there; its arguments are these and the last one."""


def named_maps(run: Callable[[], Any], wanted: Collection[str] | None = None) -> dict[str, jax.Array]:
    """The maps that models name while `run()` calls them, first layer first; of several by one name the first.

    wanted: names of maps, with the last of which `run` ends: no layer after it is called, so what only those need is
    neither computed nor, where `run` initialises the model, made. None: all. ValueError for a name that did not come.
    """
    maps: dict[str, jax.Array] = {}

    def noting(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        named = isinstance(context.module, FeatureMaps) and context.method_name == "__call__"
        try:
            x = call(*arguments, **options)
        except _Enough as enough:  # of somebody inside or outside of `run` who asks for maps, too
            if named:
                maps.setdefault(arguments[0], enough.args[1])
            raise
        if named:
            maps.setdefault(arguments[0], x)
            if wanted is not None and maps.keys() >= set(wanted):
                raise _Enough(maps, x)
        return x

    try:
        with nn.intercept_methods(noting):
            run()
    except _Enough as enough:
        if enough.args[0] is not maps:
            raise
    if missing := [name for name in wanted or () if name not in maps]:
        raise ValueError(f"no map {', '.join(missing)}: the model names {', '.join(maps) or 'none'}")
    return {name: x for name, x in maps.items() if wanted is None or name in wanted}


def feature_maps(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
    """A model's named maps `(B, h, w, C)` of images `(B, H, W, C)`, in evaluation mode, first layer first.

    Empty for a model that names none.
    """
    return named_maps(lambda: model.apply(variables, images, train=False))
