"""The wiring of R-CNN and SPP-net: a network for regions, their features, SVMs on these, and what they find."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data import ArraySource, BadFiles, Dataset
from cvjax.data.detection_crops import to_original
from cvjax.evaluate.mean_ap import Detections, Truth
from cvjax.evaluate.region_classifiers import RegionClassifiers, Regions, fit_region_classifiers
from cvjax.evaluate.region_features import RegionFeatures
from cvjax.experiment.config import ConfigError, TrainingConfig
from cvjax.experiment.detection_inputs import DetectionInputs
from cvjax.experiment.inputs import Inputs
from cvjax.experiment.run import RunFolder
from cvjax.experiment.training import train
from cvjax.ops.boxes import pairwise_iou
from cvjax.ops.warp import warp_regions
from cvjax.tasks.supervised import supervised_task

METHODS = ("rcnn", "sppnet")


class Network(NamedTuple):
    """A classifier without its head, with its variables."""

    model: nn.Module
    variables: Any
    crop_size: int  # side of what it sees of a region that is warped
    context: int  # of that, pixels around the region on each side


class Example(NamedTuple):
    """One picture on its canvas; boxes are in pixels of that."""

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

    A region that overlaps an object by 0.5 or more has its class + 1, others are background, 0. Up to half of the
    `per_image` of a picture are of objects; objects themselves are among them.
    """
    warp = jax.jit(lambda image, boxes, extent: inputs.displayable(
        warp_regions(inputs.preprocess(image[None])[0], boxes, crop_size, context=context, extent=extent)))
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


def train_network(config: TrainingConfig, model: nn.Module, crops: ArraySource, class_names: tuple[str, ...],
                  folder: RunFolder, stop: Any) -> Any:
    """The variables of a classifier of K + 1 classes that has learnt warped regions; in `folder`, which resumes."""
    dataset = Dataset(crops, None, ("background", *class_names), crops.channels)
    inputs = Inputs(dataset, crops.images.shape[1], config.batch_size, BadFiles(len(crops)))
    task = supervised_task(model, augment=inputs.augment, preprocess=inputs.preprocess)
    trained = train(config, folder, task, inputs, stop, best_metric="top1", best_mode="max",
                    meta={"experiment": "rcnn network"})
    return jax.device_get(trained.variables)


def features_by(method: str, network: Network, inputs: DetectionInputs, chunk: int) -> RegionFeatures:
    """How a method describes the regions of an image uint8: R-CNN `chunk` at a time, SPP-net all of an image.

    ConfigError for a network that pools no regions.
    """
    model = network.model

    def rcnn(variables: Any, images: jax.Array, boxes: jax.Array, extent: jax.Array) -> jax.Array:
        crops = warp_regions(inputs.preprocess(images)[0], boxes[0], network.crop_size, context=network.context,
                             extent=extent[0])
        return model.apply(variables, crops, train=False, method="features")[None]

    def sppnet(variables: Any, images: jax.Array, boxes: jax.Array, extent: jax.Array) -> jax.Array:
        return model.apply(variables, inputs.preprocess(images), boxes, method="region_features")

    if method == "rcnn":
        return RegionFeatures(rcnn, network.variables, chunk)
    if not hasattr(model, "region_features"):
        raise ConfigError(f"--methods sppnet with a {type(model).__name__}: the network must be an SPPNet")
    return RegionFeatures(sppnet, network.variables, None)


def fit(extract: RegionFeatures, inputs: DetectionInputs, *, seed: int) -> RegionClassifiers:
    """SVMs and regressions on the training pictures, whose objects are regions, too."""
    regions, truths = [], []
    for example in examples(inputs, "train"):
        boxes = np.concatenate([example.truth.boxes, example.proposals])
        if len(boxes):
            regions.append(Regions(boxes, extract(example.image, boxes, example.extent), tuple(example.extent)))
            truths.append(example.truth)
    return fit_region_classifiers(regions, truths, inputs.dataset.num_classes, seed=seed)


def find(extract: RegionFeatures, fitted: RegionClassifiers, example: Example) -> Detections:
    """What is in a picture, in pixels of the canvas."""
    features = extract(example.image, example.proposals, example.extent) if len(example.proposals) else np.zeros((0, 1))
    return fitted.detect(Regions(example.proposals, features, tuple(example.extent)))


def judge(extract: RegionFeatures, fitted: RegionClassifiers, inputs: DetectionInputs, part: str
          ) -> tuple[list[Truth], list[Detections], float]:
    """What is in the pictures of a part and what was found, in pixels of the files, and this process's seconds for one.
    """
    truth, truths, found = inputs.ground_truth(part), [], []
    start = None
    for example in examples(inputs, part):
        each = find(extract, fitted, example)
        start = time.process_time() if start is None else start  # the first one compiles
        found.append(each._replace(boxes=to_original(each.boxes, example.scale)))
        known = truth[example.index]
        truths.append(Truth(known["boxes"], known["box_label"], known["box_difficult"]))
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
