"""A trained classifier out of a run's checkpoint or a weight file, and its answers."""

import ast
import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.evaluate.views import Views, averaged
from cvjax.experiment.config import ConfigError, config_errors
from cvjax.experiment.inputs import preprocess
from cvjax.experiment.training import evaluated_variables
from cvjax.models import create_model
from cvjax.train.checkpoint import read_meta, restore_weights

EXPERIMENTS = ("supervised",)  # whose runs hold a classifier that `build_classifier` can build


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with its variables, and what its inputs and outputs mean.

    image_size: side of the square images it was trained on. channels: 1 or 3. views: what an answer is averaged over.
    """

    model: nn.Module
    variables: Any
    image_size: int
    channels: int
    class_names: tuple[str, ...]
    views: Views = "one"

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Float32 `(B, K)` of images uint8 `(B, H, W, C)`."""
        return averaged(lambda images: self.model.apply(variables, images, train=False),
                        preprocess(images, self.image_size), self.views)


def parse_fields(fields: Sequence[str]) -> dict[str, Any]:
    """Model fields from words such as `width=32`, `depths=(1,1,1)` or `stem=cifar`."""
    parsed = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not name or not equals:
            raise ConfigError(f"--model-fields {field}: it must be NAME=VALUE")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value  # a word
    return parsed


def build_classifier(config: dict[str, Any], *, image_size: int, channels: int, num_classes: int) -> nn.Module:
    """The model that a configuration of `experiments.supervised` describes; ConfigError for one that cannot be."""
    known = {field.name for field in dataclasses.fields(create_model_or_fail(config["model"]))}
    fields = dict(image_size=image_size, in_channels=channels, num_classes=num_classes,
                  dtype=jnp.dtype(config["dtype"]))
    for name in ("drop_path", "dropout", "remat", "scan", "attention"):
        fields |= asked(name, config[name], config["model"], known)
    model = create_with_fields(config["model"], config["model_fields"], fields)
    check_model(model, config["model"], (image_size, image_size, channels))
    return model


def asked(name: str, value: Any, model: str, known: Container[str]) -> dict[str, Any]:
    """An option as a field of a model that has the fields `known`; nothing where it asks for the model's own.

    ConfigError where the model has no such field.
    """
    if value is None or value is False or value in ("none", "auto"):
        return {}
    if name not in known and value == "xla":  # who has no attention has none by NVIDIA's library
        return {}
    if name not in known:
        raise ConfigError(f"--{name.replace('_', '-')} {value}: {model} has no {name}")
    return {name: value}


def create_with_fields(name: str, words: Sequence[str], fields: Mapping[str, Any]) -> nn.Module:
    """The model of a name with these fields, and with those of `--model-fields`; ConfigError for one in both."""
    given = parse_fields(words)
    if taken := sorted(given.keys() & {*fields, "axis_name"}):
        raise ConfigError(f"--model-fields {taken[0]}={given[taken[0]]}: this field follows from the data and from "
                          "other options; leave it out")
    with config_errors():
        return create_model(name, **fields, **given)


def check_model(model: nn.Module, name: str, shape: tuple[int, int, int]) -> Any:
    """Shape of what a model gives of one image `(H, W, C)`, or shapes of several things; nothing is computed.

    ConfigError where it cannot see the image.
    """
    try:
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return jax.tree.map(jnp.shape, jax.eval_shape(model.init_with_output, jax.random.key(0), image)[0])
    except Exception as error:  # whatever it is that the value of a field breaks
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"--model {name} on images of {shape[0]}x{shape[1]}x{shape[2]}: {reason}") from None


def create_model_or_fail(name: str) -> nn.Module:
    """`create_model(name)`; ConfigError for an unknown name or for a model that is no classifier."""
    with config_errors():
        model = create_model(name)
    if not hasattr(model, "num_classes"):
        raise ConfigError(f"--model {name} is no classifier: it has no num_classes")
    return model


def load_classifier(run: Path, step: str | int = "judged") -> Classifier:
    """The classifier of a run of `experiments.supervised`; the run's averages where it kept them.

    step: "judged" (what the run's own test numbers are of: the best on the validation part, or without one the last),
    "best", "latest" or a number. Raises ConfigError or CheckpointError where there is none.
    """
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"{run}: no checkpoints in it; give the folder of a supervised run")
    if step == "judged":
        before = read_meta(folder).get("config", {})
        step = "best" if before.get("validation") or before.get("fold") is not None else "latest"
    weights, meta = restore_weights(folder, step)
    if meta["experiment"] not in EXPERIMENTS:
        raise ConfigError(f"{run} is a run of {meta['experiment']}; it must be one of "
                          f"{', '.join(EXPERIMENTS)}")
    names = tuple(meta["class_names"])
    model = build_classifier(meta["config"], image_size=meta["image_size"], channels=meta["channels"],
                             num_classes=len(names))
    return Classifier(model, evaluated_variables(weights), meta["image_size"], meta["channels"], names,
                      meta["config"].get("test_views", "one"))


def ensemble(classifiers: Sequence[Classifier]) -> Callable[[Any, jax.Array], jax.Array]:
    """Mean class probabilities `(B, K)` of several classifiers: `function([variables...], images uint8)`.

    Raises ConfigError when they do not name the same classes or take other channels.
    """
    first = classifiers[0]
    for other in classifiers[1:]:
        if other.class_names != first.class_names:
            raise ConfigError(f"the checkpoints name other classes: {', '.join(first.class_names[:5])}... and "
                              f"{', '.join(other.class_names[:5])}...; an ensemble needs the same in the same order")
        if other.channels != first.channels:
            raise ConfigError(f"the checkpoints take images of {first.channels} and of {other.channels} channels; "
                              "an ensemble needs the same")

    def probabilities(variables: Sequence[Any], images: jax.Array) -> jax.Array:
        each = [jax.nn.softmax(c.logits(v, images)) for c, v in zip(classifiers, variables, strict=True)]
        return sum(each) / len(each)

    return probabilities
