"""Fast R-CNN's detector: its loss by hand, its padding, and that it learns."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.data.augment import normalize
from cvjax.data.scenes import open_scenes
from cvjax.evaluate.mean_ap import Detections, Truth, voc_ap
from cvjax.models.fast_rcnn import FastRCNN
from cvjax.tasks.detection import detection_task
from cvjax.tasks.fast_rcnn import fast_rcnn_detector

SIDE = 32
# The last two proposals and the last box pad.
PROPOSALS = np.float32([[4, 4, 24, 20], [4, 12, 24, 32], [26, 26, 31, 31], [0, 0, 0, 0], [0, 0, 0, 0]])
BOXES = np.float32([[4, 4, 24, 24], [0, 0, 0, 0]])


@pytest.fixture(scope="module")
def small():
    """A model whose outputs are the biases of its last layer, its detector and a batch of two equal pictures."""
    model = FastRCNN("vgg16", dict(depths=(1,), width=4), "conv1_1", bins=2, fc_width=32, image_size=SIDE,
                     num_classes=2)
    detector = fast_rcnn_detector(model, sampled_regions=8)
    images = jax.random.normal(jax.random.key(0), (2, SIDE, SIDE, 3))
    variables = jax.jit(detector.init)(jax.random.key(1), images)
    batch = {"proposals": PROPOSALS, "proposal_mask": np.arange(5) < 3, "boxes": BOXES, "box_label": np.int32([1, 0]),
             "box_mask": np.array([True, False]), "box_difficult": np.zeros(2, bool),
             "extent": np.float32([SIDE, SIDE])}
    return model, detector, variables, images, {name: np.stack([x, x]) for name, x in batch.items()}


def constant(variables, logits, codes):
    """Variables with which every region has these logits (K + 1) and codes (K + 1, 4)."""
    last = variables["params"]["box_predictor"]
    last = {name: {"kernel": jnp.zeros_like(last[name]["kernel"]), "bias": jnp.float32(bias).reshape(-1)}
            for name, bias in (("cls_score", logits), ("bbox_pred", codes))}
    return {"params": variables["params"] | {"box_predictor": last}}


def test_losses_are_those_by_hand(small):
    _, detector, variables, images, batch = small
    codes = np.full((3, 4), 9.0)  # of the background and of the other class: nobody looks
    codes[2] = 0
    params = constant(variables, [0.0, math.log(2), math.log(5)], codes)["params"]
    losses, _ = jax.jit(detector.losses)(params, {}, images, batch, jax.random.key(2))
    # Positive are the object itself and the first proposal (IoU 320 / 400), negative the second (240 / 560); the third
    # overlaps nothing, less than 0.1. Probabilities are 1 / 8, 2 / 8 and 5 / 8.
    classes = (2 * -math.log(5 / 8) - math.log(1 / 8)) / 3
    # Seen from the first proposal the object's centre is 2 / 16 of its height lower, and it is 20 / 16 as high.
    boxes = (10 * 2 / 16 - 0.5 + 5 * math.log(20 / 16) - 0.5) / 3
    np.testing.assert_allclose(losses["roi_classes"], [classes] * 2, rtol=1e-5)
    np.testing.assert_allclose(losses["roi_boxes"], [boxes] * 2, rtol=1e-5)


def test_a_difficult_object_is_background(small):
    _, detector, variables, images, batch = small
    params = constant(variables, [math.log(3), 0.0, 0.0], np.full((3, 4), 9.0))["params"]
    hard = batch | {"box_difficult": batch["box_mask"]}
    losses, _ = jax.jit(detector.losses)(params, {}, images, hard, jax.random.key(2))
    np.testing.assert_allclose(losses["roi_classes"], [-math.log(3 / 5)] * 2, rtol=1e-5)
    assert not losses["roi_boxes"].any()


def test_found_boxes_are_decoded_by_class_cut_and_suppressed(small):
    _, detector, variables, images, batch = small
    codes = np.zeros((3, 4))
    codes[1], codes[2] = [0, 10, 0, 0], [0, 0, 0, 5 * math.log(1.25)]  # down by a height; higher by a quarter
    found = jax.jit(detector.detect)(constant(variables, [0.0, math.log(2), math.log(5)], codes), images,
                                     batch["extent"], batch["proposals"], batch["proposal_mask"])
    valid = np.asarray(found["valid"][0])
    boxes, score, label = (np.asarray(found[name][0])[valid] for name in ("boxes", "score", "box_label"))
    np.testing.assert_allclose(score, [5 / 8] * 2 + [2 / 8] * 2, rtol=1e-5)
    assert label.tolist() == [1, 1, 0, 0]
    # Of class 1 the second goes: 4 to 24 and 9.5 to 32 have 12.5 of 30 in common with the first. Of class 0 the first
    # is cut at 32, the second is wholly below the picture and has no side.
    np.testing.assert_allclose(boxes, [[4, 2, 24, 22], [26, 25.375, 31, 31.625], [4, 20, 24, 32], [26, 31, 31, 32]],
                               atol=1e-4)


def test_gradients_reach_every_parameter(small):
    _, detector, variables, images, batch = small

    def whole(params):
        losses, _ = detector.losses(params, {}, images, batch, jax.random.key(3))
        return sum(x.sum() for x in losses.values())

    gradients = jax.jit(jax.grad(whole))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_padding_never_matters(small):
    _, detector, variables, images, batch = small

    def whole(params, batch):
        losses, _ = detector.losses(params, {}, images, batch, jax.random.key(3))
        return sum(x.sum() for x in losses.values())

    compiled = jax.jit(jax.value_and_grad(whole))
    wanted = compiled(variables["params"], batch)
    for rubbish in (np.nan, -1e30, 12.0):
        other = dict(batch)
        for name, mask in (("proposals", "proposal_mask"), ("boxes", "box_mask")):
            other[name] = np.where(batch[mask][..., None], batch[name], np.float32(rubbish))
        jax.tree.map(np.testing.assert_array_equal, compiled(variables["params"], other), wanted)
    find = jax.jit(detector.detect)
    found = [find(variables, images, each["extent"], each["proposals"], each["proposal_mask"])
             for each in (batch, other)]
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.slow
def test_padding_is_no_background(small):
    model, _, variables, images, batch = small
    detector = fast_rcnn_detector(model.clone(dropout=0.0), sampled_regions=8, background=(0.0, 0.5))
    empty = batch | {"box_mask": np.zeros((2, 2), bool)}
    compiled = jax.jit(detector.losses)
    first = compiled(variables["params"], {}, images, empty, jax.random.key(3))[0]
    more = {name: np.concatenate([empty[name], np.zeros_like(empty[name])], 1)
            for name in ("proposals", "proposal_mask")}
    second = compiled(variables["params"], {}, images, empty | more, jax.random.key(4))[0]
    # The same three regions in another order.
    np.testing.assert_allclose(first["roi_classes"], second["roi_classes"], rtol=1e-5)
    outputs = model.apply(variables, images, batch["proposals"][:, :3])
    wanted = -jax.nn.log_softmax(outputs.logits)[..., 0].mean(axis=1)
    np.testing.assert_allclose(first["roi_classes"], wanted, rtol=1e-5)


def proposals_of(rng, boxes, side, count):
    """Jittered objects and random boxes, `(count, 4)`."""
    near = [boxes + rng.normal(0, 0.08, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2) for _ in range(6)]
    corners = np.sort(rng.uniform(0, side, (count, 2, 2)), axis=1).reshape(-1, 4)
    return np.clip(np.concatenate([*near, corners])[:count], 0, side).astype(np.float32)


@pytest.mark.slow
def test_four_scenes_are_learnt_by_heart():
    side, count = 64, 96
    source = open_scenes("boxes", train=8, test=1, side=side).train
    records = [r for r in (source[i] for i in range(8)) if len(r["boxes"])][:4]
    rng, most = np.random.default_rng(0), 5
    batch = {"image": np.stack([r["image"] for r in records]), "index": np.arange(4), "mask": np.ones(4, bool),
             "extent": np.full((4, 2), side, np.float32), "scale": np.ones(4, np.float32),
             "proposals": np.stack([proposals_of(rng, r["boxes"], side, count) for r in records]),
             "proposal_mask": np.ones((4, count), bool), "box_difficult": np.zeros((4, most), bool)}
    for name in ("boxes", "box_label"):
        batch[name] = np.stack([np.pad(r[name], ((0, most - len(r[name])), *[(0, 0)] * (r[name].ndim - 1)))
                                for r in records])
    batch["box_mask"] = np.stack([np.arange(most) < len(r["boxes"]) for r in records])
    model = FastRCNN("vgg16", dict(depths=(1, 1, 1), width=16), "conv3_1", bins=4, fc_width=128, dropout=0.0,
                     image_size=side, num_classes=10)
    # Regions that touch nothing are negatives, too: what the paper leaves to other pictures four do not show.
    detector = fast_rcnn_detector(model, background=(0.0, 0.5))
    task = detection_task(detector, augment=lambda key, image: normalize(image, (0.5,), (0.25,)),
                          preprocess=lambda images: normalize(images, (0.5,), (0.25,)), summarize=None)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def learn(variables, moments, key):
        params = variables["params"]
        state = {name: tree for name, tree in variables.items() if name != "params"}
        (_, aux), gradient = jax.value_and_grad(task.loss, has_aux=True)(params, state, batch, key)
        updates, moments = optimizer.update(gradient, moments)
        return {"params": optax.apply_updates(params, updates), **aux.model_state}, moments

    variables = jax.jit(task.init)(jax.random.key(0), batch)
    moments = optimizer.init(variables["params"])
    for step in range(150):
        variables, moments = learn(variables, moments, jax.random.fold_in(jax.random.key(1), step))
    found = jax.device_get(jax.jit(task.evaluate)(variables, batch))
    truths = [Truth(r["boxes"], r["box_label"], r["box_difficult"]) for r in records]
    detections = [Detections(*(found[name][i][found["valid"][i]] for name in ("boxes", "score", "box_label")))
                  for i in range(4)]
    assert voc_ap(truths, detections, [str(i) for i in range(10)]).mean == 1.0
