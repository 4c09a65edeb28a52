"""Faster R-CNN as a detector: proposals, their targets, losses, and detections (see `cvjax.models.faster_rcnn`).

Ren et al. 2015, https://arxiv.org/abs/1506.01497. Training is the paper's approximate joint training (sec. 3.2), which
torchvision uses too: both heads learn in each step. The second head learns from proposals of that step, and no gradient
passes through their coordinates. All numbers of boxes are fixed, so one program serves any number of objects.

As in the authors' code, training ignores objects that are marked difficult: they are not ground truth, and a region
that covers one is background.
"""

from functools import partial
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
from cvjax.tasks.detection import Detector, Found, Losses, detector_of
from cvjax.tasks.task import Batch, outputs_of

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second head's codes: 1 / standard deviation, which is 0.1 or 0.2


def propose(objectness: jax.Array, codes: jax.Array, anchors: jax.Array, counts: tuple[int, ...], extent: jax.Array, *,
            candidates: int, proposals: int, nms_threshold: float = 0.7, smallest_side: float = 1e-3,
            least_side: jax.Array | None = None, padding: bool = False) -> tuple[jax.Array, jax.Array]:
    """The best boxes of a region proposal network for one image, highest objectness first.

    The best `candidates` anchors of each map are moved by their codes and cut to the picture. Non-maximum suppression
    works within each map, and the best `proposals` of all maps are returned. Anchors whose centre lies outside the
    picture, and boxes with a side below `smallest_side`, are left out.

    Args:
        objectness: logits `(N,)`.
        codes, anchors: `(N, 4)`.
        counts: number of anchors of each map.
        extent: `(2,)`, height and width of the picture within the canvas.
        least_side: `()`; boxes with a shorter side are left out before the best candidates are taken, as in the paper's
            code, not after it, as torchvision does with `smallest_side`. None: there is no such limit.
        padding: whether anchors whose centre lies outside the picture count, too.

    Returns:
        Boxes `(proposals, 4)`, without a gradient, and bool `(proposals,)`, False on rows that are padding.
    """
    objectness, codes = lax.stop_gradient((objectness, codes))
    if not padding:
        objectness = jnp.where(_centred_inside(anchors, extent), objectness, -jnp.inf)
    if least_side is not None:
        moved = clip_boxes(decode_boxes(codes, anchors), extent[0], extent[1])
        objectness = jnp.where(is_large(moved, least_side), objectness, -jnp.inf)
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
    """The best `limit` detections of the second head in one image, highest score first.

    Each class moves each region by its own codes. Boxes are cut to the picture, and non-maximum suppression works
    within each class.

    Args:
        logits: `(R, K + 1)`, the background first.
        codes: `(R, K + 1, 4)`.
        boxes: regions `(R, 4)`.
        valid: bool `(R,)`, False on regions that are padding.
        extent: `(2,)`, height and width of the picture within the canvas.

    Returns:
        `boxes` (limit, 4), `score`, `box_label` and `valid` (limit,); zeros where `valid` is False.
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


@detector_of(FasterRCNN)
def faster_rcnn_detector(model: FasterRCNN, *, score_threshold: float = 0.05, nms_threshold: float = 0.5,
                         max_detections: int = 100) -> Detector:
    """The detector of a model, whose fields give the numbers of anchors and regions. The defaults are torchvision's.

    `detect` takes `scale` (B,), canvas pixels per pixel of the file, if the model has a `smallest_proposal`.

    The losses are `rpn_objectness`, `rpn_boxes`, `roi_classes` and `roi_boxes` (see `cvjax.losses.detection`). At most
    half of the sampled anchors and a quarter of the sampled regions are positive. The ground truth joins the regions.

    Args:
        score_threshold: detections have a score above it.
        nms_threshold: largest IoU of two detections of one class.
        max_detections: most detections per image.
    """

    def init(rng: jax.Array, images: jax.Array) -> Any:
        return model.init(rng, images)

    def best_proposals(objectness: jax.Array, codes: jax.Array, anchors: jax.Array, counts: tuple[int, ...],
                       extent: jax.Array, scale: jax.Array | None, place: int) -> tuple[jax.Array, jax.Array]:
        """`propose` for each image of a batch; place: 0 in training, 1 in evaluation."""
        def of_one(objectness: jax.Array, codes: jax.Array, extent: jax.Array, scale: jax.Array | None
                   ) -> tuple[jax.Array, jax.Array]:
            return propose(objectness, codes, anchors, counts, extent, candidates=model.candidates[place],
                           proposals=model.proposals[place], padding=place == 1 and model.padding_proposes,
                           least_side=None if scale is None else model.smallest_proposal * scale)

        return jax.vmap(of_one)(objectness, codes, extent, scale)

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
        size = images.shape[1], images.shape[2]

        def both_heads(module: FasterRCNN) -> Losses:
            maps = module.features(images, train=True)
            objectness, codes = module.propose(maps)
            anchors, counts = module.anchors(maps, size)
            sample, targets = jax.vmap(anchor_targets, (0, None, 0))(keys[0], anchors, truth)
            first = proposal_losses(_rows(objectness, sample.index), _rows(codes, sample.index), targets, sample.valid,
                                    sample.positive)
            scale = batch["scale"] if model.smallest_proposal else None
            regions, found = best_proposals(objectness, codes, anchors, counts, truth["extent"], scale, 0)
            sample, regions, labels, targets = jax.vmap(region_targets)(keys[1], regions, found, truth)
            logits, codes = module.classify(maps, regions, size, train=True)
            second = region_losses(logits, codes, labels, targets, sample.valid, sample.positive,
                                   beta=model.region_beta)
            return dict(zip(("rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes"), (*first, *second)))

        return model.apply({"params": params, **model_state}, method=both_heads, mutable=list(model_state),
                           rngs={"dropout": keys[2, 0]})

    def detect(variables: Any, images: jax.Array, extent: jax.Array, scale: jax.Array | None = None) -> Found:
        size = images.shape[1], images.shape[2]

        def everything(module: FasterRCNN) -> Found:
            maps = module.features(images)
            objectness, codes = module.propose(maps)
            anchors, counts = module.anchors(maps, size)
            regions, found = best_proposals(objectness, codes, anchors, counts, extent, scale, 1)
            logits, codes = module.classify(maps, regions, size)
            best = partial(detections, score_threshold=score_threshold, nms_threshold=nms_threshold,
                           limit=max_detections)
            return jax.vmap(best)(logits, codes, regions, found, extent)

        return outputs_of(model, variables, method=everything)

    return Detector(init, losses, detect, ("scale",) if model.smallest_proposal else ())


def _rows(values: jax.Array, index: jax.Array) -> jax.Array:
    """`(B, N, ...)` and int `(B, S)` -> `(B, S, ...)`."""
    return jax.vmap(lambda x, rows: x[rows])(values, index)


def _centred_inside(boxes: jax.Array, extent: jax.Array) -> jax.Array:
    """bool `(N,)`: whether a box's centre lies in the picture, whose height and width are `extent` `(2,)`."""
    centre = to_centres(boxes)[:, :2]
    return ((centre >= 0) & (centre < extent[::-1])).all(axis=1)
