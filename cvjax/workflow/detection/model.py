"""Detectors: built from options or read from a run, the search for their regions, and their predictions."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.data.boxes.canvas import to_original
from cvjax.data.boxes.crops import Letterbox
from cvjax.data.boxes.proposal_records import SplitProposals, with_proposals, without_class
from cvjax.data.boxes.selective_search import MAX_PROPOSALS, selective_search
from cvjax.data.boxes.short_side import ShortSide
from cvjax.data.decode import decode
from cvjax.data.picture import Picture, picture_of
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError, DataError
from cvjax.models.fast_rcnn import FastRCNN
from cvjax.models.image_model import ImageModel
from cvjax.models.registry import name_of
from cvjax.tasks.detection import DETECTORS, Detector
from cvjax.text import read_text
from cvjax.workflow.classification.model import check_model, create_asked, create_model_or_fail
from cvjax.workflow.config import NetworkOptions
from cvjax.workflow.detection.inputs import DetectionInputs
from cvjax.workflow.normalization import normalized
from cvjax.workflow.origin import Origin
from cvjax.workflow.preprocessing import open_pretrained
from cvjax.workflow.restore import Run, load_run

BEST_SCORES = "best_scores.json"  # among a run's figures: the score at which each class has its best F1


class DetectorOptions(NetworkOptions, Protocol):
    """The options that describe a detector."""

    @property
    def canvas(self) -> tuple[int, int]: ...
    @property
    def score_threshold(self) -> float: ...
    @property
    def nms_threshold(self) -> float: ...
    @property
    def max_detections(self) -> int: ...
    @property
    def proposals(self) -> str | None: ...
    @property
    def max_proposals(self) -> int | None: ...


def build_model(config: DetectorOptions, *, channels: int, num_classes: int) -> ImageModel:
    """The model that a configuration of `experiments.detect` describes; ConfigError if it cannot be built."""
    bare = create_model_or_fail(config.model)
    if type(bare) not in DETECTORS:
        allowed = ", ".join(sorted(model.__name__ for model in DETECTORS))
        raise ConfigError(f"--model {config.model} is no detector: its class must be one of {allowed}")
    model = create_asked(config, bare, image_size=config.canvas, in_channels=channels, num_classes=num_classes)
    check_model(model, config.model, (*config.canvas, channels))
    return model


def build_detector(config: DetectorOptions, model: ImageModel) -> Detector:
    """A model as the detector that a configuration describes."""
    return DETECTORS[type(model)](model, **thresholds(config))


def thresholds(config: DetectorOptions) -> dict[str, Any]:
    """Which detections a detector reports."""
    return {"score_threshold": config.score_threshold, "nms_threshold": config.nms_threshold,
            "max_detections": config.max_detections}


@dataclasses.dataclass(frozen=True)
class ProposalSearch:
    """Where a detector's regions come from: see `selective_search`."""

    mode: str
    max_proposals: int

    def join(self, inputs: DetectionInputs, *, search: bool = True) -> DetectionInputs:
        """The inputs with the regions of all their pictures; without `search`, with only the room for them."""
        dataset = inputs.dataset
        if search:
            dataset = with_proposals(dataset, self.mode, max_proposals=self.max_proposals)
        return dataclasses.replace(inputs, dataset=dataset, max_proposals=self.max_proposals)


def build_search(config: DetectorOptions, detector: Detector) -> ProposalSearch | None:
    """The search for the regions that a detector is given; None for a detector that finds its own.

    ConfigError if options of the search are set for a detector that is given no regions.
    """
    mode, count = config.proposals, config.max_proposals
    if "proposals" in detector.needs:
        return ProposalSearch(mode or "fast", count or MAX_PROPOSALS)
    for option, value in (("--proposals", mode), ("--max-proposals", count)):
        if value is not None:
            raise ConfigError(f"{option} {value}: {config.model} takes no regions from elsewhere; leave it out")
    return None


@dataclasses.dataclass(frozen=True)
class TrainedDetector:
    """A model as a detector with its variables, and what its inputs and outputs mean.

    channels: of its images, 1 or 3. preprocessing: what they become before the detector sees them. canvas: height and
    width of what it sees; None: each picture has a canvas of its own, as torchvision's published weights need (see
    `ShortSide`). search: where its regions come from, if it does not find them itself. sides: see `fitting_scale`.
    least_scores: for each class, the score from which on an object is worth telling; () where that is not known.
    origin: what the variables were read from; None where they were not.
    """

    model: ImageModel
    detector: Detector
    variables: Any
    class_names: tuple[str, ...]
    channels: int
    preprocessing: Preprocessing
    canvas: tuple[int, int] | None
    search: ProposalSearch | None = None
    sides: tuple[int, int] | None = None
    least_scores: tuple[float, ...] = ()
    origin: Origin | None = None

    def predict(self, image: Picture) -> dict[str, np.ndarray]:
        """The objects found in one photo of any size: a path, or another form that `picture_of` takes.

        `boxes` float32 `(n, 4)`, corners x1 y1 x2 y2 in the photo's pixels, `score` `(n,)`, in descending order, and
        `box_label` int `(n,)`, places in `class_names`. DecodeError if the photo is no image, OSError if it
        cannot be read.
        """
        example = self.example(picture_of(image))
        batch = {name: values[None] for name, values in example.items()}
        found = jax.device_get(self._compiled(self.variables, batch))
        return self.objects({name: values[0] for name, values in found.items()}, example)

    def objects(self, found: Mapping[str, np.ndarray], example: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `predict` gives, from one example's part of `found`."""
        boxes = to_original(found["boxes"], example["scale"])
        return {"boxes": boxes[found["valid"]]} | {name: found[name][found["valid"]] for name in ("score", "box_label")}

    def found(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`Detector.detect` on a batch whose `image` is `(B, H, W, C)` in [0, 255] on the canvas."""
        needed = [batch[name] for name in ("extent", *self.detector.needs)]
        return self.detector.detect(variables, normalized(batch["image"], self.preprocessing), *needed)

    def example(self, image: bytes | np.ndarray) -> dict[str, np.ndarray]:
        """A photo on the canvas, with its regions if the detector is given them."""
        if self.canvas is None:
            short, long = self.sides or (ShortSide.short, ShortSide.long)
            return ShortSide(self.preprocessing.mean, short, long, channels=self.channels)(image)
        if self.search is None:
            return self._letterbox(self.canvas, 1)(image)
        mode, count = self.search.mode, self.search.max_proposals
        regions = without_class(selective_search(decode(image), mode, max_proposals=count))
        crop = SplitProposals(self._letterbox(self.canvas, 1 + count), 1, count)
        return crop(image, np.random.default_rng(0), **regions)

    def _letterbox(self, canvas: tuple[int, int], rows: int) -> Letterbox:
        return Letterbox(*canvas, rows, channels=self.channels, sides=self.sides)

    @functools.cached_property
    def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
        return jax.jit(self.found)


def load_detector(path: str | Path, step: str | int = "judged") -> TrainedDetector:
    """The detector of a run; step and errors as in `load_run`."""
    return detector_of(load_run(path, step).require("detector"))


def detector_of(run: Run) -> TrainedDetector:
    """The detector of a run that has been read; its least scores are those of the best F1 on the test part."""
    detector = DETECTORS[type(run.model)](run.model, **run.facts["thresholds"])
    search = run.facts["search"] and ProposalSearch(**run.facts["search"])
    sides = run.facts.get("sides")
    return TrainedDetector(run.model, detector, run.variables, run.class_names, run.channels, run.preprocessing,
                           run.image_size, search, sides and tuple(sides), _least_scores(run), run.origin)


def _least_scores(run: Run) -> tuple[float, ...]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, DataError):  # it is no part of what was trained
        scores = json.loads(read_text(run.path / "figures" / BEST_SCORES))
        return tuple(float(scores[name]) for name in run.class_names)
    return ()


@dataclasses.dataclass(frozen=True)
class Start:
    """What a detector starts from: a whole detector's variables, or those of its backbone.

    learnt(backbone, seed) -> the variables.
    """

    source: str
    whole: bool
    learnt: Callable[[ImageModel, int], Any]
    preprocessing: Preprocessing
    origin: Origin


def open_start(source: str, name: str) -> Start:
    """The start of the registered detector `name`; prints what its images become.

    source: a run of detect with the same model; or weights of only its backbone: a supervised run's folder, or anything
    that `open_pretrained` takes.
    """
    run = load_run(source) if (Path(source) / "checkpoints").is_dir() else None
    if run is not None and run.kind in ("detector", "classifier"):
        print(f"images: {run.preprocessing}, as in {source}")
        return Start(source, run.kind == "detector", lambda backbone, seed: run.variables, run.preprocessing,
                     run.origin)
    pretrained = open_pretrained(source, lambda: name_of(create_model_or_fail(name).make_backbone()))
    return Start(source, False, pretrained.variables, pretrained.preprocessing, pretrained.origin)


def load_start(start: Start, model: ImageModel, seed: int) -> dict[tuple[str, ...], Any]:
    """A detector's variables that are already learnt, by path; `put_in` puts them into fresh ones.

    ConfigError for weights that do not fit. A `FastRCNN` also takes a classifier's fc6 and fc7 if their shapes agree,
    see `cvjax.models.fast_rcnn.from_classifier`.
    """
    whole, source, learnt = start.whole, start.source, start.learnt(model.make_backbone(), seed)
    size = (1, *model.image_size, model.in_channels)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(size, jnp.float32))
    learnt, given = _by_path(learnt), {}
    for path, leaf in _by_path(shapes).items():
        if not whole and path[1] != "backbone":
            known = learnt.get(path) if isinstance(model, FastRCNN) and path[1] in ("fc6", "fc7") else None
            if known is not None and known.shape == leaf.shape:
                given[path] = known
            continue
        theirs = path if whole else (path[0], *path[2:])
        if theirs not in learnt or learnt[theirs].shape != leaf.shape:
            has = f"the weights' is {learnt[theirs].shape}" if theirs in learnt else "the weights lack it"
            raise ConfigError(f"--pretrained {source}: the model's {'/'.join(path[1:])} is {leaf.shape}, {has}")
        given[path] = learnt[theirs]
    return given


def _by_path(variables: Any) -> dict[tuple[str, ...], Any]:
    """`flatten_dict`, whose leaves flax types as if they could be dicts."""
    return cast(dict[tuple[str, ...], Any], flatten_dict(variables))


def put_in(variables: Any, given: Mapping[tuple[str, ...], Any]) -> Any:
    """Variables with some of them replaced, by path; see `load_start`."""
    return unflatten_dict(flatten_dict(variables) | dict(given))
