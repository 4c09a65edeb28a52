"""Faster R-CNN's training and detection; its numbers are compared with torchvision's in tests/parity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.data.boxes.crops import Letterbox
from cvjax.data.scenes import open_scenes
from cvjax.evaluate.mean_ap import Detections, Truth, voc_ap
from cvjax.models import create_model
from cvjax.tasks.detection import detection_task
from cvjax.tasks.faster_rcnn import WEIGHTS, detections, faster_rcnn_detector, propose

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SIZE = 32
LOSSES = ("rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes")


def small(**fields):
    """A ResNet of one stage and a pyramid on it: maps of 8 x 8 and 4 x 4 pixels, 80 anchors."""
    return create_model("faster_rcnn", **dict(
        backbone_fields=dict(depths=(1,), width=4, zero_init_last=False), maps=("layer1",), pyramid_width=8,
        anchor_sizes=((6,), (12,)), aspect_ratios=(1.0,), canonical_size=40.0, rpn_width=8, head_width=8,
        num_classes=2, candidates=(30, 30), proposals=(60, 20), sampled_anchors=200, sampled_regions=100,
        image_size=SIZE) | fields)


def example_batch(places=3):
    """Two objects in the first picture, of which the first is nearly an anchor and so a proposal's; none in the second.
    """
    boxes, labels = np.zeros((2, places, 4), np.float32), np.zeros((2, places), np.int32)
    boxes[0, :2], labels[0, :2] = [[2, 3, 15, 14], [14, 10, 30, 31]], [1, 0]
    return {"boxes": boxes, "box_label": labels, "box_mask": boxes.any(-1),
            "box_difficult": np.zeros((2, places), bool), "extent": np.full((2, 2), SIZE, np.float32)}


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, SIZE, SIZE, 3))


@pytest.fixture(scope="module")
def state(images):
    # Compiled like the rest: eagerly, every layer would be compiled by itself.
    variables = once(small().init)(jax.random.key(0), images)
    return variables.pop("params"), variables


@pytest.fixture(scope="module")
def gradients(images):
    """(params, state, batch) -> losses, gradients of each one's sum, and the new state."""
    def each(params, state, batch):
        def losses(params):
            losses, new = faster_rcnn_detector(small()).losses(params, state, images, batch, jax.random.key(2))
            return jnp.stack([losses[name].sum() for name in LOSSES]), (losses, new)

        _, pull, (losses, new) = jax.vjp(losses, params, has_aux=True)
        return losses, jax.vmap(lambda row: pull(row)[0])(jnp.eye(4)), new

    return once(each)


@pytest.mark.slow
def test_all_that_there_is_learns_and_the_backbone_from_both_heads(state, gradients):
    losses, by_loss, new = gradients(*state, example_batch())
    assert set(losses) == set(LOSSES)
    reached = {name: {(path[0].key, path) for path, leaf in jax.tree_util.tree_leaves_with_path(by_loss)
                      if jnp.abs(leaf[i]).max() > 0} for i, name in enumerate(LOSSES)}
    everything = {path for paths in reached.values() for path in paths}
    assert len(everything) == len(jax.tree.leaves(by_loss))
    for name, paths in reached.items():
        parts = {part for part, _ in paths}
        own = {"rpn"} if name.startswith("rpn") else {"box_head", "box_predictor"}
        # No gradient goes through a proposal's place, so the second head leaves the first one alone.
        assert parts == {"backbone", "fpn"} | own, name
    assert jax.tree.structure(new) == jax.tree.structure(state[1])
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(lambda a, b: a != b, new, state[1]))))


def test_a_picture_without_objects_has_only_negatives(state, gradients):
    losses, by_loss, _ = gradients(*state, example_batch())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((losses, by_loss)))
    assert losses["rpn_boxes"][0] > 0 and losses["roi_boxes"][0] > 0
    assert losses["rpn_boxes"][1] == 0 and losses["roi_boxes"][1] == 0
    assert losses["rpn_objectness"][1] > 0 and losses["roi_classes"][1] > 0


def test_rows_that_pad_and_difficult_objects_do_not_matter(state, gradients):
    batch = example_batch()
    losses, by_loss, _ = gradients(*state, batch)
    moved = {name: x[:, [2, 0, 1]] if name != "extent" else x for name, x in batch.items()}
    moved["boxes"][~moved["box_mask"]] = [5, 5, 9, 9]  # what is masked is no object
    moved["box_mask"][1, 0], moved["box_difficult"][1, 0] = True, True
    other, by_other, _ = gradients(*state, moved)
    assert gradients._cache_size() == 1, "one program for any number of objects"
    # Everything is sampled: sums in another order.
    for a, b in zip(jax.tree.leaves((losses, by_loss)), jax.tree.leaves((other, by_other))):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(a).max()))


@pytest.mark.slow
def test_more_rows_that_pad_leave_the_samples_as_they_are(state, images):
    """Where not everything is sampled, too; of both heads the same boxes."""
    model = small(sampled_anchors=16, sampled_regions=12)
    losses = once(lambda batch: faster_rcnn_detector(model).losses(*state, images, batch, jax.random.key(3))[0])
    for a, b in zip(*(jax.tree.leaves(losses(example_batch(places))) for places in (3, 7))):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_proposals_are_cut_suppressed_by_level_and_the_best_ones():
    anchors = jnp.float32([[0, 0, 10, 10], [0, 0, 10, 9], [-6, 0, 4, 8], [20, 0, 40, 8], [24, 20, 30, 26],
                           [2, 0, 12, 10], [0, 0, 10, 10]])
    objectness = jnp.float32([2, 1, 3, 9, 9, 5, 4])
    codes = jnp.zeros((7, 4)).at[5, 0].set(0.1)  # by a tenth of 10 pixels to the right
    run = once(partial(propose, candidates=3, proposals=4), static_argnums=3)
    boxes, found = run(objectness, codes, anchors, (5, 2), jnp.float32([22, 30]))
    # The fourth's centre is outside the picture's width of 30, and the fifth's below its height of 22; of the first map
    # the third (its centre is outside, too) and those two leave the first and the second, which the first suppresses.
    np.testing.assert_allclose(boxes, [[3, 0, 13, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]], atol=1e-5)
    np.testing.assert_array_equal(found, [True, True, True, False])
    boxes, found = run(objectness, codes, anchors, (5, 2), jnp.float32([22, 8]))
    assert boxes[:, 2].max() == 8 and boxes[found].min(axis=0)[2] > 4


def test_each_class_moves_a_region_and_suppresses_within_itself():
    regions = jnp.float32([[0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 60, 60], [0, 0, 10, 10]])
    logits = jnp.log(jnp.float32([[2, 5, 3], [2, 7, 1], [9.7, 0.2, 0.1], [0, 10, 0]]))
    codes = jnp.zeros((4, 3, 4)).at[0, 2].set(jnp.float32([0.4, 0, 0, 0]) * WEIGHTS[0])
    result = once(partial(detections, score_threshold=0.03, nms_threshold=0.5, limit=4))(
        logits, codes, regions, jnp.array([True, True, True, False]), jnp.float32([50, 50]))
    # 0.7 suppresses 0.5 of the same class; the other class is moved by 0.4 widths, too far from 0.1 to suppress it;
    # 0.02 is below the threshold, and the last region is none.
    np.testing.assert_allclose(result["score"], [0.7, 0.3, 0.1, 0], atol=1e-6)
    np.testing.assert_array_equal(result["box_label"], [0, 1, 1, 0])
    np.testing.assert_allclose(result["boxes"], [[0, 0, 10, 9], [4, 0, 14, 10], [0, 0, 10, 9], [0] * 4], atol=1e-5)
    np.testing.assert_array_equal(result["valid"], [True, True, True, False])


@pytest.mark.slow
def test_a_larger_canvas_changes_nothing_but_at_the_border():
    """Without biases and norms zeros stay zeros, so what is beside the picture is as if it were not there."""
    model = create_model("faster_rcnn", backbone="vgg11", backbone_fields=dict(depths=(1, 1), width=4),
                         maps=("pool2",), anchor_sizes=((8, 14),), aspect_ratios=(1.0,), rpn_width=8, head_width=8,
                         num_classes=2, candidates=(60, 60), proposals=(30, 30))
    picture = jnp.zeros((1, 24, 28, 3)).at[:, 4:14, 4:16].set(jax.random.normal(jax.random.key(0), (1, 10, 12, 3)))
    variables = once(model.init)(jax.random.key(1), picture)
    variables = jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, variables)  # scores that differ
    find = once(faster_rcnn_detector(model, score_threshold=0.01).detect)
    extent = jnp.float32([[24, 28]])
    ours, wide = (find(variables, jnp.pad(picture, ((0, 0), (0, more), (0, more), (0, 0))), extent) for more in (0, 12))
    assert ours["valid"].sum() > 10 and ours["boxes"].max() > 24
    assert (ours["boxes"] <= jnp.tile(extent[0, ::-1], 2)).all()
    for name, value in ours.items():
        np.testing.assert_allclose(wide[name], value, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_four_scenes_are_learnt_by_heart():
    side, normal = 64, lambda x: (x.astype(jnp.float32) - 127.5) / 64
    source = open_scenes("boxes", train=8, test=1, side=side).train
    records = [record for record in source if len(record["boxes"])][:4]
    crop = Letterbox(side, side, 8)
    rows = [crop(r["image"], **{name: r[name] for name in ("boxes", "box_label", "box_difficult")}) for r in records]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {"index": np.arange(4)}
    detector = faster_rcnn_detector(small(
        backbone_fields=dict(depths=(1, 1, 1), width=16, stem="cifar"), maps=("layer3",), pyramid_width=0,
        anchor_sizes=((12, 20, 32),), aspect_ratios=(0.5, 1.0, 2.0), rpn_width=64, head_width=64, region_size=4,
        num_classes=10, candidates=(200, 100), proposals=(64, 32), sampled_anchors=64, sampled_regions=32,
        image_size=side))
    task = detection_task(detector, augment=lambda key, image: normal(image), preprocess=normal, summarize=dict)
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    params, state = variables.pop("params"), variables
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, 500))
    moments = optimizer.init(params)

    @jax.jit
    def step(params, state, moments, rng):
        (_, aux), by_params = jax.value_and_grad(task.loss, has_aux=True)(params, state, batch, rng)
        updates, moments = optimizer.update(by_params, moments, params)
        return optax.apply_updates(params, updates), aux.model_state, moments

    for i in range(500):
        params, state, moments = step(params, state, moments, jax.random.key(i))
    found = jax.jit(detector.detect)({"params": params, **state}, normal(batch["image"]), batch["extent"])
    truths = [Truth(b[m], k[m], np.zeros(m.sum(), bool)) for b, k, m in
              zip(batch["boxes"], batch["box_label"], batch["box_mask"])]
    results = [Detections(*(np.asarray(found[name][i])[np.asarray(found["valid"][i])]
                            for name in ("boxes", "score", "box_label"))) for i in range(4)]
    assert voc_ap(truths, results, [str(i) for i in range(10)]).mean == 1.0


def test_small_proposals_are_left_out_before_the_best_are_taken():
    """Of the paper's code: 16 pixels of the file, here at 0.5 canvas pixels each, are 8 of the canvas."""
    anchors = np.float32([[0, 0, 7.5, 20], [0, 0, 20, 7.9], [0, 0, 8, 8], [10, 10, 30, 30], [12, 0, 31, 31]])
    scores, codes, extent = np.float32([5, 4, 3, 2, 1]), np.zeros((5, 4), np.float32), np.float32([32, 32])
    find = partial(propose, scores, codes, anchors, (5,), extent, candidates=2, proposals=4)
    boxes, found = find(least_side=jnp.float32(16) * 0.5)
    assert found.tolist() == [True, True, False, False]
    np.testing.assert_allclose(boxes[:2], anchors[2:4], atol=1e-5)
    np.testing.assert_allclose(find()[0][:2], anchors[:2], atol=1e-5)  # torchvision's rule: small ones may be best
    assert create_model("faster_rcnn_vgg16").smallest_proposal == 16
    assert create_model("faster_rcnn_resnet50_fpn").smallest_proposal == 0


def test_a_detector_with_a_smallest_proposal_needs_the_scale(state, images):
    """Two pictures that differ in scale only: boxes of 12 canvas pixels are large in a picture that was shrunk."""
    model = small(smallest_proposal=16.0)
    detector = faster_rcnn_detector(model, score_threshold=0.0)
    assert detector.needs == ("scale",) and faster_rcnn_detector(small()).needs == ()
    twice = jnp.stack([images[0]] * 2)
    found = once(detector.detect)({"params": state[0], **state[1]}, twice, jnp.full((2, 2), 32.0),
                                  jnp.float32([0.25, 10.0]))
    assert found["valid"][0].any() and not found["valid"][1].any()


def test_the_second_heads_beta_is_the_models(state, images, monkeypatch):
    """Which beta each loss gets, of which only shapes are computed; the losses have tests of their own."""
    import cvjax.tasks.faster_rcnn as task

    given = {}
    for name in ("proposal_losses", "region_losses"):
        monkeypatch.setattr(task, name, partial(lambda name, loss, *arguments, beta=None: (
            given.update({name: beta}), loss(*arguments))[1], name, getattr(task, name)))
    detector = faster_rcnn_detector(small(region_beta=0.7))
    jax.eval_shape(lambda batch: detector.losses(*state, images, batch, jax.random.key(3)), example_batch())
    assert given == {"proposal_losses": None, "region_losses": 0.7}, "None: the loss's own, 1 / 9"
    models = {name: create_model(name).region_beta for name in ("faster_rcnn_vgg16", "faster_rcnn_resnet50_fpn")}
    assert models == {"faster_rcnn_vgg16": 1.0, "faster_rcnn_resnet50_fpn": 1 / 9}


@pytest.mark.slow
@pytest.mark.parametrize("name, canvas", [("faster_rcnn_vgg16", (600, 1000)), ("faster_rcnn_resnet50", (600, 1000)),
                                          ("faster_rcnn_resnet50_fpn", (800, 1344))])
def test_a_full_size_step_and_detection_lower_for_accelerators(name, canvas):
    """Shapes only, nothing is allocated."""
    platforms, places, model = ("tpu", "cuda", "rocm"), 100, create_model(name, image_size=canvas)
    detector = faster_rcnn_detector(model)
    batch = {"boxes": (2, places, 4), "extent": (2, 2), "scale": (2,)}
    batch |= dict.fromkeys(("box_label", "box_mask", "box_difficult"), (2, places))
    kinds = {"box_label": jnp.int32, "box_mask": bool, "box_difficult": bool}
    batch = {key: jax.ShapeDtypeStruct(shape, kinds.get(key, jnp.float32)) for key, shape in batch.items()}
    images = jax.ShapeDtypeStruct((2, *canvas, 3), jnp.float32)
    variables = jax.eval_shape(detector.init, jax.random.key(0), images)
    state = dict(variables)
    params = state.pop("params")

    def step(params, state, images, batch):
        def loss(params):
            losses, new = detector.losses(params, state, images, batch, jax.random.key(0))
            return sum(losses.values()).mean(), new

        return jax.grad(loss, has_aux=True)(params)

    for function, arguments in ((step, (params, state, images, batch)),
                                (detector.detect, (variables, images, *map(batch.get, ("extent", *detector.needs))))):
        exported = jax.export.export(jax.jit(function), platforms=platforms)(*arguments)
        assert exported.platforms == platforms and f"tensor<2x{canvas[0]}x{canvas[1]}x3xf32>" in exported.mlir_module()


def test_anchors_in_the_padding_count_only_where_that_is_asked():
    """Two anchors, the better one centred in the padding: cut to the picture, it is a region only with `padding`."""
    anchors = jnp.array([[0., 0., 10., 10.], [15., 0., 29., 10.]])
    arguments = jnp.array([0.0, 5.0]), jnp.zeros((2, 4)), anchors, (2,), jnp.array([10.0, 20.0])
    sizes = dict(candidates=2, proposals=2)
    boxes, found = propose(*arguments, **sizes)
    assert found.tolist() == [True, False] and boxes[0].tolist() == [0, 0, 10, 10]
    boxes, found = propose(*arguments, **sizes, padding=True)
    assert found.all() and boxes.tolist() == [[15, 0, 20, 10], [0, 0, 10, 10]]
