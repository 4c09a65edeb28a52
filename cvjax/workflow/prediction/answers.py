"""What a trained network says of one picture: in words, as JSON, as rows of a table, and drawn onto a copy."""

import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np

from cvjax.visualize.annotated import boxed, captioned
from cvjax.visualize.colours import class_colours
from cvjax.visualize.segmentation import paint_labels

TOP = 5  # names in an answer, where nothing else is asked for
LEAST_SCORE = 0.3  # of an object that is reported, where nothing else is asked for or known
_WORDS = 5  # objects or classes that one line names


class Answer(Protocol):
    """What a network says of one picture."""

    COLUMNS: ClassVar[tuple[str, ...]]  # of a table

    def limited(self, top: int | None = None, threshold: float | None = None) -> "Answer":
        """The part of it that is reported. top: at most this many names or objects. threshold: only those of at least
        this probability or score."""
        ...

    def words(self) -> str:
        """It on one line."""
        ...

    def as_json(self) -> dict[str, Any]: ...

    def rows(self) -> list[tuple]:
        """A row of `COLUMNS` for each thing said."""
        ...

    def drawn(self, picture: np.ndarray) -> np.ndarray:
        """A copy of the picture, uint8 `(H, W, 3)`, that shows it."""
        ...


@dataclasses.dataclass(frozen=True)
class Named:
    """A number for each of K names: probabilities of classes or labels, or numbers that are predicted.

    noun: "classes", "labels" or "numbers". values: float32 `(K,)`. least: the probability below which none is named.
    """

    noun: str
    names: tuple[str, ...]
    values: np.ndarray
    least: float | None = None

    COLUMNS: ClassVar[tuple[str, ...]] = ("name", "value")

    def limited(self, top: int | None = None, threshold: float | None = None) -> "Named":
        """The likeliest first: those of at least `threshold`, or the `top` (5) likeliest. Of numbers all, in order."""
        if self.noun == "numbers":
            return self
        order = np.argsort(-self.values, kind="stable")
        if threshold is not None:
            order = order[self.values[order] >= threshold]
        elif top is None:
            top = TOP
        order = order[:top]
        return Named(self.noun, tuple(self.names[k] for k in order), self.values[order], threshold)

    def words(self) -> str:
        if self.noun == "numbers":
            return ", ".join(f"{name} {value:.6g}" for name, value in zip(self.names, self.values, strict=True))
        said = ", ".join(f"{name} {100 * value:.1f} %" for name, value in zip(self.names, self.values, strict=True))
        return said or f"none of {100 * (self.least or 0):g} % or more"

    def as_json(self) -> dict[str, Any]:
        pairs = zip(self.names, map(float, self.values), strict=True)
        if self.noun == "numbers":
            return {"numbers": dict(pairs)}
        return {self.noun: [{"name": name, "probability": value} for name, value in pairs]}

    def rows(self) -> list[tuple]:
        return list(zip(self.names, map(float, self.values), strict=True))

    def drawn(self, picture: np.ndarray) -> np.ndarray:
        """The answer below the picture, a line for each name."""
        lines = [dataclasses.replace(self, names=(name,), values=self.values[[k]]).words()
                 for k, name in enumerate(self.names)]
        return captioned(picture, [(None, line) for line in lines or [self.words()]])


@dataclasses.dataclass(frozen=True)
class Objects:
    """N objects. names: of all classes. boxes: float32 `(N, 4)`, corners x1 y1 x2 y2 in the picture's pixels. scores:
    float32 `(N,)`, descending. labels: int `(N,)`, places in `names`. size: height and width of the picture. least: for
    each class, the score from which on it is reported; () for `LEAST_SCORE`."""

    names: tuple[str, ...]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]
    least: tuple[float, ...] = ()

    COLUMNS: ClassVar[tuple[str, ...]] = ("name", "score", "x1", "y1", "x2", "y2")

    def limited(self, top: int | None = None, threshold: float | None = None) -> "Objects":
        """Those of at least the score `threshold` (by default `least` of their class), and at most `top` of them."""
        least = np.array(self.least or [LEAST_SCORE] * len(self.names), np.float32)[self.labels]
        kept = np.flatnonzero(self.scores >= (least if threshold is None else threshold))[:top]
        return dataclasses.replace(self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept])

    def words(self) -> str:
        count = len(self.scores)
        said = [f"{self.names[label]} {score:.2f}" for label, score in zip(self.labels, self.scores, strict=True)]
        listed = ", ".join(said[:_WORDS]) + ", ..." * (count > _WORDS)
        return f"{count} object{'s' * (count != 1)}{f': {listed}' if count else ''}"

    def as_json(self) -> dict[str, Any]:
        height, width = self.size
        return {"height": height, "width": width, "objects": [
            {"name": self.names[label], "score": float(score), "box": list(map(float, box))}
            for label, score, box in zip(self.labels, self.scores, self.boxes, strict=True)]}

    def rows(self) -> list[tuple]:
        return [(self.names[label], float(score), *map(float, box))
                for label, score, box in zip(self.labels, self.scores, self.boxes, strict=True)]

    def drawn(self, picture: np.ndarray) -> np.ndarray:
        """Each object's box with its class and score."""
        height, width = self.size
        colours = class_colours(len(self.names))[self.labels]
        texts = [f"{self.names[label]} {score:.2f}" for label, score in zip(self.labels, self.scores, strict=True)]
        shares = self.boxes / np.array([width, height, width, height], np.float32)
        return boxed(picture, shares, texts, colours)


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """A class for each pixel. names: of all classes. labels: uint8 `(H, W)`, places in `names`."""

    names: tuple[str, ...]
    labels: np.ndarray

    COLUMNS: ClassVar[tuple[str, ...]] = ("name", "share")

    def limited(self, top: int | None = None, threshold: float | None = None) -> "LabelMap":
        """The whole of it."""
        return self

    def shares(self) -> list[tuple[str, float]]:
        """The classes that occur and their shares of the pixels, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
        order = np.argsort(-counts, kind="stable").tolist()
        return [(self.names[k], float(counts[k] / self.labels.size)) for k in order if counts[k]]

    def words(self) -> str:
        shares = self.shares()
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares[:_WORDS]) + (
            ", ..." * (len(shares) > _WORDS))

    def as_json(self) -> dict[str, Any]:
        height, width = self.labels.shape
        return {"height": height, "width": width,
                "classes": [{"name": name, "share": share} for name, share in self.shares()]}

    def rows(self) -> list[tuple]:
        return list(self.shares())

    def drawn(self, picture: np.ndarray) -> np.ndarray:
        """The classes painted over the picture, and a legend below."""
        painted = paint_labels(picture / np.float32(255), self.labels, self.names)
        colours, numbers = class_colours(len(self.names)), {name: k for k, name in enumerate(self.names)}
        legend = [(colours[numbers[name]], f"{name} {100 * share:.1f} %") for name, share in self.shares()]
        return captioned(np.rint(255 * painted).astype(np.uint8), legend)
