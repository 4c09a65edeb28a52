"""What a network learns of an image: its class, its labels, or numbers. Each has its loss, its answers and its tables.

A goal follows from the data set, goes into a run's checkpoints by its kind, its names and its facts, and is read back
from them.
"""

import abc
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.dataset import Dataset
from cvjax.errors import ConfigError
from cvjax.evaluate.calibration import expected_calibration_error, negative_log_likelihood, reliability
from cvjax.evaluate.confusion import class_table, confusion_matrix
from cvjax.evaluate.multi_label import average_precision, label_table, multi_label_scores
from cvjax.evaluate.regression import regression_scores, regression_table
from cvjax.losses.classification import binary_cross_entropy, top_k_correct
from cvjax.losses.regression import absolute_error, squared_error
from cvjax.text import printable, write_text
from cvjax.visualize.average_precision import plot_average_precision
from cvjax.visualize.confusion import plot_confusion
from cvjax.visualize.predictions import plot_predictions
from cvjax.visualize.reliability import plot_reliability
from cvjax.workflow.classification.augmentation import criterion
from cvjax.workflow.classification.options import AugmentationConfig
from cvjax.workflow.config import require
from cvjax.workflow.restore import Kind, Run


@dataclasses.dataclass(frozen=True)
class Goal(abc.ABC):
    """What the K outputs of a network stand for. names: one for each of them.

    best_metric, best_mode: by which a training chooses its checkpoint. compared_by: the one of `scores` by which
    networks are compared, of which more is better.
    """

    names: tuple[str, ...]

    kind: ClassVar[Kind]
    noun: ClassVar[str]
    compared_by: ClassVar[str]
    best_metric: ClassVar[str]
    best_mode: ClassVar[Literal["min", "max"]] = "max"

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps besides kind and names, as JSON."""
        return {}

    @property
    def words(self) -> str:
        """The names in a message."""
        return _in_words(type(self), self.names)

    @property
    def _shown(self) -> list[str]:
        """The names in a table."""
        return list(map(printable, self.names))

    @abc.abstractmethod
    def learning(self, config: AugmentationConfig) -> dict[str, Any]:
        """Options of `supervised_task`; ConfigError for options of other goals."""

    @abc.abstractmethod
    def answers(self, outputs: jax.Array) -> jax.Array:
        """Outputs `(B, K)` of a network as what a person reads: probabilities, or numbers in their own units."""

    @abc.abstractmethod
    def scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The metrics of answers `(N, K)` to images with these labels, by name."""

    def scores_of_outputs(self, outputs: Any, labels: np.ndarray) -> dict[str, float]:
        """The metrics of a network's outputs `(N, K)`, by name."""
        return self.scores(np.asarray(self.answers(outputs)), labels)

    @abc.abstractmethod
    def write(self, folder: Path, answers: np.ndarray, labels: np.ndarray, title: str) -> None:
        """Write tables and pictures of answers `(N, K)` to images with these labels."""


@dataclasses.dataclass(frozen=True)
class Classification(Goal):
    """One of several classes."""

    kind: ClassVar[Kind] = "classifier"
    noun: ClassVar[str] = "classes"
    compared_by: ClassVar[str] = "top1"
    best_metric: ClassVar[str] = "top1"

    def learning(self, config: AugmentationConfig) -> dict[str, Any]:
        require(config.criterion in (None, "softmax", "bce"), "criterion", config.criterion,
                "softmax or bce for classes")
        return {"label_smoothing": config.label_smoothing, "criterion": criterion(config)}

    def answers(self, outputs: jax.Array) -> jax.Array:
        return jax.nn.softmax(outputs)

    def scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """`top1`, `top5` (from six classes on), `nll` and `ece` of class probabilities `(N, K)`."""
        found = {f"top{k}": float(np.asarray(top_k_correct(answers, labels, k)).mean(dtype=np.float64))
                 for k in (1, 5) if k < answers.shape[1]}
        return found | {"nll": negative_log_likelihood(answers, labels),
                        "ece": expected_calibration_error(answers, labels)}

    def write(self, folder: Path, answers: np.ndarray, labels: np.ndarray, title: str) -> None:
        """Write `classes.txt` (precision, recall and F1 of each class), `confusion.png` and `reliability.png`."""
        matrix = confusion_matrix(labels, answers.argmax(axis=1), len(self.names))
        write_text(folder / "classes.txt", class_table(matrix, self._shown) + "\n")
        plot_confusion(folder / "confusion.png", matrix, self.names, title=f"{title}: true class by row")
        plot_reliability(folder / "reliability.png", *reliability(answers, labels), title=title)


@dataclasses.dataclass(frozen=True)
class MultiLabel(Goal):
    """Any number of labels."""

    kind: ClassVar[Kind] = "multi_label_classifier"
    noun: ClassVar[str] = "labels"
    compared_by: ClassVar[str] = "map"
    best_metric: ClassVar[str] = "map"

    def learning(self, config: AugmentationConfig) -> dict[str, Any]:
        """Mixup and CutMix mix the targets of each label, as for classes with the criterion bce."""
        require(config.criterion in (None, "bce"), "criterion", config.criterion, "bce for images with several labels")
        require(config.label_smoothing == 0, "label_smoothing", config.label_smoothing,
                "0 for images with several labels, which share no probability")
        return {"criterion": partial(binary_cross_entropy, threshold=config.bce_threshold),
                "scores": self.scores_of_outputs}

    def answers(self, outputs: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(outputs)

    def scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return multi_label_scores(answers, labels)

    def write(self, folder: Path, answers: np.ndarray, labels: np.ndarray, title: str) -> None:
        """Print and write `labels.txt` (AP, precision, recall and F1 of each label); write `average_precision.png`."""
        _print_and_write(folder / "labels.txt", label_table(answers, labels, self._shown))
        plot_average_precision(folder / "average_precision.png", average_precision(answers, labels),
                               labels.sum(axis=0).astype(int), self.names, title=title)


@dataclasses.dataclass(frozen=True)
class Regression(Goal):
    """Numbers. The network learns how many deviations `std` each is above its `mean`, both of the training part."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    kind: ClassVar[Kind] = "regressor"
    noun: ClassVar[str] = "numbers"
    compared_by: ClassVar[str] = "r2"  # errors of several columns have no common unit
    best_metric: ClassVar[str] = "loss"
    best_mode: ClassVar[Literal["min", "max"]] = "min"

    @classmethod
    def of(cls, names: Sequence[str], labels: np.ndarray) -> "Regression":
        """The goal of a training part; ConfigError for numbers `(N, K)` that float32 does not tell apart."""
        mean, std = labels.mean(axis=0, dtype=np.float64), labels.std(axis=0, dtype=np.float64)
        for name, column, deviation in zip(names, labels.T, std, strict=True):
            if (column == column[0]).all():
                raise ConfigError(f"all training images have {column[0]:g} in the column {name}: nothing to learn")
            if np.spacing(np.abs(column).max()) > 1e-3 * deviation:
                raise ConfigError(f"the column {name} has a deviation of {deviation:.3g}, which is lost in float32 "
                                  f"beside {column[0]:.9g}: subtract a number from the column")
        return cls(tuple(names), tuple(mean.tolist()), tuple(std.tolist()))

    @property
    def facts(self) -> dict[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std)}

    def learning(self, config: AugmentationConfig) -> dict[str, Any]:
        """Mixup mixes numbers linearly, as its paper mixes targets. The area of CutMix says nothing about them."""
        require(config.criterion in (None, "l1", "l2"), "criterion", config.criterion, "l1 or l2 for numbers")
        for name in ("label_smoothing", "cutmix"):
            require(getattr(config, name) == 0, name, getattr(config, name), "0 for numbers, which are no classes")
        error = absolute_error if config.criterion == "l1" else squared_error
        mean, std = self._float32()
        return {"criterion": lambda outputs, targets: error(outputs, (targets - mean) / std),
                "scores": self.scores_of_outputs}

    def answers(self, outputs: jax.Array) -> jax.Array:
        mean, std = self._float32()
        return outputs.astype(jnp.float32) * std + mean

    def _float32(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    def scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return regression_scores(answers, labels)

    def write(self, folder: Path, answers: np.ndarray, labels: np.ndarray, title: str) -> None:
        """Print and write `numbers.txt` (MAE, RMSE and R2 of each column); write `predictions.png`."""
        _print_and_write(folder / "numbers.txt", regression_table(answers, labels, self._shown))
        plot_predictions(folder / "predictions.png", labels, answers, self.names, title=title)


def _taught(dataset: Dataset) -> tuple[type[Goal], tuple[str, ...]]:
    if dataset.targets is None:
        return Classification, dataset.class_names
    return {"labels": MultiLabel, "numbers": Regression}[dataset.targets.kind], dataset.targets.names


def goal_of(dataset: Dataset) -> Goal:
    """What a data set's training part teaches."""
    kind, names = _taught(dataset)
    if kind is Regression:
        assert dataset.train.labels is not None  # a list says them before an image is read
        return Regression.of(names, dataset.train.labels)
    return kind(names)


def goal_of_run(run: Run) -> Goal:
    """What a run's network learnt."""
    if run.kind == Regression.kind:
        return Regression(run.class_names, tuple(run.facts["mean"]), tuple(run.facts["std"]))
    return (MultiLabel if run.kind == MultiLabel.kind else Classification)(run.class_names)


def check_judged(dataset: Dataset, part: str) -> None:
    """ConfigError for a part of several labels per image in which none has any: nothing can be judged by it."""
    source = getattr(dataset, part)
    if source is not None and dataset.targets is not None and dataset.targets.kind == "labels":
        if not source.labels.any():
            raise ConfigError(f"no image of the {part} part has a label: there is nothing to judge by")


def check_same_goal(goal: Goal, dataset: Dataset, data: str) -> None:
    """ConfigError unless a data set has the classes, labels or numbers of a goal. data: its name in the message."""
    kind, names = _taught(dataset)
    if (type(goal), goal.names) != (kind, names):
        raise ConfigError(f"the checkpoint knows {goal.words}, {data} has {_in_words(kind, names)}: they must be the "
                          "same, in the same order")


def _in_words(kind: type[Goal], names: Sequence[str]) -> str:
    return f"{len(names)} {kind.noun} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"


def _print_and_write(path: Path, table: str) -> None:
    print(f"\n{table}\n")
    write_text(path, table + "\n")
