"""Print a model's layers: shapes, parameters, FLOPs.

    python -m experiments.inspect resnet50
    python -m experiments.inspect --all          # every model, one row each
    python -m experiments.inspect --arithmetic   # the lecture's calculations, from the models themselves
    python -m experiments.inspect --coverage     # which of timm's published weights build and load here

The table has output shapes, parameters, multiply-accumulates, receptive fields and strides.
"""

import dataclasses
from typing import Annotated

from cvjax.errors import ConfigError
from cvjax.workflow.command import command
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """What to show. Only shapes are computed, so any size is quick."""

    name: Annotated[str | None, Positional] = None
    """A name from list_models()."""
    all: bool = False
    """One row for each model instead."""
    arithmetic: bool = False
    """Show the parameters of AlexNet layer by layer, and how many weights small kernels and bottlenecks save."""
    coverage: bool = False
    """Count timm's published weights that build and load here, by its files: the names and shapes of each model's
    parameters are compared with those of timm. It takes minutes."""
    image_size: int | None = None
    """Side of the image; by default the model's own."""
    in_channels: int | None = None
    """Channels of the image; by default the model's own."""
    num_classes: int | None = None
    """Classes of the head; by default the model's own."""
    model_fields: tuple[str, ...] = ()
    """Other fields of the model to change, such as width=32 stem=cifar."""

    def __post_init__(self) -> None:
        if (self.name is not None) + self.all + self.arithmetic + self.coverage != 1:
            raise ConfigError("give one of NAME, --all, --arithmetic or --coverage")


if __name__ == "__main__":
    command("experiments.inspect", "experiments.wiring.inspect")
