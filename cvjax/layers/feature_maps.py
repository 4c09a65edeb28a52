"""Intermediate feature maps by name, to read (dense prediction) or to differentiate by (Grad-CAM)."""

import functools
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax

NamedMaps = Generator[tuple[str, jax.Array], jax.Array, jax.Array]
"""The forward pass of a model that hands out its maps: see `with_maps`."""


def with_maps(forward: Callable[..., NamedMaps]) -> Callable[..., Any]:
    """Turns a generator method of a model into a method that can return the model's named maps.

    In the generator, `x = yield "layer1", x` hands out a map `(B, h, w, C)` and takes it back, and `return` gives the
    result. The method gets one more keyword, `maps`. With None it returns that result. With names it returns a dict of
    these maps, first layer first, and the pass ends at the last of them: the layers after it are not called, so they
    are not computed, and if the pass initialises the model, they get no parameters. ValueError for a name that is not
    among the model's `map_names`, before any layer is called.

    A map that is taken back includes its offset, if the collection `perturbations` has one:
    `{"maps": {"layer1": offset}}`. The gradient by a zero offset is the gradient by the map.
    """
    @functools.wraps(forward)
    def method(self: nn.Module, *arguments: Any, maps: Collection[str] | None = None, **options: Any) -> Any:
        if maps is not None:
            check_names(self, maps)
        offsets = self.get_variable("perturbations", "maps", {})
        steps, x = _with_result(forward(self, *arguments, **options)), None
        found: dict[str, jax.Array] = {}
        while maps is None or len(found) < len(set(maps)):
            name, x = steps.send(x)
            if name is None:
                if maps is not None:
                    raise ValueError(f"{type(self).__name__} declares a map in map_names that it does not hand out: "
                                     f"{', '.join(sorted(set(maps) - found.keys()))}")
                return x
            x = x + offsets[name] if name in offsets else x
            if maps is not None and name in maps:
                found[name] = x
        return found

    return method


def _with_result(steps: NamedMaps) -> Generator[tuple[str | None, jax.Array], Any, None]:
    """All named maps, then what the generator returns, without a name."""
    yield None, (yield from steps)


def check_names(model: nn.Module, names: Iterable[str]) -> None:
    """ValueError unless a model declares maps of all these names."""
    if unknown := [name for name in names if name not in model.map_names]:
        raise ValueError(f"no map {', '.join(unknown)}: the model names {', '.join(model.map_names) or 'none'}")


def feature_maps(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
    """All maps `(B, h, w, C)` that a model declares, of images `(B, H, W, C)`, in evaluation mode, first layer first.

    model: an `ImageModel`. The result is empty if the model declares no maps. For some of them, call
    `model.apply(variables, images, maps=names)`.
    """
    if not model.map_names:
        return {}
    # Flax types the result as if it might be a tuple, which it is only with `mutable`.
    return cast(dict[str, jax.Array], model.apply(variables, images, train=False, maps=model.map_names))
