"""The facts that a model declares to training and evaluation, so that they need not be guessed from its attributes."""

import dataclasses
from typing import Any, ClassVar, Literal, TypeVar

import flax.linen as nn
import jax
from flax.errors import InvalidRngError, ModifyScopeVariableError

from cvjax.models.images import as_pair
from cvjax.models.summary import summarize, table

LayerOrder = Literal["blocks", "modules"] | None
Model = TypeVar("Model", bound=nn.Module)


class ImageModel(nn.Module):
    """The base of every registered model.

    Fields that most of them have are `num_classes`, `in_channels`, `image_size` and `dtype`. Models with batch
    statistics have `axis_name`, see `with_axis_name`. A model with `map_names` takes names of its maps when it is
    called, `model(images, train=..., maps=names)`, and then returns these maps, see `cvjax.layers.feature_maps`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ()
    """Names of the modules that give the output; a pre-trained backbone is without them."""
    layer_decay: ClassVar[LayerOrder] = None
    """How layer-wise learning-rate decay counts layers: by transformer blocks, by modules in the order in which they
    are called, or None, which forbids it."""
    frozen: ClassVar[tuple[str, ...]] = ()
    """Paths of parameters that never learn."""
    examples: ClassVar[int] = 0
    """How many training images `from_images` needs; 0 if all first parameters are drawn at random."""
    auxiliary_heads: ClassVar[bool] = False
    """Whether it sows further logits in training, as `auxiliary` in the collection `intermediates`. The training loss
    adds theirs, times the model's field `auxiliary_weight`."""

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **options: Any) -> Any:
        """Flax's own; its errors about a call in training mode also say what to write."""
        try:
            return super().apply(variables, *args, **options)
        except (ModifyScopeVariableError, InvalidRngError) as error:
            state = sorted(variables.keys() - {"params"})
            mutable = f", mutable={state}" if state else ""
            error.add_note(
                f'In training mode: model.apply(variables, images, train=True{mutable}, rngs={{"dropout": key}}); it '
                f"returns {'the outputs and the new state' if state else 'the outputs'}. To use a model: train=False.")
            raise

    @nn.nowrap
    def summary(self) -> str:
        """A table of the layers for one image of the model's own size, see `cvjax.models.summary`."""
        model: Any = self
        return table(summarize(self, (*as_pair(model.image_size), model.in_channels)))

    @property
    def map_names(self) -> tuple[str, ...]:
        """The names of its feature maps, first layer first."""
        return ()

    @property
    def raw_pixels(self) -> bool:
        """Whether it learns from pixels of 0 to 255 minus the mean, not divided by a deviation."""
        return False

    @nn.nowrap
    def from_images(self, images: jax.Array) -> dict[str, Any]:
        """First parameters that are made from normalised training images `(N, H, W, C)`: a part of the tree."""
        raise NotImplementedError(f"{type(self).__name__} makes no parameters from images")


def with_axis_name(model: Model, axis_name: str | None) -> Model:
    """The model with batch statistics averaged over a mapped axis (pmap); a model without them stays as it is."""
    declared = any(field.name == "axis_name" for field in dataclasses.fields(model))
    return model.clone(axis_name=axis_name) if declared and axis_name is not None else model
