"""The wiring of object detection: detectors by their models, predictions, average precision, pictures."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.data.augment import normalize
from cvjax.data.decode import decode
from cvjax.data.detection_crops import Letterbox, to_original
from cvjax.data.proposal_records import SplitProposals, with_proposals, without_class
from cvjax.data.proposals import MAX_PROPOSALS, selective_search
from cvjax.evaluate.mean_ap import Curve, Detections, Truth, coco_ap, precision_recall, voc_ap
from cvjax.experiment.classifier import asked, check_model, create_model_or_fail, create_with_fields, load_classifier
from cvjax.experiment.config import ConfigError
from cvjax.experiment.detection_inputs import PARTS, DetectionInputs
from cvjax.experiment.inputs import statistics
from cvjax.experiment.training import finished_run
from cvjax.experiment.transfer import load_pretrained
from cvjax.models.fast_rcnn import FastRCNN
from cvjax.models.faster_rcnn import FasterRCNN
from cvjax.models.yolo import YOLO, YOLOv1
from cvjax.tasks.detection import Detector
from cvjax.tasks.fast_rcnn import fast_rcnn_detector
from cvjax.tasks.faster_rcnn import faster_rcnn_detector
from cvjax.tasks.yolo import yolo_detector
from cvjax.train.checkpoint import read_meta
from cvjax.train.mesh import MeshEngine
from cvjax.train.metrics import examples_of
from cvjax.visualize.boxes import detection_panel
from cvjax.visualize.precision_recall import plot_precision_recall

# Model -> builder(model, *, score_threshold, nms_threshold, max_detections) -> Detector.
DETECTORS: dict[type[nn.Module], Callable[..., Detector]] = {
    FastRCNN: fast_rcnn_detector, FasterRCNN: faster_rcnn_detector, YOLO: yolo_detector, YOLOv1: yolo_detector}

_SHOWN = 6  # test pictures in the figure


def build_model(config: Mapping[str, Any], *, channels: int, num_classes: int) -> nn.Module:
    """The model that a configuration of `experiments.detect` describes; ConfigError for one that cannot be."""
    name, canvas = config["model"], tuple(config["canvas"])
    bare = create_model_or_fail(name)
    if type(bare) not in DETECTORS:
        raise ConfigError(f"--model {name} is no detector: it must be of {', '.join(m.__name__ for m in DETECTORS)}")
    known = {field.name for field in dataclasses.fields(bare)}
    fields = dict(image_size=canvas, in_channels=channels, num_classes=num_classes, dtype=jnp.dtype(config["dtype"]))
    for option in ("remat", "scan", "attention"):
        fields |= asked(option, config[option], name, known)
    model = create_with_fields(name, config["model_fields"], fields)
    check_model(model, name, (*canvas, channels))
    return model


def build_detector(config: Mapping[str, Any], model: nn.Module) -> Detector:
    """A model as the detector that a configuration describes."""
    return DETECTORS[type(model)](model, score_threshold=config["score_threshold"],
                                  nms_threshold=config["nms_threshold"], max_detections=config["max_detections"])


@dataclasses.dataclass(frozen=True)
class ProposalSearch:
    """Where a detector's regions come from: see `selective_search`."""

    mode: str
    max_proposals: int

    def join(self, inputs: DetectionInputs, *, search: bool = True) -> DetectionInputs:
        """The inputs with the regions of all their pictures; without `search` there is room for them alone."""
        dataset = inputs.dataset
        if search:
            dataset = with_proposals(dataset, self.mode, max_proposals=self.max_proposals)
        return dataclasses.replace(inputs, dataset=dataset, max_proposals=self.max_proposals)


def build_search(config: Mapping[str, Any], detector: Detector) -> ProposalSearch | None:
    """How the regions are found that a detector is given; None for one that finds its own.

    ConfigError for options that such a one has no use for.
    """
    mode, count = config["proposals"], config["max_proposals"]
    if "proposals" in detector.needs:
        return ProposalSearch(mode or "fast", count or MAX_PROPOSALS)
    for option, value in (("--proposals", mode), ("--max-proposals", count)):
        if value is not None:
            raise ConfigError(f"{option} {value}: {config['model']} takes no regions from elsewhere; leave it out")
    return None


@dataclasses.dataclass(frozen=True)
class TrainedDetector:
    """A detector with its variables, and what its inputs and outputs mean.

    channels: 1 or 3, of what it takes. search: where its regions come from, if it does not find them itself.
    """

    detector: Detector
    variables: Any
    class_names: tuple[str, ...]
    channels: int
    canvas: tuple[int, int]
    search: ProposalSearch | None = None

    def predict(self, image: bytes | np.ndarray) -> dict[str, np.ndarray]:
        """What is in one photo of any size: a file's bytes, or uint8 `(H, W)` or `(H, W, 1 | 3)`.

        `boxes` float32 `(n, 4)`, corners x1 y1 x2 y2 in the photo's pixels, `score` `(n,)`, falling, and `box_label`
        int `(n,)`, places in `class_names`. DecodeError for what is no image.
        """
        batch = {name: values[None] for name, values in self._example(image).items()}
        found = jax.device_get(self._compiled(self.variables, batch))
        found["boxes"] = to_original(found["boxes"], batch["scale"])
        return {name: found[name][0][found["valid"][0]] for name in ("boxes", "score", "box_label")}

    def found(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `Detector.detect`, of a batch whose `image` is uint8 `(B, H, W, C)` on the canvas."""
        needed = [batch[name] for name in ("extent", *self.detector.needs)]
        return self.detector.detect(variables, normalize(batch["image"], *statistics(self.channels)), *needed)

    def _example(self, image: bytes | np.ndarray) -> dict[str, np.ndarray]:
        """A photo on the canvas, with its regions where the detector is given them."""
        if self.search is None:
            return Letterbox(*self.canvas, 1, channels=self.channels)(image)
        mode, count = self.search.mode, self.search.max_proposals
        regions = without_class(selective_search(decode(image), mode, max_proposals=count))
        crop = SplitProposals(Letterbox(*self.canvas, 1 + count, channels=self.channels), 1, count)
        return crop(image, np.random.default_rng(0), **regions)

    @functools.cached_property
    def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
        return jax.jit(self.found)


def load_detector(run: Path, step: str | int = "judged") -> TrainedDetector:
    """The detector of a run of `experiments.detect`, and errors as `finished_run`, which says what step is."""
    variables, meta = finished_run(run, "detect", step)
    config, names = meta["config"], tuple(meta["class_names"])
    model = build_model(config, channels=meta["channels"], num_classes=len(names))
    detector = build_detector(config, model)
    return TrainedDetector(detector, variables, names, meta["channels"], tuple(config["canvas"]),
                           build_search(config, detector))


def load_start(source: str, model: nn.Module, seed: int) -> dict[tuple[str, ...], Any]:
    """Those of a detector's variables that were learnt before, by path; `put_in` puts them into fresh ones.

    source: a run of detect, of the same model; or weights of its backbone alone: a supervised run's folder, or what
    `load_pretrained` takes. ConfigError for other weights. A classifier's fc6 and fc7 come along to a `FastRCNN` where
    they have its shapes, see `cvjax.models.fast_rcnn.from_classifier`.
    """
    folder = Path(source) / "checkpoints"
    experiment = read_meta(folder).get("experiment") if folder.is_dir() else None
    whole = experiment == "detect"
    if whole:
        learnt = load_detector(Path(source)).variables
    elif experiment == "supervised":
        learnt = load_classifier(Path(source)).variables
    else:
        learnt = load_pretrained(source, model.make_backbone(), seed)
    size = (1, *model.image_size, model.in_channels)
    shapes = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(size, jnp.float32)))
    learnt, given = flatten_dict(learnt), {}
    for path, leaf in shapes.items():
        if not whole and path[1] != "backbone":
            if isinstance(model, FastRCNN) and path[1] in ("fc6", "fc7") and np.shape(learnt.get(path)) == leaf.shape:
                given[path] = learnt[path]
            continue
        theirs = path if whole else (path[0], *path[2:])
        if theirs not in learnt or learnt[theirs].shape != leaf.shape:
            has = f"there it is {learnt[theirs].shape}" if theirs in learnt else "it is not there"
            raise ConfigError(f"--pretrained {source}: the model's {'/'.join(path[1:])} is {leaf.shape}, {has}")
        given[path] = learnt[theirs]
    return given


def put_in(variables: Any, given: Mapping[tuple[str, ...], Any]) -> Any:
    """Variables with those of some paths replaced, see `load_start`."""
    return unflatten_dict(flatten_dict(variables) | dict(given))


def collected(parts: Iterable[Mapping[str, np.ndarray]],
              inputs: DetectionInputs) -> tuple[str, list[Truth], list[Detections]]:
    """What is in the pictures of a part that were read, and what was found there, in pixels of the files.

    parts: what `detection_task` evaluates, by batch. The name of the part comes first.
    """
    rows = list(parts)
    joined = {name: np.concatenate([batch[name] for batch in rows]) for name in rows[0]}
    part = PARTS[int(joined["part"][0])]
    truth = inputs.ground_truth(part)
    truths, detections = [], []
    boxes = to_original(joined["boxes"].astype(np.float64), joined["scale"])
    for row in np.argsort(joined["index"], kind="stable"):
        there, valid = truth[int(joined["index"][row])], joined["valid"][row]
        truths.append(Truth(there["boxes"], there["box_label"], there["box_difficult"]))
        detections.append(Detections(boxes[row][valid], joined["score"][row][valid], joined["box_label"][row][valid]))
    return part, truths, detections


def average_precision(truths: Sequence[Truth], detections: Sequence[Detections],
                      class_names: Sequence[str]) -> dict[str, float]:
    """`ap50` (VOC's area), `ap50_11point`, COCO's `ap` and `ap75`, and `ap50/NAME` of each class that occurs."""
    voc, coco = voc_ap(truths, detections, class_names), coco_ap(truths, detections, class_names)
    if np.isnan(voc.mean):
        raise ConfigError("there is no average precision: the pictures of this part have no objects to be found")
    eleven = voc_ap(truths, detections, class_names, eleven_points=True)
    each = {f"ap50/{name}": float(ap) for name, ap in zip(class_names, voc.per_class) if not np.isnan(ap)}
    return {"ap50": voc.mean, "ap50_11point": eleven.mean, "ap": coco.ap, "ap75": coco.ap75} | each


def summarize(inputs: DetectionInputs) -> Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]]:
    """`summarize` of `detection_task`: average precision of a part of a data set."""
    def summarize(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
        _, truths, detections = collected(parts, inputs)
        return average_precision(truths, detections, inputs.dataset.class_names)

    return summarize


def report(trained: TrainedDetector, inputs: DetectionInputs, folder: Path, part: str = "test") -> None:
    """Write pictures of a part into `folder`: `detections.png` and `precision_recall.png`.

    Boxes are drawn from the score on at which their class has its best F1.
    """
    engine, names = MeshEngine(jax.local_devices()), trained.class_names
    find = engine.compile_evaluation(lambda variables, batch: trained.found(variables, batch)
                                     | {name: batch[name] for name in ("index", "mask", "scale", "part")},
                                     by_example=True)
    outputs = (find(trained.variables, engine.put(batch)) for batch in inputs.eval_batches(part))
    _, truths, detections = collected(examples_of(outputs), inputs)
    curves = [precision_recall(truths, detections, label) for label in range(len(names))]
    plot_precision_recall(folder / "precision_recall.png", curves, names,
                          title=f"{part} split, {len(truths):,} images, IoU of at least 0.5")
    shown = inputs.examples(part, _SHOWN)
    found = jax.device_get(jax.jit(trained.found)(trained.variables, shown))
    detection_panel(folder / "detections.png", shown["image"] / np.float32(255), names, truth=shown, found=found,
                    extent=shown["extent"], least_score=best_scores(curves),
                    title=f"{part} split, {len(truths):,} images; found: from the score of each class's best F1 on")


def best_scores(curves: Sequence[Curve | None]) -> list[float]:
    """Score from which on each class has its best F1; 1 for one that is never found."""
    scores = []
    for curve in curves:
        found = curve is not None and curve.recall.any()
        # F1 is 2 / (1 / precision + 1 / recall).
        f1 = curve.recall * curve.precision / np.maximum(curve.recall + curve.precision, 1e-12) if found else None
        scores.append(float(curve.scores[f1.argmax()]) if found else 1.0)
    return scores


def protocol(inputs: DetectionInputs, config: Mapping[str, Any],
             search: ProposalSearch | None = None) -> dict[str, Any]:
    """The parts `data`, `images` and `test` of a protocol (see `cvjax.evaluate.protocol`)."""
    dataset = inputs.dataset
    tested = 0 if dataset.test is None else len(dataset.test)
    names = ("score_threshold", "nms_threshold", "max_detections")
    given = {"regions": f"selective search ({search.mode}), at most {search.max_proposals}"} if search else {}
    return {"data": {"fingerprint": dataset.fingerprint, "classes": dataset.num_classes,
                     "training_images": len(dataset.train), "test_images": tested},
            "images": {"canvas": list(inputs.canvas), "channels": dataset.channels, "resize": "as large as fits"},
            "test": {name: config[name] for name in names}
            | {"iou": 0.5, "boxes": "pixels of the files", "difficult": "neither asked for nor wrong to find"} | given}
