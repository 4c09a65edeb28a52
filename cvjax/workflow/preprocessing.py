"""Whose statistics and crop images get: those of the weights that a command starts from, or those of its options."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.interop import to_state_dict
from cvjax.interop.hub import HUB, holds_weights
from cvjax.interop.published import POSITION_RESIZE, Published, open_published, resizing_as
from cvjax.interop.weights import load_partly
from cvjax.models.image_model import ImageModel
from cvjax.ops.position import PositionResize
from cvjax.workflow.config import PreprocessingOptions, config_errors
from cvjax.workflow.origin import Origin, origin_of_file
from cvjax.workflow.restore import load_run


def chosen(config: Any, how: Preprocessing | None, channels: int, raw_pixels: bool = False,
           measured: Callable[[Preprocessing], Preprocessing] = lambda usual: usual) -> Preprocessing:
    """The preprocessing of some weights, or of networks that start here (None), with the options in their place.

    Nobody publishes statistics of images that have no colours. So a network of other channels than the statistics sees
    those of networks which start here. ConfigError for options of other channels.
    raw_pixels: see `Preprocessing.of`. measured(that of networks which start here) -> the same with the data's own
    statistics; it is asked unless options or weights state them.
    """
    given = isinstance(config, PreprocessingOptions) and config.mean is not None and config.std is not None
    if how is None or len(how.mean) not in (1, channels):
        usual = Preprocessing.of(channels, raw_pixels)
        usual = usual if given else measured(usual)
        how = usual if how is None else dataclasses.replace(how, mean=usual.mean, std=usual.std)
    with config_errors():
        if isinstance(config, PreprocessingOptions):
            given = {"mean": config.mean, "std": config.std, "crop": config.crop,
                     "interpolation": config.interpolation}
            given = {name: value for name, value in given.items() if value is not None}
            before, how = how, dataclasses.replace(how, **given)
            if how != before:
                print(f"images: {how}, by {', '.join(f'--{name}' for name in given)}")
        how.check_channels(channels)
    return how


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Learnt weights that a training starts from. arrays: name -> array, as published files have them. trained: height
    and width of the images that they learnt from. position_resize: how learned positions are resized, see
    `cvjax.ops.position.resize_positions`. origin: what they were read from.
    """

    source: str
    arrays: Mapping[str, np.ndarray]
    preprocessing: Preprocessing
    trained: tuple[int, int] | None
    position_resize: PositionResize
    origin: Origin

    def resizing(self, model: ImageModel) -> ImageModel:
        """A model that resizes learned positions as these weights' publisher does, unless its fields say how."""
        return resizing_as(model, self.position_resize)

    def variables(self, model: ImageModel, seed: int) -> Any:
        """The variables of `resizing(model)`; a missing head, or one of other classes, starts fresh and is logged."""
        return self.partly(model, seed)[0]

    def partly(self, model: ImageModel, seed: int) -> tuple[Any, list[str]]:
        """`variables`, and the paths of the parameters that start fresh."""
        try:
            return load_partly(self.resizing(model), self.arrays, rng=jax.random.key(seed), trained=self.trained)
        except ValueError as error:
            raise ConfigError(f"--pretrained {self.source}: {str(error).splitlines()[0]}") from None


def open_pretrained(source: str, name: Callable[[], str], fields: Mapping[str, Any] = MappingProxyType({})
                    ) -> Pretrained:
    """Weights from a file, `hf-hub:OWNER/NAME`, a folder like those there, or a run's: supervised, MAE or DINO.

    name() -> the registered name of the model that the weights are for; fields: of it. ConfigError for weights that
    cannot be read, or that are of another architecture. Prints what their images become.
    """
    if Path(source).is_dir() and not holds_weights(Path(source)):
        run = load_run(source)
        try:
            arrays = to_state_dict(run.variables, run.model)
        except ValueError as error:
            raise ConfigError(f"--pretrained {source}: {error}") from None
        print(f"images: {run.preprocessing}, as in {source}")
        return Pretrained(source, arrays, run.preprocessing, run.image_size,
                          getattr(run.model, POSITION_RESIZE, None) or "timm", run.origin)
    published, how = open_weights("pretrained", source, name(), fields, own=False)
    return Pretrained(source, published.arrays, how, published.trained, published.position_resize,
                      origin_of_weights(source, published))


def open_weights(option: str, source: str, name: str, fields: Mapping[str, Any] = MappingProxyType({}), *,
                 own: bool = True) -> tuple[Published, Preprocessing]:
    """Published weights of the registered model `name`, and what their images become; prints both.

    fields, own: see `Published.check_architecture`.
    ConfigError, which names the option, for weights that cannot be read or that are of another architecture.
    """
    try:
        published = open_published(source)
        said = published.check_architecture(name, fields, own=own)
        how, whose = published.preprocessing(name)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--{option} {source}: {str(error).splitlines()[0]}") from None
    print(f"weights: {said}\nimages: {how}; {whose}")
    return published, how


def origin_of_weights(source: str, published: Published) -> Origin:
    """The origin of published weights; `source` is their name on the command line."""
    assert published.path is not None, "they were read from a file"
    inside = not source.startswith(HUB) and Path(source).is_dir()
    return origin_of_file(str(published.path) if inside else source, published.path)
