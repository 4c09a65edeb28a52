"""The frozen teacher of a distillation, of a run or a published one, and what it sees of the student's images."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.data.augment import denormalize
from cvjax.data.dataset import Dataset
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.interop.hub import HUB
from cvjax.interop.pretrained import default_weights
from cvjax.models import list_models
from cvjax.storage import is_address
from cvjax.tasks.supervised import TEACHER, Ask
from cvjax.tasks.task import outputs_of
from cvjax.workflow.classification.goal import Goal, check_same_goal
from cvjax.workflow.classification.model import Classifier, classifier_of
from cvjax.workflow.config import config_errors
from cvjax.workflow.frozen.encoder import Encoder, load_encoder, published_encoder
from cvjax.workflow.normalization import preprocess
from cvjax.workflow.origin import Origin
from cvjax.workflow.prediction.predictor import ClassifierNetwork
from cvjax.workflow.prediction.published import published_network
from cvjax.workflow.restore import load_run


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A frozen network.

    name: the run's folder, or the name of a published model. answers(variables, images) -> logits or features float32
    `(B, K)` of its own normalised images, in evaluation mode. image_size: side of these images, channels: theirs.
    learnt: the classes of a run's classifier; None for an encoder, and for a published model, whose names for classes
    are not those of a data set.
    """

    name: str
    variables: Any
    answers: Callable[[Any, jax.Array], jax.Array]
    image_size: int
    channels: int
    preprocessing: Preprocessing
    origin: Origin | None
    learnt: Goal | None = None

    @property
    def width(self) -> int:
        """The number of its answers to an image: K."""
        image = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), jnp.float32)
        return jax.eval_shape(self.answers, self.variables, image).shape[1]

    def constants(self) -> dict[str, Any]:
        """What a training step needs of it, see `cvjax.train.state.TrainState`."""
        return {TEACHER: jax.device_get(self.variables)}

    def asked(self, student: Preprocessing) -> Ask:
        """The teacher's answers to images float `(B, H, W, C)` as `student` normalises them.

        It sees the same augmented pictures, mixed ones too, at its own size and with its own statistics.
        """
        return lambda variables, images: self.answers(variables, self.seen(images, student))

    def seen(self, images: jax.Array, student: Preprocessing) -> jax.Array:
        """The teacher's view of images `(B, H, W, C)` of a student; the same bits where both see alike."""
        own = self.preprocessing
        if images.shape[1:3] == (self.image_size,) * 2 and (own.mean, own.std) == (student.mean, student.std):
            return images
        return preprocess(denormalize(images, student.mean, student.std), self.image_size, own)

    def protocol(self) -> dict[str, Any]:
        """What a summary says of it, as JSON."""
        return {"teacher": self.name, "teacher_image_size": self.image_size,
                "teacher_parameters": sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))}


def open_teacher(source: str, weights: str | None, fields: Sequence[str], *, encoder: bool, dtype: str) -> Teacher:
    """The teacher that options describe.

    source: a run's folder or address; or a registered model's name, with timm's tag or without, such as
    `resnet50.a1_in1k`. weights: of that model, a file or hf-hub:OWNER/NAME; None for timm's. fields: of that model.
    encoder: it teaches features; otherwise it must be a classifier. dtype: what it computes in.
    ConfigError for what cannot be read, and for a network of another kind.
    """
    name, _, tag = source.partition(".")
    if name not in list_models():
        if not (Path(source).is_dir() or is_address(source)):
            raise ConfigError(f"--teacher {source}: it must be the folder of a run, or a name from list_models()")
        if weights is not None or fields:
            raise ConfigError(f"--teacher {source} is a run, which has its own weights: leave out --teacher-weights "
                              "and --teacher-fields")
        if encoder:
            return _of_encoder(source, load_encoder(source, "judged"), dtype)
        classifier = classifier_of(load_run(source).require("classifier"))
        return _of_classifier(source, classifier, classifier.origin, classifier.goal, dtype)
    if tag and weights is not None:
        raise ConfigError(f"--teacher {source}: {tag!r} names weights of timm, and --teacher-weights gives others: "
                          "leave one out")
    if weights is None:
        with config_errors():
            weights = f"{HUB}timm/{source}" if tag else default_weights(name)
    with _as_teachers_options():
        if encoder:
            return _of_encoder(name, published_encoder(name, weights, fields=tuple(fields)), dtype)
        network, origin = published_network(name, weights, fields=fields)
    if not isinstance(network, ClassifierNetwork):
        raise ConfigError(f"--teacher {name}: it must be a classifier of images")
    return _of_classifier(name, network.classifiers[0], origin, None, dtype)


def _of_classifier(name: str, classifier: Classifier, origin: Origin | None, learnt: Goal | None,
                   dtype: str) -> Teacher:
    model = classifier.model.clone(dtype=jnp.dtype(dtype))

    def answers(variables: Any, images: jax.Array) -> jax.Array:
        return outputs_of(model, variables, images, train=False).astype(jnp.float32)

    return Teacher(name, classifier.variables, answers, classifier.image_size, classifier.channels,
                   classifier.preprocessing, origin, learnt)


def _of_encoder(name: str, encoder: Encoder, dtype: str) -> Teacher:
    encoder = dataclasses.replace(encoder, model=encoder.model.clone(dtype=jnp.dtype(dtype)), blocks=1)
    return Teacher(name, encoder.variables, encoder.apply, encoder.image_size, encoder.channels, encoder.preprocessing,
                   encoder.origin)


@contextlib.contextmanager
def _as_teachers_options() -> Iterator[None]:
    """Within this context, errors about published weights name the options of the teacher."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for option in ("weights", "model-fields"):
            message = message.replace(f"--{option} ", f"--teacher-{option.removeprefix('model-')} ")
        raise ConfigError(message) from None


def check_taught(teacher: Teacher, dataset: Dataset, data: str, *, classes: bool) -> None:
    """ConfigError unless a teacher can teach a data set; prints what it sees.

    classes: it teaches the data's classes, and must have learnt the same ones.
    """
    if teacher.channels != dataset.channels:
        raise ConfigError(f"--teacher {teacher.name} takes images of {teacher.channels} channel"
                          f"{'s' * (teacher.channels > 1)}, {data} has "
                          f"{dataset.channels}")
    if classes:
        _check_classes(teacher, dataset, data)
    print(f"teacher {teacher.name}: images of {teacher.image_size}x{teacher.image_size}, {teacher.preprocessing}")


def _check_classes(teacher: Teacher, dataset: Dataset, data: str) -> None:
    if teacher.learnt is not None:
        check_same_goal(teacher.learnt, dataset, data)
    elif teacher.width != dataset.num_classes:
        raise ConfigError(f"--teacher {teacher.name} knows {teacher.width} classes, {data} has {dataset.num_classes}: "
                          "they must be the same, in the same order")
    else:
        print(f"the {teacher.width} classes of {teacher.name} are taken to be those of {data}, in the same order; "
              "train/teacher/top1 in metrics.jsonl tells whether they are")
