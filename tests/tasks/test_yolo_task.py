"""YOLO as a detector: which cell finds what, what comes out of its numbers, and that padding never matters."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.augment import normalize
from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes.canvas import to_original
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.scenes import open_scenes
from cvjax.evaluate.mean_ap import Detections, Truth, voc_ap
from cvjax.losses.yolo import encoded_boxes, yolo_loss
from cvjax.models import create_model
from cvjax.tasks.detection import detection_task
from cvjax.tasks.yolo import assign_cells, decode_predictions, yolo_detector
from cvjax.train.loop import evaluate
from cvjax.train.mesh import MeshEngine
from cvjax.train.optim import make_optimizer
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step
from cvjax.workflow.detection.inputs import DetectionInputs
from cvjax.workflow.detection.report import summarize

CANVAS = (60, 90)
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


compiled_assign = once(assign_cells, static_argnums=(3, 4))


def assign(boxes, labels=None, counts=None, grid=(2, 3)):
    boxes = np.float32(boxes)
    labels = np.arange(len(boxes)) if labels is None else np.array(labels)
    counts = np.ones(len(boxes), bool) if counts is None else np.array(counts)
    return compiled_assign(boxes, labels, counts, CANVAS, grid)


def test_the_cell_with_an_objects_centre_has_it():
    cells = assign([[0, 0, 20, 20], [70, 32, 80, 60]])
    assert cells.present.tolist() == [[True, False, False], [False, False, True]]
    assert int(cells.labels[0, 0]) == 0 and int(cells.labels[1, 2]) == 1
    np.testing.assert_allclose(cells.boxes[1, 2], [70 / 90, 32 / 60, 80 / 90, 1], rtol=1e-6)


def test_the_smallest_of_several_has_the_cell_and_the_first_of_equal_ones():
    assert int(assign([[0, 0, 20, 20], [5, 5, 10, 10], [0, 0, 30, 30]]).labels[0, 0]) == 1
    assert int(assign([[0, 0, 20, 20], [1, 1, 21, 21]]).labels[0, 0]) == 0


@pytest.mark.parametrize("box, cell", [([89, 59, 90, 60], (1, 2)), ([90, 60, 90, 60], (1, 2)), ([30, 0, 30, 0], (0, 1)),
                                       ([0, 0, 60, 60], (1, 1)), ([29.9, 29.9, 29.9, 29.9], (0, 0))])
def test_centres_on_borders(box, cell):
    present = np.asarray(assign([box]).present)
    assert present[cell] and present.sum() == 1


def test_rows_that_do_not_count_have_no_cell():
    cells = assign([[0, 0, 20, 20], [5, 5, 10, 10], [np.nan] * 4], counts=[True, False, False])
    assert int(cells.labels[0, 0]) == 0 and int(cells.present.sum()) == 1
    assert not assign([[0, 0, 20, 20]], counts=[False]).present.any()


# --- what comes out


compiled_decode = once(decode_predictions, static_argnums=(1, 3), static_argnames=(
    "score_threshold", "nms_threshold", "max_detections"))


def decode(predictions, extent=CANVAS, **options):
    options = dict(score_threshold=0.1, nms_threshold=0.5, max_detections=8) | options
    return jax.device_get(compiled_decode(predictions, 2, np.float32(extent), CANVAS, **options))


def empty(grid=(2, 3), classes=2):
    return np.zeros((*grid, 10 + classes), np.float32)


def test_a_score_is_class_times_confidence_and_boxes_are_pixels():
    predictions = empty()
    # Upper middle cell; the box is from (35, 5) to (55, 25).
    predictions[0, 1, :5] = 0.5, 0.5, np.sqrt(20 / 90), np.sqrt(20 / 60), 0.8
    predictions[0, 1, 10:] = 0.5, 0.9
    found = decode(predictions)
    assert found["valid"].tolist() == [True, True] + [False] * 6
    np.testing.assert_allclose(found["score"][:2], [0.72, 0.4], rtol=1e-6)
    assert found["box_label"][:2].tolist() == [1, 0] and found["box_label"].dtype == np.int32
    np.testing.assert_allclose(found["boxes"][:2], [[35, 5, 55, 25]] * 2, atol=1e-4)
    assert decode(predictions, score_threshold=0.5)["valid"].sum() == 1
    assert decode(predictions, max_detections=1)["boxes"].shape == (1, 4)


def test_scores_stay_in_their_range():
    """Linear outputs may be anything: two negative ones are no object."""
    predictions = empty()
    predictions[0, 0, :5] = 0.5, 0.5, 0.5, 0.5, 3.0
    predictions[0, 0, 10:] = 2.0, -1.0
    predictions[1, 1, :5] = 0.5, 0.5, 0.5, 0.5, -1.0
    predictions[1, 1, 10:] = -1.0, -2.0
    found = decode(predictions)
    assert found["valid"].sum() == 1 and found["score"][0] == 1


def test_of_boxes_that_overlap_the_best_of_each_class_stays():
    predictions = empty()
    for j, confidence in enumerate((0.6, 0.9)):
        predictions[0, 0, 5 * j:5 * j + 5] = 0.5, 0.5, 0.5 + 0.01 * j, 0.5, confidence
    predictions[0, 0, 10:] = 1.0, 0.5
    found = decode(predictions)
    np.testing.assert_allclose(found["score"][found["valid"]], [0.9, 0.45], rtol=1e-6)
    assert decode(predictions, nms_threshold=1.0)["valid"].sum() == 4


def test_boxes_are_cut_to_the_pictures_part_and_gone_beside_it():
    predictions = empty()
    predictions[0, 0, :5] = 0.5, 0.5, 0.9, 0.9, 1.0
    predictions[1, 2, :5] = 0.5, 0.5, 0.1, 0.1, 1.0
    predictions[..., 10] = 1.0
    found = decode(predictions, extent=(40, 50))
    assert found["valid"].sum() == 1
    np.testing.assert_allclose(found["boxes"][0], [0, 0, 50, min(40, 15 + 0.81 * 30)], atol=1e-4)


def test_what_was_encoded_comes_back_with_an_average_precision_of_one():
    scenes, canvas, grid = open_scenes("boxes", train=1, test=40, side=96), (128, 112), (16, 14)
    inputs = DetectionInputs(scenes, canvas, 40, 6, BadFiles(41), Preprocessing())
    (batch,) = inputs.eval_batches("test")

    def of_one(boxes, labels, mask, extent):
        cells = assign_cells(boxes, labels, mask, canvas, grid)
        coded = encoded_boxes(cells.boxes[:, :, None])[:, :, 0]
        confidence = cells.present[..., None].astype(jnp.float32)
        zeros = jnp.zeros((*grid, 5))
        classes = jax.nn.one_hot(cells.labels, 10)
        predictions = jnp.concatenate([zeros, coded, confidence, classes], axis=-1)
        perfect = yolo_loss(predictions[None], jax.tree.map(lambda x: x[None], cells), 2)
        return decode_predictions(predictions, 2, extent, canvas, score_threshold=0.5, nms_threshold=0.5,
                                  max_detections=6), sum(perfect.values())[0], cells.present.sum()

    found, losses, present = jax.device_get(once(jax.vmap(of_one))(
        batch["boxes"], batch["box_label"], batch["box_mask"], batch["extent"]))
    # Squares of the rounding of numbers up to 16; confidences are compared with an IoU of 1 up to 1e-5.
    np.testing.assert_allclose(losses, 0, atol=1e-8)
    assert (present == batch["box_mask"].sum(axis=1)).all(), "no two digits share a cell of 6 pixels"
    boxes, truth = to_original(found["boxes"], batch["scale"]), inputs.ground_truth("test")
    truths = [Truth(**{"boxes": t["boxes"], "labels": t["box_label"], "difficult": t["box_difficult"]})
              for t in (truth[i] for i in range(40))]
    detections = [Detections(boxes[i][v], found["score"][i][v], found["box_label"][i][v])
                  for i, v in enumerate(found["valid"])]
    assert voc_ap(truths, detections, scenes.class_names, iou_threshold=0.99).mean == 1.0


# --- the detector


class Linear(nn.Module):
    """A grid of 2 x 3 from the means of an image's parts."""

    num_boxes: int = 2
    num_classes: int = 2

    @nn.compact
    def __call__(self, images, *, train=False):
        means = nn.avg_pool(images, (images.shape[1] // 2, images.shape[2] // 3),
                            (images.shape[1] // 2, images.shape[2] // 3))
        return nn.Dense(5 * self.num_boxes + self.num_classes)(means)


def batch_of(rng, rows=3):
    boxes = np.sort(rng.random((rows, 5, 2, 2)), axis=2).reshape(rows, 5, 4).astype(np.float32) * [90, 60, 90, 60]
    return {"boxes": boxes.astype(np.float32), "box_label": rng.integers(0, 2, (rows, 5)).astype(np.int32),
            "box_mask": rng.random((rows, 5)) < 0.6, "box_difficult": rng.random((rows, 5)) < 0.3,
            "extent": np.full((rows, 2), CANVAS, np.float32)}


def test_padding_and_difficult_objects_never_matter():
    detector, rng = yolo_detector(Linear()), np.random.default_rng(0)
    images, batch = rng.random((3, 60, 90, 3)).astype(np.float32), batch_of(rng)
    variables = detector.init(jax.random.key(0), images)
    idle = ~batch["box_mask"] | batch["box_difficult"]
    assert idle.any() and not idle.all()
    other = batch | {"boxes": np.where(idle[..., None], np.nan, batch["boxes"]).astype(np.float32),
                     "box_label": np.where(idle, 77, batch["box_label"])}
    wider = {name: np.pad(value, [(0, 0), (2, 3)] + [(0, 0)] * (value.ndim - 2)) if name != "extent" else value
             for name, value in other.items()}

    def value(params, batch):
        losses, state = detector.losses(params, {}, images, batch, jax.random.key(1))
        assert state == {}
        return sum(losses.values()).sum()

    value = once(jax.value_and_grad(value))
    expected = value(variables["params"], batch)
    for same in (other, wider):
        found = value(variables["params"], same)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), expected, found)


def test_an_example_is_judged_and_searched_by_itself():
    detector, rng = yolo_detector(Linear(), score_threshold=0.0, max_detections=7), np.random.default_rng(1)
    images, batch = rng.random((3, 60, 90, 3)).astype(np.float32), batch_of(rng)
    variables = detector.init(jax.random.key(0), images)
    losses, detect = once(lambda *inputs: detector.losses(*inputs)[0]), once(detector.detect)
    whole = losses(variables["params"], {}, images, batch, jax.random.key(1))
    found = detect(variables, images, batch["extent"])
    assert found["boxes"].shape == (3, 7, 4) and found["valid"].dtype == bool
    for i in range(3):
        row = {name: value[i:i + 1] for name, value in batch.items()}
        one = losses(variables["params"], {}, images[i:i + 1], row, jax.random.key(1))
        for name, each in one.items():
            np.testing.assert_allclose(each[0], whole[name][i], rtol=1e-5)
        alone = detect(variables, images[i:i + 1], row["extent"])
        np.testing.assert_allclose(alone["boxes"][0], found["boxes"][i], rtol=1e-5)


@pytest.mark.slow
def test_four_scenes_are_learnt_by_heart():
    scenes = open_scenes("boxes", train=4, test=4, side=64, seed=3)
    inputs = DetectionInputs(type(scenes)(scenes.train, scenes.train, scenes.class_names, 3), (64, 64), 4, 6,
                             BadFiles(8), Preprocessing())
    model = create_model("yolo", backbone="resnet20", backbone_fields=dict(width=16, depths=(1, 1, 1)), maps=1,
                         head_width=64, head_depth=1, image_size=64, num_classes=10)
    task = detection_task(yolo_detector(model), augment=lambda key, image: normalize(image), preprocess=normalize,
                          summarize=summarize(inputs))
    batches = inputs.train_batches(seed=0, workers=0)
    optimizer = make_optimizer("adam", lambda step: 3e-3 * (1 - step / 300), weight_decay=0.0)
    engine = MeshEngine(jax.local_devices()[:1])
    state = engine.create(lambda _: create_state(lambda key: task.init(key, next(batches)), optimizer,
                                                 jax.random.key(0)), None)
    step = engine.compile_step(make_train_step(task, optimizer), state)
    for _ in range(300):
        state, _ = step(state, engine.put(next(batches)))
    batches.close()
    assert evaluate(task, engine)(state.variables, inputs.eval_batches("test"))["ap50"] == 1.0
