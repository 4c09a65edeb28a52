"""What `train` takes as inputs, for pictures with boxes."""

import dataclasses
import json
import types

import jax
import numpy as np
import optax
import pytest

from cvjax.data.augment import color_jitter, denormalize
from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import Dataset
from cvjax.data.decode import DecodeError
from cvjax.data.held_out import hold_out
from cvjax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from cvjax.data.scenes import open_scenes
from cvjax.errors import ConfigError, DataError
from cvjax.tasks.task import Aux, Task, masked_sum
from cvjax.train.loop import evaluate
from cvjax.train.mesh import MeshEngine
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step
from cvjax.workflow.augmentation import Recoloring
from cvjax.workflow.config import DataConfig, TrainingConfig
from cvjax.workflow.detection.inputs import DetectionInputs, check_objects, make_detection_inputs
from cvjax.workflow.normalization import displayable
from cvjax.workflow.prepared import example_batch
from tests.data.detection_folders import write_coco, write_voc

AUGMENTATION = dict(crop_scale=(0.4, 1.0), zoom_out=0.7, flip=True, mosaic=0.5)


@pytest.fixture(scope="module")
def inputs():
    scenes = hold_out(open_scenes("boxes", train=30, test=10, side=40), 0.2, seed=0)
    return DetectionInputs(scenes, (32, 48), 8, 6, BadFiles(40), Preprocessing(), **AUGMENTATION)


def test_batches_have_the_shapes_that_are_said(inputs):
    shapes = inputs.batch_shapes()
    batches = inputs.train_batches(seed=0, workers=0)
    batch = next(batches)
    batches.close()
    assert set(batch) == set(shapes)
    for name, values in batch.items():
        wide = {np.dtype(np.int64): np.dtype(np.int32)}.get(values.dtype, values.dtype)  # what a device makes of it
        assert (values.shape, wide) == (shapes[name].shape, shapes[name].dtype)
    assert inputs.seen_shape == (32, 48, 3)
    (first, second) = inputs.eval_batches("test")
    assert set(first) == {*shapes, "mask", "part"} and first["mask"].all() and second["mask"].sum() == 2
    assert (second["part"] == 2).all() and next(inputs.eval_batches("validation"))["part"].tolist() == [1] * 8
    assert {name: array.shape for name, array in example_batch(inputs).items()} == {
        name: (1, *shape.shape[1:]) for name, shape in shapes.items()}


def test_the_stream_resumes_with_its_random_geometry(inputs):
    whole = inputs.train_batches(seed=3, workers=0)
    for _ in range(2):
        next(whole)
    state, wanted = whole.state(), next(whole)
    whole.close()
    again = inputs.train_batches(seed=3, workers=0)
    again.restore(state)
    for name, values in next(again).items():
        np.testing.assert_array_equal(values, wanted[name])
    again.close()


def test_training_and_evaluation_have_the_same_sides(inputs):
    sized = dataclasses.replace(inputs, sides=(20, 30), crop_scale=(1.0, 1.0), zoom_out=1.0, mosaic=0.0)
    batches = sized.train_batches(seed=0, workers=0)
    for batch in (next(batches), next(sized.eval_batches("test")), sized.examples("test", 3)):
        assert (batch["scale"] == np.float32(20 / 40)).all() and (batch["extent"] == 20).all()
    batches.close()


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_mosaics_fill_the_canvas_and_single_pictures_keep_their_proportions(inputs, mosaic):
    batches = dataclasses.replace(inputs, crop_scale=(1.0, 1.0), zoom_out=1.0, mosaic=mosaic).train_batches(
        seed=0, workers=0)
    extent = next(batches)["extent"]
    batches.close()
    np.testing.assert_array_equal(extent, np.broadcast_to([32, 48] if mosaic else [32, 32], (8, 2)))


def test_shares_are_the_parts_of_one_batch(inputs):
    def first(share):
        batches = inputs.train_batches(seed=1, workers=0, share=share)
        batch = next(batches)
        batches.close()
        return batch

    whole, parts = first((0, 1)), [first((i, 2)) for i in range(2)]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_ground_truth_is_by_index_and_in_the_files_pixels(inputs):
    for part in ("train", "validation", "test"):
        truth, source = inputs.ground_truth(part), getattr(inputs.dataset, part)
        assert len(truth) == len(source) and (truth.extents == 40).all()
        for batch in inputs.eval_batches(part):
            for row in np.flatnonzero(batch["mask"]):
                known, kept = truth[batch["index"][row]], batch["box_mask"][row]
                np.testing.assert_array_equal(known["box_label"], batch["box_label"][row][kept])
                # 40 pixels on 32: a canvas of 0.8 pixels each, in single precision.
                np.testing.assert_allclose(known["boxes"] * 0.8, batch["boxes"][row][kept], rtol=1e-6)


def test_an_evaluation_is_not_augmented(inputs):
    (first, *_), (again, *_) = inputs.eval_batches("test"), inputs.eval_batches("test")
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["extent"] == 32).all() and (first["scale"] == np.float32(0.8)).all()


def test_images_are_normalised_and_their_colours_changed_on_the_device(inputs):
    image = next(iter(inputs.eval_batches("test")))["image"]
    seen = inputs.preprocess(image)
    np.testing.assert_allclose(denormalize(seen, IMAGENET_MEAN, IMAGENET_STD), image, atol=1e-3)
    np.testing.assert_allclose(displayable(seen, Preprocessing()), image / 255, atol=1e-5)
    np.testing.assert_array_equal(inputs.augment(jax.random.key(0), image[0]), seen[0])
    jittered = dataclasses.replace(inputs, recoloring=Recoloring((lambda key, image: color_jitter(key, image, 0.5),)))
    once, other = (jittered.augment(jax.random.key(i), image[0]) for i in (0, 1))
    assert np.abs(once - other).max() > 0.05 and once.shape == seen[0].shape


def test_examples_for_pictures(inputs):
    examples = inputs.examples("train", 4)
    assert examples["image"].shape == (4, 32, 48, 3) and examples["index"].tolist() == [0, 7, 15, 23]
    np.testing.assert_array_equal(examples["box_label"][1][examples["box_mask"][1]],
                                  inputs.ground_truth("train")[7]["box_label"])


def opened(root, kind=DataConfig, **options):
    begin = (lambda beginning: None) if options.get("dry_run") else (lambda beginning: beginning())
    folder = types.SimpleNamespace(path=root, when_begun=begin)
    config = kind(data=f"voc:{root}", **dict(batch_size=2) | options)
    return make_detection_inputs(config, canvas=(20, 20), max_boxes=3, folder=folder, flip=True)


def test_opened_by_a_configuration(tmp_path):
    many = [("cat", (1 + i, 1, 5 + i, 6)) for i in range(5)]
    write_voc(tmp_path, {"a": many, "b": many[:4], "c": many[:1]}, {"train": ["a", "b", "c"], "test": ["a"]})
    inputs = opened(tmp_path)
    assert inputs.dataset.ignored == ("the smallest boxes of 2 training pictures, which have up to 5 where --max-boxes "
                                      "is 3: 3 boxes")
    assert inputs.flip and inputs.canvas == (20, 20) and inputs.bad.total == 4
    assert inputs.bad.path == tmp_path / "bad_files.txt" and opened(tmp_path, dry_run=True).bad.path is None
    (batch,) = inputs.eval_batches("test")
    assert batch["box_mask"][0].sum() == 3 and len(inputs.ground_truth("test")[0]["boxes"]) == 5
    with pytest.raises(ConfigError, match="--data-cache"):
        opened(tmp_path, data_cache=True)
    with pytest.raises(ConfigError, match="--resident with --data voc:.*: pictures with boxes are cropped on the host"):
        opened(tmp_path, TrainingConfig, resident=True)
    assert opened(tmp_path, TrainingConfig).gather(0) is None
    assert opened(tmp_path, batch_size=4).batch_size == 3


def test_a_step_and_an_evaluation_run_on_these_batches(inputs):
    """A task that predicts how many objects there are, from the mean colour."""
    def count(params, images):
        return images.mean((1, 2)) @ params["weights"]

    def loss(params, model_state, batch, rng):
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        images = jax.vmap(inputs.augment)(keys, batch["image"])
        gap = count(params, images) - batch["box_mask"].sum(1)
        return (gap**2).mean(), Aux({}, model_state)

    def error(variables, batch):
        gap = count(variables["params"], inputs.preprocess(batch["image"])) - batch["box_mask"].sum(1)
        return {"error": masked_sum(abs(gap), batch["mask"])}

    task = Task(lambda rng, batch: {"params": {"weights": np.zeros(3, np.float32)}}, loss, error)
    engine, optimizer = MeshEngine(), optax.sgd(0.1)
    state = engine.create(lambda _: create_state(lambda rng: task.init(rng, example_batch(inputs)), optimizer,
                                                 jax.random.key(0)), None)
    batches = inputs.train_batches(seed=0, workers=0)
    step = make_train_step(task, optimizer)
    state, metrics = jax.jit(step)(state, {name: values for name, values in next(batches).items()})
    batches.close()
    assert np.abs(state.params["weights"]).max() > 0
    found = evaluate(task, engine)(state.variables, inputs.eval_batches("test"))
    assert np.isfinite(found["error"])


# --- a training without an object, and a test without one, are refused before the first step


GOOD = ("cat", (1, 1, 5, 6))


def refused(root, spec) -> str:
    with pytest.raises(DataError) as error:
        make_detection_inputs(DataConfig(data=spec, data_max_bad=1.0, batch_size=1), canvas=(20, 20), max_boxes=3,
                              folder=types.SimpleNamespace(path=root))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("objects, reasons", [
    ([("cat", (1, 1, 5, 6), "true")] * 2, "6 objects are difficult"),
    ([("dog", (1, 1, 5, 6))], "3 boxes of unknown classes, left out (dog)"),
    ([("cat", (90, 90, 95, 95))], "3 boxes wholly outside of their picture, left out (a, b, c)"),
    ([("cat", (3, 3, 3, 3)), ("dog", (1, 1, 5, 6))],
     "3 boxes of unknown classes, left out (dog); 3 boxes without area"),
    ([], "their annotations name none")])
def test_voc_without_an_object(tmp_path, objects, reasons):
    write_voc(tmp_path, {**{name: objects for name in "abc"}, "d": [GOOD]}, {"train": "abc", "test": "d"})
    (tmp_path / "classes.txt").write_text("cat\ncow\n")
    assert f"none of the 3 train pictures has an object that counts: {reasons}" in refused(tmp_path, f"voc:{tmp_path}")
    write_voc(tmp_path, {}, {"train": "d", "test": "abc"})
    assert f"none of the 3 test pictures has an object that counts: {reasons}" in refused(tmp_path, f"voc:{tmp_path}")


@pytest.mark.parametrize("change, reasons", [
    (dict(category_id="1"), "3 boxes of unknown classes, left out (category '1')"),
    (dict(image_id="1000"), "3 boxes of pictures that the file does not list, left out (train, image_id '1000')"),
    (dict(iscrowd="yes"), "3 objects are difficult"), (dict(bbox=[0, 0, 0, 0]), "3 boxes without area, left out")])
def test_coco_without_an_object(tmp_path, change, reasons):
    write_coco(tmp_path, {"train": [[(1, (1, 1, 4, 5))] * 3], "val": [[(1, (1, 1, 4, 5))]]}, [(1, "cat")])
    file = tmp_path / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry.update(change)
    file.write_text(json.dumps(content))
    assert f"none of the 1 train pictures has an object that counts: {reasons}" in refused(tmp_path, f"coco:{tmp_path}")


def test_objects_in_records_that_are_read():
    """Scenes, and TFDS's records, show their objects only when they are read; a record that cannot be is passed over.
    """
    class Records(list):
        def __getitem__(self, index):
            flags = super().__getitem__(index)
            if flags is None:
                raise DecodeError("damaged")
            return {"box_difficult": np.array(flags, bool)}

    def dataset(*records):
        return Dataset(Records(records), None, ("a",), 3)

    check_objects("tfds:x", dataset(None, [], [True, False], None))
    with pytest.raises(DataError, match="none of the 2 train pictures has an object that counts: 1 objects are diff"):
        check_objects("tfds:x", dataset(None, [], [True]))
