"""R-CNN and SPP-net: a network for regions, its features of them, SVMs on these, and the objects that they find."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes.canvas import to_original
from cvjax.data.dataset import ArraySource, Dataset
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError, DataError
from cvjax.evaluate.mean_ap import Detections, Truth
from cvjax.evaluate.region_classifiers import RegionClassifiers, Regions, fit_region_classifiers
from cvjax.evaluate.region_features import RegionFeatures
from cvjax.models.image_model import ImageModel
from cvjax.models.sppnet import SPPNet
from cvjax.ops.boxes import pairwise_iou
from cvjax.ops.warp import warp_regions
from cvjax.tasks.supervised import supervised_task
from cvjax.tasks.task import outputs_of
from cvjax.train.preemption import StopRequest
from cvjax.workflow.config import TrainingConfig
from cvjax.workflow.detection.inputs import DetectionInputs
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.normalization import displayable
from cvjax.workflow.prepared import prepare_training
from cvjax.workflow.restore import record_of
from cvjax.workflow.training import train

METHODS = ("rcnn", "sppnet")


class Network(NamedTuple):
    """A classifier without its head, with its variables."""

    model: ImageModel
    variables: Any
    crop_size: int  # side of a warped region, in pixels
    context: int  # how many of these pixels lie around the region, on each side
    preprocessing: Preprocessing  # of the pictures that it sees


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture on its canvas; boxes are in the canvas's pixels."""

    index: int
    image: np.ndarray  # uint8 (H, W, C)
    extent: np.ndarray
    scale: np.ndarray
    proposals: np.ndarray
    truth: Truth


def examples(inputs: DetectionInputs, part: str) -> Iterator[Example]:
    """The readable pictures of a part, in order."""
    for batch in inputs.eval_batches(part):
        for row in np.flatnonzero(batch["mask"]):
            there = batch["box_mask"][row]
            truth = Truth(*(batch[name][row][there] for name in ("boxes", "box_label", "box_difficult")))
            yield Example(int(batch["index"][row]), batch["image"][row], batch["extent"][row], batch["scale"][row],
                          batch["proposals"][row][batch["proposal_mask"][row]], truth)


def region_crops(inputs: DetectionInputs, *, crop_size: int, context: int, per_image: int, seed: int) -> ArraySource:
    """Warped regions of the training pictures, labelled as R-CNN's network learns them (sec. 2.3).

    A region that overlaps an object by 0.5 or more is labelled with the object's class + 1; other regions are
    background, 0. Each picture gives up to `per_image` regions, of which at most half show objects. The boxes of the
    objects themselves count as regions, too.
    """
    warp = jax.jit(lambda image, boxes, extent: displayable(
        warp_regions(inputs.preprocess(image[None])[0], boxes, crop_size, context=context, extent=extent),
        inputs.preprocessing))
    overlap = jax.jit(pairwise_iou)
    images, labels = [], []
    for example in examples(inputs, "train"):
        rng = np.random.default_rng((seed, example.index))
        regions = np.concatenate([example.truth.boxes, example.proposals])
        if not len(regions):
            continue
        objects = np.zeros((inputs.max_boxes, 4), np.float32)
        objects[:len(example.truth.boxes)] = example.truth.boxes
        rows = np.pad(regions, ((0, inputs.max_boxes + inputs.max_proposals - len(regions)), (0, 0)))
        overlaps = np.asarray(overlap(rows, objects))[:len(regions)]
        label = np.where(overlaps.max(1) >= 0.5, np.append(example.truth.labels + 1, 0)[overlaps.argmax(1)]
                         if len(example.truth.labels) else 0, 0)
        positive, negative = (rng.permutation(np.flatnonzero(kind)) for kind in (label > 0, label == 0))
        positive = positive[:per_image // 2]
        chosen = np.concatenate([positive, negative[:per_image - len(positive)]])
        boxes = np.zeros((per_image, 4), np.float32)
        boxes[:len(chosen)] = regions[chosen]
        crops = np.asarray(warp(example.image, boxes, example.extent))[:len(chosen)]
        images.append(np.round(crops * 255).astype(np.uint8))
        labels.append(label[chosen])
    return ArraySource(np.concatenate(images), np.concatenate(labels).astype(np.int32))


def train_network(config: TrainingConfig, model: ImageModel, crops: ArraySource, class_names: tuple[str, ...],
                  preprocessing: Preprocessing, folder: RunFolder, stop: StopRequest) -> Any:
    """The variables of a classifier of K + 1 classes that has learnt warped regions. A stopped training resumes from
    `folder`."""
    dataset = Dataset(crops, None, ("background", *class_names), crops.channels)
    inputs = ImageInputs(dataset, crops.images.shape[1], config.batch_size, BadFiles(len(crops)), preprocessing)
    task = supervised_task(model, augment=inputs.augment, preprocess=inputs.preprocess)
    prepared = prepare_training(config, task, inputs, best_metric="top1", best_mode="max",
                                output_modules=model.output_modules,
                                meta=record_of("rcnn network", config, "classifier", model,
                                               image_size=(inputs.image_size, inputs.image_size),
                                               channels=dataset.channels, preprocessing=preprocessing,
                                               class_names=dataset.class_names, validated=False))
    trained = train(prepared, folder, stop)
    assert trained is not None, "R-CNN's network trains in one process"
    return jax.device_get(trained.variables)


def features_by(method: str, network: Network, inputs: DetectionInputs, chunk: int) -> RegionFeatures:
    """The features by which a method describes regions of a uint8 image: R-CNN `chunk` at a time, SPP-net all at once.

    ConfigError for a network that pools no regions.
    """
    model = network.model

    def rcnn(variables: Any, images: jax.Array, boxes: jax.Array, extent: jax.Array) -> jax.Array:
        crops = warp_regions(inputs.preprocess(images)[0], boxes[0], network.crop_size, context=network.context,
                             extent=extent[0])
        return outputs_of(model, variables, crops, train=False, method="features")[None]

    def sppnet(variables: Any, images: jax.Array, boxes: jax.Array, extent: jax.Array) -> jax.Array:
        return outputs_of(model, variables, inputs.preprocess(images), boxes, method="region_features")

    if method == "rcnn":
        return RegionFeatures(rcnn, network.variables, chunk)
    if not isinstance(model, SPPNet):
        raise ConfigError(f"--methods sppnet with a {type(model).__name__}: the network must be an SPPNet")
    return RegionFeatures(sppnet, network.variables, None)


def fit(extract: RegionFeatures, inputs: DetectionInputs, *, seed: int) -> RegionClassifiers:
    """SVMs and regressions fitted to regions of the training pictures; the objects' boxes count as regions, too."""
    regions, truths = [], []
    for example in examples(inputs, "train"):
        boxes = np.concatenate([example.truth.boxes, example.proposals])
        if len(boxes):
            regions.append(Regions(boxes, extract(example.image, boxes, example.extent.tolist()),
                                   tuple(example.extent)))
            truths.append(example.truth)
    return fit_region_classifiers(regions, truths, inputs.dataset.num_classes, seed=seed)


def find(extract: RegionFeatures, fitted: RegionClassifiers, example: Example) -> Detections:
    """The objects found in a picture, in pixels of the canvas."""
    features = np.zeros((0, 1))
    if len(example.proposals):
        features = extract(example.image, example.proposals, example.extent.tolist())
    return fitted.detect(Regions(example.proposals, features, tuple(example.extent)))


def judge(extract: RegionFeatures, fitted: RegionClassifiers, inputs: DetectionInputs, part: str
          ) -> tuple[list[Truth], list[Detections], float]:
    """The true and the found objects in the pictures of a part, in pixels of the files; and CPU seconds per picture."""
    truth, truths, found = inputs.ground_truth(part), [], []
    start = None
    for example in examples(inputs, part):
        each = find(extract, fitted, example)
        start = time.process_time() if start is None else start  # the first one compiles
        found.append(each._replace(boxes=to_original(each.boxes, example.scale)))
        known = truth[example.index]
        truths.append(Truth(known["boxes"], known["box_label"], known["box_difficult"],
                            truth.areas_of(example.index)))
    if start is None:
        raise DataError(f"no picture of the {part} part can be read")
    return truths, found, (time.process_time() - start) / max(len(found) - 1, 1)


def proposal_recall(inputs: DetectionInputs, part: str, threshold: float = 0.5) -> float:
    """Share of the objects of a part that a proposal overlaps by `threshold` or more; difficult ones are left out."""
    hits, total = 0, 0
    for example in examples(inputs, part):
        boxes = example.truth.boxes[~example.truth.difficult]
        total += len(boxes)
        if len(boxes) and len(example.proposals):
            rows = np.zeros((inputs.max_proposals, 4), np.float32)
            rows[:len(example.proposals)] = example.proposals
            objects = np.pad(boxes, ((0, inputs.max_boxes - len(boxes)), (0, 0)))
            hits += int((np.asarray(_overlap(objects, rows)).max(1)[:len(boxes)] >= threshold).sum())
    return hits / max(total, 1)


_overlap = jax.jit(lambda a, b: pairwise_iou(jnp.asarray(a), jnp.asarray(b)))
