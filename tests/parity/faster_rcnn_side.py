"""What is compared with torchvision's Faster R-CNN, and cvjax's numbers; torch is not needed."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from deterministic_weights import fill, random, sketch

from cvjax.interop import load_weights
from cvjax.models import create_model
from cvjax.models.faster_rcnn import FasterRCNN
from cvjax.tasks.faster_rcnn import detections, faster_rcnn_detector, propose

SIZE = (64, 96)
ALL = 1600, 64  # anchors and regions: with so many places all are sampled, no number depends on a random choice
BACKBONE = dict(depths=(1, 1, 1, 1), width=4)
FIELDS = dict(backbone_fields=BACKBONE, pyramid_width=8, rpn_width=8, head_width=16, num_classes=3, canonical_size=48.0,
              anchor_sizes=((8,), (16,), (24,), (32,), (48,)), candidates=(120, 100), proposals=(60, 40),
              sampled_anchors=2 * ALL[0], sampled_regions=4 * ALL[1], image_size=SIZE)
MAX_DETECTIONS = 20


def model() -> FasterRCNN:
    return create_model("faster_rcnn_resnet50_fpn", **FIELDS)


def images() -> np.ndarray:
    return random("faster_rcnn images").standard_normal((2, *SIZE, 3)).astype(np.float32)


def truth() -> dict[str, np.ndarray]:
    """Three objects in the first image, none in the second, and a place for a fourth."""
    boxes = np.zeros((2, 4, 4), np.float32)
    boxes[0, :3] = [[3, 5, 31, 40], [40, 8, 90, 60], [50.5, 30.25, 62, 39]]
    return {"boxes": boxes, "box_label": np.int32([[2, 0, 1, 0], [0] * 4]), "box_mask": boxes.any(-1),
            "box_difficult": np.zeros((2, 4), bool), "extent": np.float32([SIZE, SIZE])}


# Run once: optimising would take longer.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def network_numbers(shapes: dict[str, tuple[int, ...]], proposals: np.ndarray) -> dict[str, np.ndarray]:
    """cvjax's as `numbers` has them, of the network alone, with features of given regions `(B, R, 4)`."""
    network = model()

    def parts(module: FasterRCNN) -> dict[str, jax.Array]:
        maps = module.features(jnp.asarray(images()))
        objectness, codes = module.propose(maps)
        regions = jnp.where(proposals.any(-1)[..., None, None, None],
                            module.region_features(maps, jnp.asarray(proposals), SIZE), 0)
        return {f"map{i}": y for i, y in enumerate(maps)} | {"objectness": objectness, "anchor_codes": codes,
                                                             "regions": regions}

    result = once(lambda variables: network.apply(variables, method=parts))(load_weights(network, fill(shapes)))
    return {name: sketch(name, np.asarray(value)) for name, value in result.items()}


def numbers(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """cvjax's, with the deterministic weights of these shapes."""
    network, x, batch = model(), jnp.asarray(images()), truth()
    variables = load_weights(network, fill(shapes))

    def compute(variables: Any) -> dict[str, jax.Array]:
        def parts(module: FasterRCNN) -> dict[str, jax.Array]:
            maps = module.features(x)
            objectness, codes = module.propose(maps)
            anchors, counts = module.anchors(maps, SIZE)
            boxes, found = jax.vmap(lambda *each: propose(
                *each, anchors, counts, jnp.float32(SIZE), candidates=network.candidates[1],
                proposals=network.proposals[1]))(objectness, codes)
            logits, region_codes = module.classify(maps, boxes, SIZE)
            result = jax.vmap(lambda *each: detections(
                *each, jnp.float32(SIZE), score_threshold=0.05, nms_threshold=0.5, limit=MAX_DETECTIONS))(
                    logits, region_codes, boxes, found)
            regions = jnp.where(found[..., None, None, None], module.region_features(maps, boxes, SIZE), 0)
            return {f"map{i}": y for i, y in enumerate(maps)} | result | {
                "objectness": objectness, "anchor_codes": codes, "proposals": boxes, "regions": regions}

        return network.apply(variables, method=parts)

    params, rest = variables.pop("params"), variables
    detector = faster_rcnn_detector(network)

    def both(params: Any, rest: Any) -> dict[str, jax.Array]:
        return compute({"params": params, **rest}) | detector.losses(params, rest, x, batch, jax.random.key(0))[0]

    result = once(both)(params, rest)
    return {name: sketch(name, np.asarray(value, np.float32)) for name, value in result.items()}
