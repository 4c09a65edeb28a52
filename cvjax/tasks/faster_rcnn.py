"""Faster R-CNN as a detector: proposals, what they are to learn, and what is found (see `cvjax.models.faster_rcnn`).

Training is the paper's approximate joint one (sec. 3.2), as torchvision's: both heads learn in each step, from
proposals of that step, through whose coordinates no gradient goes. All numbers of boxes are fixed, so that one program
serves any number of objects.

Objects that are marked difficult are not used in training, as by the authors' code: they are no ground truth, and what
covers them is background like everything else.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cvjax.losses.detection import proposal_losses, region_losses
from cvjax.models.faster_rcnn import FasterRCNN
from cvjax.ops.boxes import clip_boxes, decode_boxes, encode_boxes, is_large, to_centres
from cvjax.ops.matching import match_anchors, match_proposals
from cvjax.ops.nms import class_wise_nms
from cvjax.ops.sampling import Sample, balanced_sample
from cvjax.tasks.detection import Detector, Found, Losses
from cvjax.tasks.task import Batch

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second head's codes: 1 / their standard deviations, 0.1 and 0.2


def propose(objectness: jax.Array, codes: jax.Array, anchors: jax.Array, counts: tuple[int, ...], extent: jax.Array, *,
            candidates: int, proposals: int, nms_threshold: float = 0.7, smallest_side: float = 1e-3
            ) -> tuple[jax.Array, jax.Array]:
    """The best boxes of a region proposal network for one image, by falling objectness.

    The best `candidates` of each map are moved, cut to the picture, and suppress each other within their map; the best
    `proposals` of all come out. Anchors whose centres are not in the picture's part of the canvas, and boxes with a
    side below `smallest_side`, take no part.

    Args:
        objectness: logits `(N,)`.
        codes, anchors: `(N, 4)`.
        counts: how many anchors each map has.
        extent: `(2,)`, height and width of the picture's part.

    Returns:
        Boxes `(proposals, 4)`, without a gradient, and which of them are there, bool `(proposals,)`.
    """
    objectness, codes = lax.stop_gradient((objectness, codes))
    objectness = jnp.where(_centred_inside(anchors, extent), objectness, -jnp.inf)
    chosen, start = [], 0
    for count in counts:
        _, best = lax.top_k(objectness[start:start + count], min(candidates, count))
        chosen.append(best + start)
        start += count
    levels = jnp.concatenate([jnp.full(len(best), level, jnp.int32) for level, best in enumerate(chosen)])
    chosen = jnp.concatenate(chosen)
    boxes = clip_boxes(decode_boxes(codes[chosen], anchors[chosen]), extent[0], extent[1])
    scores = objectness[chosen]
    valid = is_large(boxes, smallest_side) & (scores > -jnp.inf)
    kept, found = class_wise_nms(boxes, scores, levels, valid, nms_threshold, proposals)
    return jnp.where(found[:, None], boxes[kept], 0.0), found


def detections(logits: jax.Array, codes: jax.Array, boxes: jax.Array, valid: jax.Array, extent: jax.Array, *,
               score_threshold: float, nms_threshold: float, limit: int, smallest_side: float = 1e-2) -> Found:
    """The best `limit` of what a second head finds in the regions of one image, by falling score.

    Every class moves every region by its own codes and suppresses within itself; boxes are cut to the picture.

    Args:
        logits: `(R, K + 1)`, the background first.
        codes: `(R, K + 1, 4)`.
        boxes: regions `(R, 4)`; valid: bool `(R,)`.
        extent: `(2,)`.

    Returns:
        `boxes` (limit, 4), `score`, `box_label` and `valid` (limit,); zeros where valid is False.
    """
    classes = logits.shape[1] - 1
    scores = jax.nn.softmax(logits)[:, 1:].reshape(-1)
    boxes = clip_boxes(decode_boxes(codes[:, 1:], boxes[:, None], WEIGHTS), extent[0], extent[1]).reshape(-1, 4)
    labels = jnp.tile(jnp.arange(classes, dtype=jnp.int32), len(logits))
    usable = jnp.repeat(valid, classes) & (scores > score_threshold) & is_large(boxes, smallest_side)
    kept, found = class_wise_nms(boxes, scores, labels, usable, nms_threshold, limit)
    result = {"boxes": boxes[kept], "score": scores[kept], "box_label": labels[kept]}
    return {name: jnp.where(found.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for name, x in result.items()} | {
        "valid": found}


def faster_rcnn_detector(model: FasterRCNN, *, beta: float = 1 / 9, score_threshold: float = 0.05,
                         nms_threshold: float = 0.5, max_detections: int = 100) -> Detector:
    """The detector of a model, whose fields say how many boxes there are of each kind; the defaults are torchvision's.

    The losses are `rpn_objectness`, `rpn_boxes`, `roi_classes` and `roi_boxes` (see `cvjax.losses.detection`). Of the
    anchors sampled up to half are positive, of the regions up to a quarter; ground truth is among the regions.

    Args:
        beta: of smooth L1 in both heads; the paper's code has 1 in the second.
        score_threshold: what is found has a score above it.
        nms_threshold: the largest IoU that two boxes of one class have.
        max_detections: of an image.
    """

    def init(rng: jax.Array, images: jax.Array) -> Any:
        return model.init(rng, images)

    def anchor_targets(key: jax.Array, anchors: jax.Array, batch: Batch) -> tuple[Sample, jax.Array]:
        usable = _centred_inside(anchors, batch["extent"])
        if not model.crossing_anchors:
            usable &= (clip_boxes(anchors, *batch["extent"]) == anchors).all(axis=1)
        matches = match_anchors(anchors, batch["boxes"], batch["box_mask"], usable=usable)
        sample = balanced_sample(key, matches.positive, matches.negative, model.sampled_anchors, 0.5)
        return sample, encode_boxes(batch["boxes"][matches.index[sample.index]], anchors[sample.index])

    def region_targets(key: jax.Array, regions: jax.Array, found: jax.Array, batch: Batch
                       ) -> tuple[Sample, jax.Array, jax.Array, jax.Array]:
        regions = jnp.concatenate([regions, batch["boxes"]])
        matches = match_proposals(regions, batch["boxes"], batch["box_mask"],
                                  usable=jnp.concatenate([found, batch["box_mask"]]))
        sample = balanced_sample(key, matches.positive, matches.negative, model.sampled_regions, 0.25)
        row = matches.index[sample.index]
        regions = regions[sample.index]
        return sample, regions, batch["box_label"][row], encode_boxes(batch["boxes"][row], regions, WEIGHTS)

    def losses(params: Any, model_state: Any, images: jax.Array, batch: Batch, key: jax.Array) -> tuple[Losses, Any]:
        truth = {name: batch[name] for name in ("extent", "boxes", "box_label")}
        truth["box_mask"] = batch["box_mask"] & ~batch["box_difficult"]
        keys = jax.random.split(key, (3, len(images)))
        size = images.shape[1:3]

        def both_heads(module: FasterRCNN) -> Losses:
            maps = module.features(images, train=True)
            objectness, codes = module.propose(maps)
            anchors, counts = module.anchors(maps, size)
            sample, targets = jax.vmap(anchor_targets, (0, None, 0))(keys[0], anchors, truth)
            first = proposal_losses(_rows(objectness, sample.index), _rows(codes, sample.index), targets, sample.valid,
                                    sample.positive, beta=beta)
            regions, found = jax.vmap(lambda *each: propose(
                *each[:2], anchors, counts, each[2], candidates=model.candidates[0], proposals=model.proposals[0]))(
                    objectness, codes, truth["extent"])
            sample, regions, labels, targets = jax.vmap(region_targets)(keys[1], regions, found, truth)
            logits, codes = module.classify(maps, regions, size, train=True)
            second = region_losses(logits, codes, labels, targets, sample.valid, sample.positive, beta=beta)
            return dict(zip(("rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes"), (*first, *second)))

        return model.apply({"params": params, **model_state}, method=both_heads, mutable=list(model_state),
                           rngs={"dropout": keys[2, 0]})

    def detect(variables: Any, images: jax.Array, extent: jax.Array) -> Found:
        size = images.shape[1:3]

        def everything(module: FasterRCNN) -> Found:
            maps = module.features(images)
            objectness, codes = module.propose(maps)
            anchors, counts = module.anchors(maps, size)
            regions, found = jax.vmap(lambda *each: propose(
                *each[:2], anchors, counts, each[2], candidates=model.candidates[1], proposals=model.proposals[1]))(
                    objectness, codes, extent)
            logits, codes = module.classify(maps, regions, size)
            return jax.vmap(lambda *each: detections(
                *each, score_threshold=score_threshold, nms_threshold=nms_threshold, limit=max_detections))(
                    logits, codes, regions, found, extent)

        return model.apply(variables, method=everything)

    return Detector(init, losses, detect)


def _rows(values: jax.Array, index: jax.Array) -> jax.Array:
    """`(B, N, ...)` and int `(B, S)` -> `(B, S, ...)`."""
    return jax.vmap(lambda x, rows: x[rows])(values, index)


def _centred_inside(boxes: jax.Array, extent: jax.Array) -> jax.Array:
    """bool `(N,)`: whose centre is in the picture, height and width `extent`, and not in what fills the canvas."""
    centre = to_centres(boxes)[:, :2]
    return ((centre >= 0) & (centre < extent[::-1])).all(axis=1)
