"""A trained network as one function of arrays."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.evaluate.views import averaged
from cvjax.models.backbone import OnBackbone
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.models.registry import name_of
from cvjax.tasks.task import outputs_of
from cvjax.workflow.classification.goal import Regression
from cvjax.workflow.classification.model import Classifier
from cvjax.workflow.detection.model import TrainedDetector
from cvjax.workflow.frozen.encoder import Encoder
from cvjax.workflow.normalization import normalized
from cvjax.workflow.origin import Origin
from cvjax.workflow.segmentation.model import Segmenter

Network = Classifier | Segmenter | TrainedDetector | Encoder
MOST_BYTES = 2**31 - 2**24  # of FlatBuffers and Protocol Buffers, which hold programs, less what is no weight


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A network, and the function of images that it is for.

    name: a registered one of the model's class. kind: what it is, in words. inputs: the shape of one example and the
    dtype of each argument of the function, by name and in order; the first is the image. function(variables, *inputs),
    each `(B, ...)`, -> arrays by name, each `(B, ...)`. pixels: whether images are uint8 and normalised inside.
    preprocessing, class_names, origin: as of the network.
    """

    name: str
    kind: str
    model: ImageModel
    variables: Any
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    function: Callable[..., dict[str, jax.Array]]
    preprocessing: Preprocessing
    pixels: bool
    class_names: tuple[str, ...]
    origin: Origin | None

    def __call__(self, *inputs: Any) -> dict[str, jax.Array]:
        """The outputs for a batch, each input `(B, ...)`."""
        return self.function(self.variables, *inputs)

    def batched(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The arguments for any number of images: their first axis is the symbol `batch`."""
        batch, = jax.export.symbolic_shape("batch")
        return tuple(jax.ShapeDtypeStruct((batch, *one.shape), one.dtype) for one in self.inputs.values())

    def check_size(self, way: str) -> None:
        """ConfigError if its weights do not fit into the file of a program. way: the command's option."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.variables))
        if size > MOST_BYTES:
            raise ConfigError(f"{way}: the weights are {size / 1e9:.1f} GB, and a program holds at most "
                              f"{MOST_BYTES / 1e9:.1f}: export --format safetensors")


def program_of(network: Network, *, pixels: bool, name: str | None = None) -> Program:
    """The program of a trained network; pixels: it takes images uint8 and normalises them.

    name: a registered one of the model's class; None for the closest.

    Images have the size on which the network is judged. Classifiers give `logits` and `probabilities`, regressors
    `numbers` in their own units, segmenters `logits` and `labels` of each pixel, encoders `features`. Detectors also
    take the `extent` of each picture within its canvas, and give what `Detector.detect` does. ConfigError for a
    detector that is given regions.
    """
    parts, how = _parts(_plain(network)), network.preprocessing

    def of_pixels(variables: Any, image: jax.Array, *more: jax.Array) -> dict[str, jax.Array]:
        return parts.function(variables, normalized(image, how), *more)

    inputs, function = parts.inputs, parts.function
    if pixels:
        inputs, function = inputs | {"image": jax.ShapeDtypeStruct(inputs["image"].shape, jnp.uint8)}, of_pixels
    name = name_of(network.model) if name is None else name
    return Program(name, parts.kind, network.model, network.variables, inputs, function, how, pixels,
                   parts.class_names, network.origin)


class _Parts(NamedTuple):
    """inputs: the names and shapes of one example. function: of normalised images."""

    kind: str
    inputs: dict[str, jax.ShapeDtypeStruct]
    function: Callable[..., dict[str, jax.Array]]
    class_names: tuple[str, ...] = ()


def _parts(network: Network) -> _Parts:
    if isinstance(network, Classifier):
        inputs = _image(network.image_size, network.channels)
        return _Parts(network.goal.kind.replace("_", " "), inputs, _answers(network), network.goal.names)
    if isinstance(network, Encoder):
        inputs = _image(network.image_size, network.channels)
        return _Parts("encoder", inputs, lambda variables, image: {"features": network.apply(variables, image)})
    if isinstance(network, Segmenter):
        inputs = _image(network.model.image_size, network.channels)
        return _Parts("segmenter", inputs, _scores(network.model), network.class_names)
    return _detection(network)


def _image(size: int | tuple[int, int], channels: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"image": jax.ShapeDtypeStruct((*as_pair(size), channels), jnp.float32)}


def _answers(classifier: Classifier) -> Callable[..., dict[str, jax.Array]]:
    goal = classifier.goal

    def answers(variables: Any, image: jax.Array) -> dict[str, jax.Array]:
        logits = averaged(lambda seen: outputs_of(classifier.model, variables, seen, train=False), image,
                          classifier.views)
        if isinstance(goal, Regression):
            return {"numbers": goal.answers(logits)}
        return {"logits": logits, "probabilities": goal.answers(logits)}

    return answers


def _scores(model: ImageModel) -> Callable[..., dict[str, jax.Array]]:
    def scores(variables: Any, image: jax.Array) -> dict[str, jax.Array]:
        logits = outputs_of(model, variables, image, train=False)
        return {"logits": logits, "labels": logits.argmax(axis=-1).astype(jnp.int32)}

    return scores


def _detection(network: TrainedDetector) -> _Parts:
    needs = network.detector.needs
    if "proposals" in needs:
        raise ConfigError(f"{name_of(network.model)} is given regions by selective search, which no program contains; "
                          "detectors that find their own, such as faster_rcnn and yolo, can be exported")
    of_one = {"extent": (2,), "scale": ()}
    more = {name: jax.ShapeDtypeStruct(of_one[name], jnp.float32) for name in ("extent", *needs)}
    canvas = network.canvas or network.model.image_size
    return _Parts("detector", _image(canvas, network.channels) | more, network.detector.detect, network.class_names)


def _plain(network: Network) -> Network:
    """A network whose attention is no vendor's kernel: exported programs must not depend on one, nor on the machine
    that they were exported on."""
    return dataclasses.replace(network, model=_by_xla(network.model))


def _by_xla(model: Any) -> Any:
    if isinstance(model, OnBackbone):  # a dense probe's ViT
        plain = _by_xla(model.make_backbone())
        if hasattr(plain, "attention"):
            return model.clone(backbone_fields={**model.backbone_fields, "attention": plain.attention})
    return model.clone(attention="xla") if hasattr(model, "attention") else model
