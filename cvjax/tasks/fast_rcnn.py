"""Fast R-CNN as a detector of given proposals: what they are to learn, and what is found (see
`cvjax.models.fast_rcnn`).

Batches have `proposals` float32 (B, P, 4) in pixels of the canvas and `proposal_mask` bool (B, P), as
`cvjax.data.proposal_records` makes them; in training the ground truth joins them, as in the authors' code.

Objects that are marked difficult are not used in training, as by that code: they are no ground truth, and what covers
them is background like everything else.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.detection import region_losses
from cvjax.models.fast_rcnn import FastRCNN
from cvjax.ops.boxes import encode_boxes
from cvjax.ops.matching import match_proposals
from cvjax.ops.sampling import Sample, balanced_sample
from cvjax.tasks.detection import Detector, Found, Losses
from cvjax.tasks.faster_rcnn import WEIGHTS, detections
from cvjax.tasks.task import Batch


def fast_rcnn_detector(model: FastRCNN, *, sampled_regions: int = 64, positive_fraction: float = 0.25,
                       foreground: float = 0.5, background: tuple[float, float] = (0.1, 0.5), beta: float = 1.0,
                       score_threshold: float = 0.05, nms_threshold: float = 0.3, max_detections: int = 100
                       ) -> Detector:
    """The detector of a model; the defaults are the paper's, and its code's where the paper is silent.

    The losses are `roi_classes` and `roi_boxes`, the means over an image's sampled regions (eq. 1 with lambda = 1, see
    `cvjax.losses.detection`).

    Args:
        sampled_regions: that are learnt from in an image; 128 of two images in the paper.
        positive_fraction: of them at most.
        foreground, background: IoU with the ground truth of those that are positive, and of those that are negative;
            what overlaps less than `background` is left out, which the paper takes for hard example mining.
        beta: of smooth L1.
        score_threshold: what is found has a score above it.
        nms_threshold: IoU from which the better of two boxes of a class remains.
        max_detections: of an image.
    """

    def init(rng: jax.Array, images: jax.Array) -> Any:
        return model.init(rng, images)

    def targets(key: jax.Array, proposals: jax.Array, there: jax.Array, boxes: jax.Array, labels: jax.Array,
                wanted: jax.Array) -> tuple[Sample, jax.Array, jax.Array, jax.Array]:
        """Of one image: which regions are learnt from, they themselves, their labels and their codes."""
        regions = jnp.concatenate([proposals, boxes])
        matches = match_proposals(regions, boxes, wanted, usable=jnp.concatenate([there, wanted]),
                                  foreground=foreground, background=background)
        sample = balanced_sample(key, matches.positive, matches.negative, sampled_regions, positive_fraction)
        # Places without a region have the first one's; nothing is made of them.
        row, regions = matches.index[sample.index], regions[sample.index]
        return sample, regions, labels[row], encode_boxes(boxes[row], regions, WEIGHTS)

    def losses(params: Any, model_state: Any, images: jax.Array, batch: Batch, key: jax.Array) -> tuple[Losses, Any]:
        sample_key, dropout_key = jax.random.split(key)
        there, wanted = batch["proposal_mask"], batch["box_mask"] & ~batch["box_difficult"]
        sample, regions, labels, codes = jax.vmap(targets)(
            jax.random.split(sample_key, len(images)), _known(batch["proposals"], there), there,
            _known(batch["boxes"], wanted), batch["box_label"], wanted)
        outputs, new_state = model.apply({"params": params, **model_state}, images, regions, train=True,
                                         rngs={"dropout": dropout_key}, mutable=list(model_state))
        both = region_losses(*outputs, labels, codes, sample.valid, sample.positive, beta=beta)
        return dict(zip(("roi_classes", "roi_boxes"), both)), new_state

    def detect(variables: Any, images: jax.Array, extent: jax.Array, proposals: jax.Array, there: jax.Array) -> Found:
        proposals = _known(proposals, there)
        outputs = model.apply(variables, images, proposals)
        return jax.vmap(lambda *each: detections(*each, score_threshold=score_threshold, nms_threshold=nms_threshold,
                                                 limit=max_detections))(*outputs, proposals, there, extent)

    return Detector(init, losses, detect, ("proposals", "proposal_mask"))


def _known(boxes: jax.Array, mask: jax.Array) -> jax.Array:
    """Padding may hold any number; where it were nan, gradients would be."""
    return jnp.where(mask[..., None], boxes, 0.0)
