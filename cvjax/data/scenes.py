"""Scenes of handwritten digits, painted in colour on textured grounds: detection and segmentation without a download.

The digits are those of `open_digits`: training scenes use its training part, test scenes its test part. A scene depends
only on the seed, the part and its number. Boxes and label maps are exact, because they are read from the painted
pixels.
"""

import dataclasses
import functools
from typing import Literal

import cv2
import numpy as np

from cvjax.data.boxes.annotations import BoxAnnotations
from cvjax.data.dataset import ArraySource, Dataset, fingerprint
from cvjax.data.sources.digits import open_digits
from cvjax.errors import DataError

Annotations = Literal["boxes", "label_map"]

MOST = 5  # digits in a scene
SMALLEST = 32  # least side of a scene: a digit a sixth as large can still be read

_EMPTY = 0.05  # share of the scenes without a digit
_SIDES = 1 / 6, 1 / 2  # side of a digit, in sides of the scene
_INK = 96  # from this level of 255 on a digit's pixel is painted
_OVERLAP = 0.1  # share of the smaller box that two digits may have in common
_TRIES = 10
_CONTRAST = 110  # distance of a digit's colour from the colours below it, in levels


@dataclasses.dataclass(frozen=True)
class SceneSource:
    """Painted scenes, held in memory. A record has the annotations of one kind.

    Attributes:
        images: uint8 `(N, S, S, 3)`.
        label_maps: uint8 `(N, S, S)`: 0 where no digit is, else its class + 1.
        boxes: float32 `(N, MOST, 4)`, corners around a digit's visible pixels; 0 beyond `counts`.
        box_labels: int32 `(N, MOST)`, classes from 0.
        counts: int `(N,)`, digits of each scene.
        annotations: `boxes` or `label_map`.
    """

    images: np.ndarray
    label_maps: np.ndarray
    boxes: np.ndarray
    box_labels: np.ndarray
    counts: np.ndarray
    annotations: Annotations
    channels: int = 3

    @property
    def labels(self) -> np.ndarray:
        return np.full(len(self.images), -1, np.int32)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:  # of all pixels, which takes a while
        return fingerprint([self.annotations, str(self.images.shape), self.images, self.boxes, self.box_labels])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        record = {"image": self.images[index], "label": -1, "index": int(index)}
        if self.annotations == "label_map":
            return record | {"label_map": self.label_maps[index]}
        count = self.counts[index]
        return record | {"boxes": self.boxes[index, :count], "box_label": self.box_labels[index, :count],
                         "box_difficult": np.zeros(count, bool)}

    def ground_truth(self) -> BoxAnnotations:
        """The boxes of all scenes, by position."""
        there = np.arange(MOST) < self.counts[:, None]
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        return BoxAnnotations(self.boxes[there], self.box_labels[there], np.zeros(int(there.sum()), bool), starts,
                              np.full((len(self), 2), self.images.shape[1], np.int32))

    def name(self, index: int) -> str:
        return f"scene {index}"

    def take(self, positions: np.ndarray) -> "SceneSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, images=self.images[positions], label_maps=self.label_maps[positions],
                                   boxes=self.boxes[positions], box_labels=self.box_labels[positions],
                                   counts=self.counts[positions])


def open_scenes(annotations: Annotations, *, train: int = 2000, test: int = 500, side: int = 96,
                seed: int = 0) -> Dataset:
    """`train` scenes to train on and `test` scenes to test with, of `side` x `side` pixels.

    The classes are the ten digits; for label maps `background` comes first.

    Raises:
        DataError: for another kind of annotations, no scenes, or a side below `SMALLEST`.
    """
    if annotations not in ("boxes", "label_map"):
        raise DataError(f"annotations of scenes are boxes or label_map, got {annotations!r}")
    if train < 1 or test < 1 or side < SMALLEST:
        raise DataError(f"scenes must be at least one in each part and {SMALLEST} pixels wide, got {train} and "
                        f"{test} of {side}")
    digits = open_digits()
    assert isinstance(digits.train, ArraySource) and isinstance(digits.test, ArraySource)
    training = _paint_all(digits.train, annotations, train, side, (seed, 0))
    testing = _paint_all(digits.test, annotations, test, side, (seed, 1))
    background = ("background",) if annotations == "label_map" else ()
    return Dataset(training, testing, background + digits.class_names, 3)


def scene_numbers(text: str) -> dict[str, int]:
    """`train`, `test` and `side` for `open_scenes` from `TRAIN,TEST,SIDE`; nothing, for its defaults, from ""."""
    numbers = text.split(",") if text else []
    if len(numbers) not in (0, 3) or not all(number.isdecimal() for number in numbers):
        raise DataError(f"scenes:{text}: it must be scenes or scenes:TRAIN,TEST,SIDE, three numbers")
    return dict(zip(("train", "test", "side"), map(int, numbers)))


def _paint_all(digits: ArraySource, annotations, count, side, key) -> SceneSource:
    images, label_maps = np.empty((count, side, side, 3), np.uint8), np.empty((count, side, side), np.uint8)
    boxes, labels = np.zeros((count, MOST, 4), np.float32), np.zeros((count, MOST), np.int32)
    counts = np.empty(count, np.int64)
    for i in range(count):
        images[i], label_maps[i], found, classes = paint(np.random.default_rng((*key, i)), digits, side)
        counts[i] = len(found)
        boxes[i, :len(found)], labels[i, :len(found)] = found, classes
    return SceneSource(images, label_maps, boxes, labels, counts, annotations)


def paint(rng: np.random.Generator, digits: ArraySource, side: int) -> tuple[np.ndarray, ...]:
    """One scene: image uint8 `(side, side, 3)`, label map uint8 `(side, side)`, boxes float32 `(n, 4)`, labels int32
    `(n,)`; n is at most `MOST`, and less than the number drawn if a digit found no place.
    """
    image = _ground(rng, side)
    owner = np.zeros((side, side), np.int64)  # the digit that a pixel shows: 1 + its place in `labels`
    places, labels = [], []
    wanted = 0 if rng.random() < _EMPTY else rng.integers(1, MOST + 1)
    for which in rng.integers(len(digits), size=wanted):
        shape = _shape(digits.images[which], round(side * rng.uniform(*_SIDES)))
        place = _place(rng, shape.shape, side, places)
        if place is None:
            continue
        top, left, height, width = place
        window = slice(top, top + height), slice(left, left + width)
        inked = shape >= _INK
        colour = _colour(rng, image[window][inked].mean(0))
        # Thin strokes are fainter, as a pen's are.
        image[window][inked] = colour * (0.7 + 0.3 / 255 * shape[inked][:, None])
        places.append(place)
        labels.append(digits.labels[which])
        owner[window][inked] = len(labels)
    image += rng.integers(-12, 13, image.shape, np.int8)
    label_map = np.array([0, *(label + 1 for label in labels)], np.uint8)[owner]
    return (np.clip(image, 0, 255).astype(np.uint8), label_map, *_visible(owner, np.array(labels, np.int32)))


def _visible(owner, labels):
    """Boxes and labels of the digits that are not completely painted over."""
    boxes = [_tight(owner == number) for number in range(1, len(labels) + 1)]
    seen = np.array([box is not None for box in boxes], bool)
    return np.array([box for box in boxes if box is not None], np.float32).reshape(-1, 4), labels[seen]


def _tight(mask):
    """Corners x1 y1 x2 y2 around the pixels that are True; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else None


def _ground(rng, side):
    """A gradient between two colours with clouds on it, float32 `(side, side, 3)`."""
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    share = np.clip(0.5 + np.cos(angle) * ramp + np.sin(angle) * ramp[:, None], 0, 1)[..., None]
    cells = int(rng.integers(3, 13))
    clouds = rng.normal(0, 22, (cells, cells, 3)).astype(np.float32)
    return first + (second - first) * share + cv2.resize(clouds, (side, side), interpolation=cv2.INTER_CUBIC)


def _shape(digit, size):
    """A digit uint8 `(8, 8, 1)` at `size` x `size` pixels, cut to its ink: float32 `(h, w)` in [0, 255]."""
    large = cv2.resize(digit[..., 0].astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    inked = _tight(large >= _INK)
    assert inked, "a digit has ink"
    left, top, right, bottom = inked
    return np.clip(large[top:bottom, left:right], 0, 255)


def _place(rng, shape, side, others):
    """`(top, left, height, width)` where a digit overlaps the others by little; None if no place was found."""
    height, width = shape
    for _ in range(_TRIES):
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        if all(_common((top, left, height, width), other) <= _OVERLAP for other in others):
            return top, left, height, width
    return None


def _common(first, second):
    """The common area of two boxes `(top, left, height, width)`, as a share of the smaller box."""
    height, width = (min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i]) for i in (0, 1))
    return max(height, 0) * max(width, 0) / min(first[2] * first[3], second[2] * second[3])


def _colour(rng, ground):
    """A colour `(3,)` that stands out from `ground` `(3,)`; if none of ten does, the one that stands out most."""
    colours = rng.uniform(0, 255, (_TRIES, 3)).astype(np.float32)
    distance = np.linalg.norm(colours - ground, axis=1)
    clear = distance >= _CONTRAST
    return colours[clear.argmax() if clear.any() else distance.argmax()]
