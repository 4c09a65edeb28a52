"""Fast R-CNN as a detector: targets of given proposals, losses, and detections (see `cvjax.models.fast_rcnn`).

Girshick 2015, https://arxiv.org/abs/1504.08083. Batches have `proposals` float32 (B, P, 4) in pixels of the canvas and
`proposal_mask` bool (B, P), from `cvjax.data.boxes.proposal_records`. In training the ground truth joins the proposals,
as in the authors' code.

Training ignores objects that are marked difficult, as that code does: they are not ground truth, and a region that
covers one is background.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.detection import region_losses
from cvjax.models.fast_rcnn import FastRCNN
from cvjax.ops.boxes import encode_boxes
from cvjax.ops.matching import match_proposals
from cvjax.ops.sampling import Sample, balanced_sample
from cvjax.tasks.detection import Detector, Found, Losses, detector_of
from cvjax.tasks.faster_rcnn import WEIGHTS, detections
from cvjax.tasks.task import Batch, outputs_of


@detector_of(FastRCNN)
def fast_rcnn_detector(model: FastRCNN, *, sampled_regions: int = 64, positive_fraction: float = 0.25,
                       foreground: float = 0.5, background: tuple[float, float] = (0.1, 0.5), beta: float = 1.0,
                       score_threshold: float = 0.05, nms_threshold: float = 0.3, max_detections: int = 100
                       ) -> Detector:
    """The detector of a model. Defaults are the paper's, or its code's where the paper does not say.

    The losses are `roi_classes` and `roi_boxes`, the means over an image's sampled regions (eq. 1 with lambda = 1, see
    `cvjax.losses.detection`).

    Args:
        sampled_regions: number of regions that are sampled per image (the paper: 128 from two images).
        positive_fraction: largest share of them that may be positive.
        foreground: a region with at least this IoU with an object is positive.
        background: a region is negative if its largest IoU lies between these two. Regions below the first are never
            sampled; the paper calls this a heuristic for hard example mining.
        beta: where smooth L1 turns from a square into a line.
        score_threshold: detections have a score above it.
        nms_threshold: largest IoU of two detections of one class.
        max_detections: most detections per image.
    """

    def init(rng: jax.Array, images: jax.Array) -> Any:
        return model.init(rng, images)

    def targets(key: jax.Array, proposals: jax.Array, there: jax.Array, boxes: jax.Array, labels: jax.Array,
                wanted: jax.Array) -> tuple[Sample, jax.Array, jax.Array, jax.Array]:
        """The sample of one image's regions, their boxes, labels and codes."""
        regions = jnp.concatenate([proposals, boxes])
        matches = match_proposals(regions, boxes, wanted, usable=jnp.concatenate([there, wanted]),
                                  foreground=foreground, background=background)
        sample = balanced_sample(key, matches.positive, matches.negative, sampled_regions, positive_fraction)
        # Places of the sample without a region hold the first one; the losses leave them out.
        row, regions = matches.index[sample.index], regions[sample.index]
        return sample, regions, labels[row], encode_boxes(boxes[row], regions, WEIGHTS)

    def losses(params: Any, model_state: Any, images: jax.Array, batch: Batch, key: jax.Array) -> tuple[Losses, Any]:
        sample_key, dropout_key = jax.random.split(key)
        there, wanted = batch["proposal_mask"], batch["box_mask"] & ~batch["box_difficult"]
        sample, regions, labels, codes = jax.vmap(targets)(
            jax.random.split(sample_key, len(images)), _known(batch["proposals"], there), there,
            _known(batch["boxes"], wanted), batch["box_label"], wanted)
        (logits, found), new_state = model.apply({"params": params, **model_state}, images, regions, train=True,
                                                 rngs={"dropout": dropout_key}, mutable=list(model_state))
        both = region_losses(logits, found, labels, codes, sample.valid, sample.positive, beta=beta)
        return dict(zip(("roi_classes", "roi_boxes"), both)), new_state

    def detect(variables: Any, images: jax.Array, extent: jax.Array, proposals: jax.Array, there: jax.Array) -> Found:
        proposals = _known(proposals, there)
        logits, codes = outputs_of(model, variables, images, proposals)
        best = partial(detections, score_threshold=score_threshold, nms_threshold=nms_threshold, limit=max_detections)
        return jax.vmap(best)(logits, codes, proposals, there, extent)

    return Detector(init, losses, detect, ("proposals", "proposal_mask"))


def _known(boxes: jax.Array, mask: jax.Array) -> jax.Array:
    """Boxes with zeros as padding: a nan there would make gradients nan."""
    return jnp.where(mask[..., None], boxes, 0.0)
