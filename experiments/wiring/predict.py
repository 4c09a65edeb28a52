"""The work of `python -m experiments.predict`; its options are in experiments/predict.py."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cvjax.data.decode import DecodeError, decode
from cvjax.data.picture import Picture, picture_of
from cvjax.errors import ConfigError, DataError
from cvjax.text import printable, write_text
from cvjax.visualize.heatmaps import heatmap_panel
from cvjax.workflow.classification.goal import Regression
from cvjax.workflow.classification.model import Classifier
from cvjax.workflow.classification.report import explanations
from cvjax.workflow.config import require
from cvjax.workflow.folder import check_output, write_summary
from cvjax.workflow.normalization import displayable, preprocess
from cvjax.workflow.origin import Origin
from cvjax.workflow.prediction.answers import Answer, Named
from cvjax.workflow.prediction.files import AnswerFiles
from cvjax.workflow.prediction.pictures import Found, Frame, find, frames
from cvjax.workflow.prediction.predictor import ClassifierNetwork, Network, Predictor, SegmenterNetwork, network_of
from cvjax.workflow.prediction.published import published_network
from cvjax.workflow.preprocessing import chosen
from experiments.predict import Config

BATCH = 8  # pictures that go through the network together, where nothing else is asked for


class Asked(NamedTuple):
    """A picture to ask about: a file, or a frame of one."""

    found: Found
    frame: Frame | None

    @property
    def picture(self) -> Picture:
        return self.frame.picture if self.frame else self.found.path

    def __str__(self) -> str:
        return f"{self.found.path} at {self.frame.seconds:.2f} s" if self.frame else str(self.found.path)


def run(config: Config) -> None:
    """Print or write the answer to each picture, and name unreadable ones; DataError if all of them are."""
    found, left = find(config.images, videos=True)
    if config.output is not None:
        check_output(config.output, *(one.path.parent for one in found))
    network, origins = open_network(config)
    check_options(config, network)
    if left:
        print(printable(f"left out: {left}"))
    unreadable: list[str] = []

    def complain(name: str, error: Exception) -> None:
        unreadable.append(printable(f"{name}: {error.strerror if isinstance(error, OSError) else error}"))
        print(unreadable[-1])

    draws = config.draw and network.channels in (1, 3)
    explained: list[tuple[np.ndarray, np.ndarray]] = []
    count, started = 0, time.perf_counter()
    total = None if any(one.is_video for one in found) else len(found)
    predictor = Predictor(network, config.batch_size or min(BATCH, total or BATCH))
    bar = tqdm(answers(predictor, asked(found, config.every, complain)), unit="image", delay=2, total=total,
               disable=config.output is None)
    with AnswerFiles(config.output or Path(), draws) as files:
        for one, answer in bar:
            if isinstance(answer, Exception):
                complain(str(one), answer)
                continue
            count += 1
            reported = answer.limited(config.top, config.threshold)
            if config.output is None:
                print(printable(f"{one}: {reported.words()}"))
            else:
                picture = decode(picture_of(one.picture), 3) if draws else None
                files.add(one.found, reported, picture, one.frame, every=config.every)
            if config.figure and isinstance(answer, Named):
                explained.append((network.example(picture_of(one.picture))["image"], answer.values))
    seconds = time.perf_counter() - started
    if not count:
        raise DataError(f"none of the {len(found)} images can be read")
    if unreadable:
        print(f"{len(unreadable)} of {count + len(unreadable)} images could not be read")
    if config.output is not None:
        finish(config, predictor.batch_size, count, unreadable, seconds, origins)
        if config.draw and not draws:
            print(f"no copies are drawn of images of {network.channels} channels")
    if count > 1:
        print(f"{count} images in {seconds:.1f} s: {count / seconds:.1f} images/s, compilation included")
    if config.figure:
        assert isinstance(network, ClassifierNetwork)  # see `check_options`
        explain(config.figure, network.classifiers[0], *(np.stack(each) for each in zip(*explained)))


def open_network(config: Config) -> tuple[Network, list[Origin]]:
    """The network that is asked, and what it was read from."""
    if config.weights:
        assert config.model is not None  # checked with the options
        network, origin = published_network(config.model, config.weights, fields=config.model_fields,
                                            image_size=config.image_size, class_names=config.class_names,
                                            options=config)
        return network, [origin]
    network = network_of(config.checkpoint)
    return network.adjusted(partial(chosen, config, channels=network.channels)), network.origins


def check_options(config: Config, network: Network) -> None:
    """ConfigError for options of other kinds of networks."""
    def refuse(what: str, *names: str) -> None:
        for name in names:
            require(getattr(config, name) is None, name, getattr(config, name), f"left out for {what}")

    if not isinstance(network, ClassifierNetwork):
        refuse("networks that see whole pictures", "crop", "interpolation", "figure")
        if isinstance(network, SegmenterNetwork):
            refuse("classes of pixels", "top", "threshold")
    elif isinstance(goal := network.classifiers[0].goal, Regression):
        refuse(f"{goal.words}, which have no probability", "threshold", "figure")


def asked(found: Iterable[Found], every: int, complain: Callable[[str, Exception], None]) -> Iterator[Asked]:
    """Each picture, and of videos each frame to ask about; `complain` is told of videos that cannot be read."""
    for one in found:
        if not one.is_video:
            yield Asked(one, None)
            continue
        try:
            for frame in frames(one.path, every):
                yield Asked(one, frame)
        except (DecodeError, OSError) as error:
            complain(str(one.path), error)


def answers(predictor: Predictor, pictures: Iterator[Asked]) -> Iterator[tuple[Asked, Answer | DecodeError | OSError]]:
    """Each picture with its answer, or with the reason why there is none."""
    named, asked_about = tee(pictures)  # one is at most a batch behind the other
    yield from zip(named, predictor.many(one.picture for one in asked_about), strict=True)


def finish(config: Config, batch_size: int, count: int, unreadable: Sequence[str], seconds: float,
           origins: Sequence[Origin]) -> None:
    """Write what there is to say of all pictures together."""
    assert config.output is not None
    if unreadable:
        write_text(config.output / "unreadable.txt", "\n".join(unreadable) + "\n")
    write_summary(config.output, {"images": count, "unreadable": len(unreadable),
                                  "images_per_second": round(count / seconds, 1)},
                  {"checkpoints": list(config.checkpoint), "model": config.model, "weights": config.weights,
                   "batch_size": batch_size, "top": config.top, "threshold": config.threshold}, origins)


def explain(path: Path, classifier: Classifier, images: np.ndarray, values: np.ndarray) -> None:
    """The heat maps of `cvjax.workflow.classification.report`, over the pictures."""
    seen = preprocess(images, classifier.image_size, classifier.preprocessing)
    classes = values.argmax(axis=1)
    heat = explanations(classifier.model, classifier.variables, seen, classes)
    if not heat:
        raise ConfigError(f"--figure {path}: this classifier has no feature maps to explain its answers by")
    heatmap_panel(path, np.asarray(displayable(seen, classifier.preprocessing)), heat, None, classes,
                  values.max(axis=1), classifier.goal.names)
    print(f"drawn to {path}")
