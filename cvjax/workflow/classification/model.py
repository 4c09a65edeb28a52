"""Image models with a head: built from options or read from a run's checkpoint, and the answers of one or several."""

import ast
import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.evaluate.views import Views, averaged
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel
from cvjax.tasks.task import outputs_of
from cvjax.workflow.classification.goal import Goal, goal_of_run
from cvjax.workflow.config import NetworkOptions, config_errors
from cvjax.workflow.normalization import preprocess
from cvjax.workflow.origin import Origin
from cvjax.workflow.restore import SUPERVISED, Kind, Run, load_run


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with its variables, and what its inputs and outputs mean.

    image_size: side of the square images that it is judged on. channels: 1 or 3. preprocessing: what they become before
    the model sees them. goal: what it learnt, of classes, labels or numbers. views: what an answer is averaged over.
    learnt: the configuration of the run that it is from, {} if it is from none.
    origin: what the variables were read from; None where they were not.
    """

    model: ImageModel
    variables: Any
    image_size: int
    channels: int
    preprocessing: Preprocessing
    goal: Goal
    views: Views = "one"
    learnt: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    origin: Origin | None = None

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Logits float32 `(B, K)` of images uint8 `(B, H, W, C)`."""
        return averaged(lambda images: outputs_of(self.model, variables, images, train=False),
                        preprocess(images, self.image_size, self.preprocessing), self.views)


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


def build_classifier(config: NetworkOptions, *, image_size: int, channels: int, num_classes: int,
                     drop_path: float | None = None, dropout: float | None = None) -> ImageModel:
    """The classifier that a configuration describes; ConfigError if it cannot be built.

    num_classes: 0 for an encoder.
    """
    bare = create_model_or_fail(config.model)
    if bare.examples and not num_classes:
        raise ConfigError(f"--model {config.model}: its first layer is made from training images and never learns, "
                          "which only experiments.supervised does")
    model = create_asked(config, bare, image_size=image_size, in_channels=channels,
                         num_classes=num_classes, drop_path=drop_path, dropout=dropout)
    check_model(model, config.model, (image_size, image_size, channels))
    return model


def create_asked(config: NetworkOptions, bare: ImageModel, *, drop_path: float | None = None,
                 dropout: float | None = None, **fields: Any) -> ImageModel:
    """The model that a configuration names, with these fields, its own `--model-fields`, and the options that models
    share where it sets them.

    bare: the model made from its name only, which shows its fields. ConfigError for a field that it lacks.
    """
    known = {field.name for field in dataclasses.fields(bare)}
    options = {"drop_path": drop_path, "dropout": dropout, "remat": config.remat, "scan": config.scan,
               "attention": config.attention}
    fields |= {"dtype": jnp.dtype(config.dtype)}
    for name, value in options.items():
        fields |= asked(name, value, config.model, known)
    return create_with_fields(config.model, config.model_fields, fields)


def asked(name: str, value: Any, model: str, known: Container[str]) -> dict[str, Any]:
    """An option as a field of a model; nothing if the option leaves the model as it is.

    known: the names of the model's fields. ConfigError if the option is not among them.
    """
    if value is None or value is False or value in ("none", "auto"):
        return {}
    if name not in known and value == "xla":  # a model without attention never runs NVIDIA's kernel
        return {}
    if name not in known:
        raise ConfigError(f"--{name.replace('_', '-')} {value}: {model} has no {name}")
    return {name: value}


def create_with_fields(name: str, words: Sequence[str], fields: Mapping[str, Any]) -> ImageModel:
    """The model of this name with these fields and those of `--model-fields`; ConfigError for a field in both."""
    given = parse_fields(words)
    if taken := sorted(given.keys() & {*fields, "axis_name"}):
        raise ConfigError(f"--model-fields {taken[0]}={given[taken[0]]}: this field follows from the data and from "
                          "other options; leave it out")
    with config_errors():
        return create_model(name, **fields, **given)


def check_model(model: ImageModel, name: str, shape: tuple[int, int, int]) -> Any:
    """The shape of a model's output for one image `(H, W, C)`, or those of several outputs; nothing is computed.

    ConfigError if the model cannot take the image.
    """
    try:
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return jax.tree.map(jnp.shape, jax.eval_shape(model.init_with_output, jax.random.key(0), image)[0])
    except Exception as error:  # the value of a field may break anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"--model {name} on images of {shape[0]}x{shape[1]}x{shape[2]}: {reason}") from None


def create_model_or_fail(name: str) -> ImageModel:
    """`create_model(name)`; ConfigError for an unknown name or for a model that is no classifier."""
    with config_errors():
        model = create_model(name)
    if "num_classes" not in {field.name for field in dataclasses.fields(model)}:
        raise ConfigError(f"--model {name} is no classifier: it has no num_classes")
    return model


def load_classifier(path: str | Path, step: str | int = "judged", kinds: Sequence[Kind] = SUPERVISED) -> Classifier:
    """The classifier of a run; step and errors as in `load_run`, kinds as in `Run.require`."""
    return classifier_of(load_run(path, step).require(*kinds))


def classifier_of(run: Run) -> Classifier:
    """The classifier of a run that has been read."""
    return Classifier(run.model, run.variables, run.image_size[0], run.channels, run.preprocessing, goal_of_run(run),
                      run.facts.get("test_views", "one"), run.config, run.origin)


def _crop(classifier: Classifier) -> tuple[float, str, str]:
    how = classifier.preprocessing
    return how.crop, how.crop_mode, how.interpolation


def ensemble(classifiers: Sequence[Classifier]) -> Callable[[Any, jax.Array], jax.Array]:
    """Mean answers `(B, K)` of several classifiers, see `Goal.answers`: `function([variables...], images uint8)`.

    Raises ConfigError unless all of them have the same goal and names and take the same channels.
    """
    first = classifiers[0]
    for other in classifiers[1:]:
        if (other.goal.kind, other.goal.names) != (first.goal.kind, first.goal.names):
            raise ConfigError(f"the checkpoints know different things: {first.goal.words} and {other.goal.words}; an "
                              "ensemble needs the same in the same order")
        if other.channels != first.channels:
            raise ConfigError(f"the checkpoints take images of {first.channels} and of {other.channels} channels; "
                              "an ensemble needs the same")
        if _crop(other) != _crop(first):
            raise ConfigError(f"the checkpoints see images by the crops {_crop(first)} and {_crop(other)}; an ensemble "
                              "needs the same")

    def answers(variables: Sequence[Any], images: jax.Array) -> jax.Array:
        each = [c.goal.answers(c.logits(v, images)) for c, v in zip(classifiers, variables, strict=True)]
        return jnp.asarray(sum(each)) / len(each)

    return answers
