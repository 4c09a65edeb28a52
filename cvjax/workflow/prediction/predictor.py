"""A trained network as a function of pictures: `load("runs/detect/scenes")("photo.jpg")`."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from cvjax.data.crops import EvaluationCrop
from cvjax.data.decode import DecodeError, LazyImage
from cvjax.data.picture import Picture, picture_of
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.workflow.classification.model import Classifier, classifier_of, ensemble
from cvjax.workflow.detection.model import TrainedDetector, detector_of
from cvjax.workflow.origin import Origin
from cvjax.workflow.prediction.answers import Answer, LabelMap, Named, Objects
from cvjax.workflow.restore import SUPERVISED, load_run
from cvjax.workflow.segmentation.model import Segmenter, segmenter_of

Example = Mapping[str, np.ndarray]
Choose = Callable[[Preprocessing], Preprocessing]


class Network(Protocol):
    """What a kind of network does with a picture."""

    @property
    def variables(self) -> Any: ...

    @property
    def channels(self) -> int:
        """Of its images."""
        ...

    @property
    def origins(self) -> list[Origin]:
        """What its variables were read from, as far as that is known."""
        ...

    def adjusted(self, choose: Choose) -> "Network":
        """The same network, whose images become what `choose` makes of its preprocessing."""
        ...

    def example(self, picture: bytes | np.ndarray) -> Example:
        """The picture as the network sees it, and what `answer` needs of it; DecodeError if it is none."""
        ...

    def outputs(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Outputs for a batch of examples; to be compiled."""
        ...

    def answer(self, outputs: Example, example: Example) -> Answer:
        """The answer, from one example's outputs."""
        ...


@dataclasses.dataclass(frozen=True)
class ClassifierNetwork:
    """Classifiers or regressors, whose answers are averaged; see `ensemble` for what they must share."""

    classifiers: Sequence[Classifier]

    @property
    def variables(self) -> Any:
        return [each.variables for each in self.classifiers]

    @property
    def channels(self) -> int:
        return self.classifiers[0].channels

    @property
    def origins(self) -> list[Origin]:
        return [each.origin for each in self.classifiers if each.origin]

    def adjusted(self, choose: Choose) -> "ClassifierNetwork":
        return ClassifierNetwork([dataclasses.replace(each, preprocessing=choose(each.preprocessing))
                                  for each in self.classifiers])

    def example(self, picture: bytes | np.ndarray) -> Example:
        first = self.classifiers[0]
        side = max(each.image_size for each in self.classifiers)
        return {"image": EvaluationCrop(side, first.channels, first.preprocessing)(picture)}

    def outputs(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"values": ensemble(self.classifiers)(variables, batch["image"])}

    def answer(self, outputs: Example, example: Example) -> Answer:
        goal = self.classifiers[0].goal
        return Named(goal.noun, goal.names, outputs["values"])


@dataclasses.dataclass(frozen=True)
class SegmenterNetwork:
    """A model that gives each pixel a class."""

    segmenter: Segmenter

    @property
    def variables(self) -> Any:
        return self.segmenter.variables

    @property
    def channels(self) -> int:
        return self.segmenter.channels

    @property
    def origins(self) -> list[Origin]:
        return [self.segmenter.origin] if self.segmenter.origin else []

    def adjusted(self, choose: Choose) -> "SegmenterNetwork":
        how = choose(self.segmenter.preprocessing)
        return SegmenterNetwork(dataclasses.replace(self.segmenter, preprocessing=how))

    def example(self, picture: bytes | np.ndarray) -> Example:
        image, size = self.segmenter.padded(picture)
        return {"image": image, "size": np.array(size)}

    def outputs(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"labels": self.segmenter.labels(variables, batch["image"])}

    def answer(self, outputs: Example, example: Example) -> Answer:
        height, width = example["size"]
        return LabelMap(self.segmenter.class_names, outputs["labels"][:height, :width])


@dataclasses.dataclass(frozen=True)
class DetectorNetwork:
    """A model that finds objects."""

    detector: TrainedDetector

    @property
    def variables(self) -> Any:
        return self.detector.variables

    @property
    def channels(self) -> int:
        return self.detector.channels

    @property
    def origins(self) -> list[Origin]:
        return [self.detector.origin] if self.detector.origin else []

    def adjusted(self, choose: Choose) -> "DetectorNetwork":
        how = choose(self.detector.preprocessing)
        return DetectorNetwork(dataclasses.replace(self.detector, preprocessing=how))

    def example(self, picture: bytes | np.ndarray) -> Example:
        with LazyImage(picture, self.detector.channels) as lazy:
            size = lazy.height, lazy.width
        return {**self.detector.example(picture), "size": np.array(size)}

    def outputs(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return self.detector.found(variables, batch)

    def answer(self, outputs: Example, example: Example) -> Answer:
        found, (height, width) = self.detector.objects(outputs, example), example["size"].tolist()
        return Objects(self.detector.class_names, found["boxes"], found["score"], found["box_label"], (height, width),
                       self.detector.least_scores)


class Predictor:
    """A network as a function of pictures, each a path or another form that `picture_of` takes.

    batch_size: pictures that go through the network together. A batch is always filled up to it, so that one program
    serves all and an answer does not hang on how many pictures there are; answers of different batch sizes differ by
    rounding. Photos of different canvases, as segmentation has them, go in batches of their own.
    """

    def __init__(self, network: Network, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: it must be at least 1")
        self.network, self.batch_size = network, batch_size
        self._compiled = jax.jit(network.outputs)

    def __call__(self, picture: Picture) -> Answer:
        """The answer to one picture; DecodeError if it is none, OSError if it cannot be read."""
        answer = next(self.many([picture]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def many(self, pictures: Iterable[Picture]) -> Iterator[Answer | DecodeError | OSError]:
        """The answer to each picture in turn, or the reason why there is none."""
        pictures = iter(pictures)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chunk := list(islice(pictures, self.batch_size)):
                yield from self._answers(list(pool.map(self._example, chunk)))

    def _example(self, picture: Picture) -> Example | DecodeError | OSError:
        try:
            return self.network.example(picture_of(picture))
        except (DecodeError, OSError) as error:
            return error

    def _answers(self, examples: Sequence[Example | DecodeError | OSError]) -> list[Answer | DecodeError | OSError]:
        answers: dict[int, Answer] = {}
        by_shape: dict[tuple[int, ...], dict[int, Example]] = {}
        for place, example in enumerate(examples):
            if not isinstance(example, Exception):
                by_shape.setdefault(example["image"].shape, {})[place] = example
        for alike in by_shape.values():
            rows = list(alike.values())
            rows += rows[:1] * (self.batch_size - len(rows))
            batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            outputs = jax.device_get(self._compiled(self.network.variables, batch))
            for number, (place, example) in enumerate(alike.items()):
                answers[place] = self.network.answer({name: each[number] for name, each in outputs.items()}, example)
        return [example if isinstance(example, Exception) else answers[place] for place, example in enumerate(examples)]


def load(*runs: str | Path, step: str | int = "judged", batch_size: int = 1) -> Predictor:
    """The network of a run as a function of pictures; step and errors as in `load_run`.

    The answers of several runs of experiments.supervised are averaged. batch_size: see `Predictor`.
    """
    return Predictor(network_of(runs, step), batch_size)


def network_of(runs: Sequence[str | Path], step: str | int = "judged") -> Network:
    """What `load` wraps; ConfigError for several runs of which one is no classifier or regressor."""
    read = [load_run(run, step).require(*SUPERVISED, *(("segmenter", "detector") if len(runs) == 1 else ()))
            for run in runs]
    if read[0].kind == "segmenter":
        return SegmenterNetwork(segmenter_of(read[0]))
    if read[0].kind == "detector":
        return DetectorNetwork(detector_of(read[0]))
    network = ClassifierNetwork([classifier_of(run) for run in read])
    ensemble(network.classifiers)  # says what cannot be averaged
    return network
