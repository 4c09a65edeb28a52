"""Segmentation runs of a few steps: what is fed, what is judged and written, what is refused; and a real one."""

import dataclasses
import json
import os
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import ArraySource, Dataset
from cvjax.data.decode import DecodeError, decode_label_map
from cvjax.data.label_maps import open_segmentation
from cvjax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from cvjax.evaluate.mean_iou import pixel_confusion, segmentation_scores
from cvjax.models.image_model import ImageModel
from cvjax.tasks.segmentation import segmentation_task
from cvjax.train.checkpoint import Checkpointer, restore_weights
from cvjax.train.loop import evaluate
from cvjax.train.mesh import MeshEngine
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.prediction.predictor import load
from cvjax.workflow.prepared import build_optimizer
from cvjax.workflow.segmentation.inputs import SegmentationInputs
from cvjax.workflow.segmentation.model import Segmenter, build_segmenter, load_segmenter
from cvjax.workflow.segmentation.report import baselines, predictions
from experiments.segment import PRESETS, Config
from tests.data.pictures import encode, photo

FCN = ("--model-fields", "backbone=resnet20", "backbone_fields={'width':4,'depths':(1,1)}", "maps=2", "dropout=0.0")
BASE = ("--data", "scenes:40,9,32", "--crop-size", 32, 32, "--batch-size", 8, "--steps", 4, "--schedule", "cosine",
        "--log-every", 2, "--checkpoint-every", 2, "--class-weights", "median_frequency", "--grayscale", 0.3,
        "--backbone-rate", 0.5, "--bias-rate", 2, "--optimizer", "momentum", *FCN)


class Mixture(ImageModel):
    """A 1x1 convolution: each pixel is judged by itself."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.Conv(self.num_classes, (1, 1))(images)


class Photos(ArraySource):
    """Photos of many sizes with label maps of two classes and void; one is no picture."""

    def __init__(self, count=14):
        super().__init__(np.arange(count), np.full(count, -1, np.int32))

    def __getitem__(self, index):
        number = int(self.images[index])
        height, width = 20 + 3 * (number % 5), 31 - number
        labels = np.random.default_rng(number).choice([0, 1, 255], (height, width)).astype(np.uint8)
        image = b"no picture" if number == 6 else photo(height, width, seed=number)
        return {"image": image, "label": -1, "index": int(index), "label_map": labels}

    channels, fingerprint = 3, "photos"

    def name(self, index):
        return f"photo {self.images[index]}"

    def take(self, positions):
        taken = Photos(len(positions))
        object.__setattr__(taken, "images", self.images[positions])
        return taken


@pytest.fixture
def inputs() -> SegmentationInputs:
    dataset = Dataset(Photos(), Photos(), ("a", "b", "c"), 3)
    return SegmentationInputs(dataset, (16, 24), 4, BadFiles(28, 0.5), Preprocessing())


# --- evaluation of images of any size


def normalized(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)


def test_every_image_is_evaluated_whole_by_a_handful_of_programs(inputs):
    """Thirteen sizes, six programs; the numbers are those of one image at a time, counted slowly."""
    traced, model = [], Mixture()
    task = segmentation_task(model, augment=inputs.augment, preprocess=inputs.preprocess,
                             scores=lambda confusion: segmentation_scores(confusion, "abc"))
    variables = jax.device_get(task.init(jax.random.key(0), {"image": np.zeros((1, 4, 4, 3), np.uint8)}))
    noting = task.evaluate
    task = type(task)(task.init, task.loss, lambda v, b: (traced.append(b["image"].shape), noting(v, b))[1],
                      summarize=task.summarize)
    batches = list(inputs.eval_batches("test"))
    shapes = {batch["image"].shape for batch in batches}
    assert len(shapes) == 6 and all(shape[0] == 4 for shape in shapes)
    seen = sorted(int(i) for batch in batches for i in batch["index"][batch["mask"]])
    assert seen == [i for i in range(14) if i != 6] and list(inputs.bad.reasons) == ["photo 6"]
    kernel, bias = variables["params"]["Conv_0"]["kernel"][0, 0], variables["params"]["Conv_0"]["bias"]
    found = evaluate(task, MeshEngine())(variables, batches)
    assert sorted(traced) == sorted(shapes)
    confusion = 0
    for i in seen:
        record = inputs.dataset.test[i]
        logits = normalized(record["image"]) @ kernel + bias
        confusion += pixel_confusion(record["label_map"], logits.argmax(axis=-1), 3)
    expected = segmentation_scores(confusion, "abc")
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    segmenter = Segmenter(model, variables, ("a", "b", "c"), 3, Preprocessing())
    for index, truth, prediction in predictions(segmenter, inputs, "test"):
        record = inputs.dataset.test[index]
        np.testing.assert_array_equal(truth, record["label_map"])
        logits = normalized(record["image"]) @ kernel + bias
        np.testing.assert_array_equal(prediction, logits.argmax(axis=-1))


def test_processes_share_every_bucket(inputs):
    parts = [list(inputs.eval_batches("test", (p, 2))) for p in (0, 1)]
    assert [b["image"].shape for b in parts[0]] == [b["image"].shape for b in parts[1]]
    seen = sorted(int(i) for part in parts for batch in part for i in batch["index"][batch["mask"]])
    assert seen == [i for i in range(14) if i != 6]


def test_training_batches_have_the_stated_shapes(inputs):
    batches = inputs.train_batches(seed=0, workers=0)
    batch = next(batches)
    batches.close()
    shapes = inputs.batch_shapes()
    assert {name: array.shape for name, array in batch.items()} == {name: x.shape for name, x in shapes.items()}
    assert batch["label_map"].dtype == np.int32 and inputs.seen_shape == (16, 24, 3)
    assert inputs.gather(0) is None


def test_a_photo_of_any_size_is_answered(tmp_path):
    model = Mixture()
    variables = model.init(jax.random.key(0), np.zeros((1, 4, 4, 3)))
    segmenter = Segmenter(model, variables, ("a", "b", "c"), 3, Preprocessing())
    pixels = photo(37, 70)
    answer = segmenter.predict(encode(pixels))
    assert answer.shape == (37, 70) and answer.dtype == np.uint8
    np.testing.assert_array_equal(answer, segmenter.labels(variables, pixels[None])[0])
    assert segmenter.predict(pixels[:1, :1, 0]).shape == (1, 1), "grey arrays too"
    (tmp_path / "photo.png").write_bytes(encode(pixels))
    for form in (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(pixels)):
        np.testing.assert_array_equal(segmenter.predict(form), answer)
    with pytest.raises(DecodeError, match="is an address: download it first"):
        segmenter.predict("https://example.org/photo.png")


# --- whole runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(command, runs):
    """`train("name", ...)`: the folder of a run to its end; asked again, the finished one."""
    def run(name: str, *arguments) -> Path:
        done = command("segment", "--run-dir", runs / name, *arguments)
        assert done.status == 0, done.err
        return runs / name

    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_writes_numbers_pictures_and_a_model_that_answers(train):
    folder = train("whole", *BASE)
    metrics, names = summary(folder)["metrics"], ["background", *"0123456789"]
    assert {"test/loss", "test/miou", "test/pixel_accuracy", "test/mean_accuracy", "test/boundary_f"} <= set(metrics)
    assert {f"{kind}/{name}" for kind in ("majority", "colour", "colour_position")
            for name in ("miou", "pixel_accuracy")} <= set(metrics)
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "classes.txt", "confusion.png", "segmentation.png", "curves.png"}
    segmenter, data = load_segmenter(folder), open_segmentation("scenes:40,9,32")
    assert segmenter.class_names == tuple(names) and segmenter.channels == 3
    confusion = sum(pixel_confusion(data.test[i]["label_map"], segmenter.predict(data.test[i]["image"]), 11)
                    for i in range(9))
    for name, value in segmentation_scores(confusion, names).items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-6), name
    truth = np.concatenate([data.test[i]["label_map"] for i in range(9)])
    share = (truth == 0).mean()
    assert metrics["majority/pixel_accuracy"] == pytest.approx(share)
    assert metrics["majority/miou"] == pytest.approx(share / len(np.unique(truth)))
    protocol = summary(folder)["protocol"]
    assert protocol["chosen_by"] == "last step" and protocol["data"]["test_images"] == 9
    weights = protocol["class_weights"]
    assert len(weights) == 11 and 0 < weights[0] < 0.5, "there is much background"


class Killed(BaseException):
    """In the place of a SIGKILL."""


def test_a_run_that_was_killed_ends_as_one_that_was_not(train, command, runs, monkeypatch):
    import cvjax.workflow.folder as folders
    import cvjax.workflow.segmentation.report as segmenting

    monkeypatch.setattr(segmenting, "segmentation_panel", lambda *_, **__: None)
    monkeypatch.setattr(segmenting, "plot_confusion", lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)
    save = Checkpointer.save

    def save_and_die(self, state, meta, metrics=None):
        save(self, state, meta, metrics)
        self.wait()
        raise Killed

    monkeypatch.setattr(Checkpointer, "save", save_and_die)
    with pytest.raises(Killed):
        command("segment", "--run-dir", runs / "killed", *BASE)
    monkeypatch.setattr(Checkpointer, "save", save)
    killed, other = train("killed", *BASE), train("whole", *BASE)
    assert summary(killed)["params_sha256"] == summary(other)["params_sha256"]
    assert summary(killed)["metrics"] == summary(other)["metrics"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_fits_together(name):
    config = Config(**PRESETS[name])
    model = build_segmenter(config, config.crop_size, channels=3, num_classes=21)
    assert model.num_classes == 21
    _, schedule = build_optimizer(config, 1000)
    peak = config.base_learning_rate * config.batch_size / 256
    assert max(float(schedule(step)) for step in range(0, 1000, 10)) == pytest.approx(peak, rel=0.02)


def test_torchvisions_rate_falls_by_its_power():
    config = Config(**PRESETS["fcn_resnet50"])
    _, schedule = build_optimizer(config, 1000)
    assert float(schedule(0)) == pytest.approx(0.02) and float(schedule(500)) == pytest.approx(0.02 * 0.5**0.9)


def test_rates_of_backbone_second_head_and_biases(tmp_path, monkeypatch):
    """One step of plain gradient descent on equal gradients moves each part by its own rate."""
    import experiments.wiring.segment as wiring

    caught = {}
    monkeypatch.setattr(wiring, "prepare_training", lambda config, *_, **options: caught.update(options, config=config))
    config = Config(data="scenes:40,9,32", crop_size=(32, 32), batch_size=8, bias_rate=2.0, backbone_rate=0.5,
                    auxiliary_rate=10.0, weight_decay=0.0, base_learning_rate=32.0, schedule="constant", warmup=0.0,
                    optimizer="sgd", model_fields=("backbone=resnet20", "backbone_fields={'width':4,'depths':(1,1)}",
                                                   "auxiliary_map=layer1"))
    wiring.prepare(config, RunFolder(dataclasses.replace(config, run_dir=tmp_path), "segment", "scenes"))
    params = {part: {"kernel": np.ones((1, 1), np.float32), "bias": np.ones(1, np.float32)} for part in (
        "backbone", "classifier", "aux_classifier")}
    optimizer, _ = build_optimizer(caught["config"], 10, layer_scale=caught["layer_scale"])
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    rates = {part: (-float(each["kernel"][0, 0]), -float(each["bias"][0])) for part, each in updates.items()}
    assert rates == {"backbone": (0.5, 1.0), "classifier": (1.0, 2.0), "aux_classifier": (10.0, 20.0)}


def test_a_dry_run_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("segment", "--dry-run")
    assert done.status == 0 and "2,000 training and 500 test images, 11 classes, seen at 64x64x3" in done.out, done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, message", [
    ("nope", "unknown preset 'nope': it must be one of scenes, camvid"),
    ("--data digits", "unknown data set 'digits' with label maps; allowed: scenes"),
    ("--data folder:/missing", "no such folder: /missing"),
    ("--ignore-label 256", "--ignore-label 256: it must be in [0, 255]"),
    ("--mask-values 0 255", "the labels of scenes are their classes"),
    ("--mask-values 7", "the numbers that stand for classes must be 2 to 255 different ones"),
    ("--ignore-label 3", "all pixels of scenes count"),
    ("--crop-size 0 9", "--crop-size (0, 9): it must be HEIGHT WIDTH of at least 1"),
    ("--crop-ratio 0.5", "--crop-ratio 0.5: it must be at least 1"),
    ("--crop-scale 1 17", "LOW HIGH with 0 < LOW <= HIGH <= 16"),
    ("--backbone-rate 0", "--backbone-rate 0.0: it must be more than 0"),
    ("--auxiliary-rate 0", "--auxiliary-rate 0.0: it must be more than 0"),
    ("--auxiliary-rate 10", "--auxiliary-rate 10.0: fcn has no second head"),
    ("--data-cache", "--data-cache is for images without label maps"),
    ("--resident", "--resident with --data scenes:40,9,32"),
    ("--model resnet18 --model-fields", "it must give a class for each pixel, as fcn"),
    ("--model fcn9", "unknown model 'fcn9'"), ("--scan", "--scan True: fcn has no scan"),
    ("--model-fields num_classes=3", "--model-fields num_classes=3: this field follows from the data"),
    ("--pretrained /missing.pth", "--pretrained /missing.pth"), ("--power 2", "power"),
    ("--grayscale 2", "--grayscale 2.0: it must be in [0, 1]"),
    ("--patience 3", "--patience 3: it must be 0 without --eval-every")])
def test_an_impossible_configuration_is_one_line(command, tmp_path, arguments, message):
    preset = ["nope"] if arguments == "nope" else []
    done = command("segment", *preset, "--data", "scenes:40,9,32", *FCN, "--batch-size", 8,
                   *arguments.split()[len(preset):], "--run-dir", tmp_path / "run", "--dry-run")
    assert message in done.complaint
    assert not (tmp_path / "run").exists()


def camvid_like(root: Path) -> None:
    """Three parts of pictures of two sizes; one training label map is of another size."""
    for part, count in (("train", 12), ("val", 4), ("test", 5)):
        for place in (part, f"{part}annot"):
            (root / place).mkdir(parents=True)
        for i in range(count):
            height, width = (24, 32) if i % 2 else (32, 24)
            pixels = photo(height, width, seed=i)
            labels = (pixels.mean(axis=2) > 128).astype(np.uint8)
            labels[:2] = 255
            if part == "train" and i == 3:
                labels = labels[1:]
            (root / part / f"{i}.png").write_bytes(encode(pixels))
            (root / f"{part}annot" / f"{i}.png").write_bytes(encode(labels))


def test_the_command_writes_what_the_call_answers(train, command, tmp_path):
    folder, photos = train("whole", *BASE), tmp_path / "photos"
    photos.mkdir()
    for name, size in (("a.png", (37, 70)), ("b.png", (70, 37)), ("c.png", (32, 64))):
        (photos / name).write_bytes(encode(photo(*size)))
    done = command("predict", photos, "--checkpoint", folder, "--output", tmp_path / "out", "--batch-size", 1)
    assert done.status == 0, done.err
    segmenter, lines = load_segmenter(folder), (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    for path, line in zip(sorted(photos.iterdir()), map(json.loads, lines), strict=True):
        labels, answer = segmenter.predict(path), load(folder)(path)
        np.testing.assert_array_equal(answer.labels, labels)
        np.testing.assert_array_equal(decode_label_map((tmp_path / "out" / line["label_map"]).read_bytes()), labels)
        assert line["file"] == str(path) and (line["height"], line["width"]) == labels.shape
        assert {each["name"]: each["share"] for each in line["classes"]} == dict(answer.shares())
        with Image.open(tmp_path / "out" / "drawn" / "photos" / f"{path.name}.jpg") as drawn:
            assert drawn.height > drawn.width * labels.shape[0] / labels.shape[1], "a legend is below"
    for option, value in (("--threshold", 0.5), ("--top", 3), ("--figure", tmp_path / "f.png"), ("--crop", 0.5)):
        assert "it must be left out for " in command("predict", photos, "--checkpoint", folder, option, value).complaint


@pytest.mark.slow
def test_photos_in_folders_are_learnt_and_the_best_on_their_validation_part_is_judged(train, command, tmp_path):
    camvid_like(tmp_path)
    arguments = ("--data", f"folder:{tmp_path}", "--crop-size", 16, 24, "--crop-scale", 0.5, 2, "--batch-size", 4,
                 "--steps", 30, "--schedule", "cosine", "--eval-every", 10, "--data-max-bad", 0.1, *FCN)
    folder = train("folder", *arguments)
    metrics = summary(folder)["metrics"]
    assert metrics["test/miou"] > metrics["majority/miou"] and "validation/miou" in metrics
    assert summary(folder)["protocol"]["chosen_by"] == "validation/miou"
    assert "the label map is 23 x 32, its image 24 x 32" in (folder / "bad_files.txt").read_text()
    done = command("segment", *arguments, "--validation", 0.2, "--run-dir", tmp_path / "other")
    assert "brings a validation part of 4 images" in done.complaint


@pytest.mark.slow
def test_pmap_gives_the_numbers_of_jit(train):
    """Batch normalisation and ignored pixels included: crops reach beyond the pictures."""
    arguments = (*BASE, "--crop-scale", 1, 3)
    jit, pmap = train("jit", *arguments), train("pmap", *arguments, "--parallel", "pmap")
    compare(jit, pmap)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_eight_devices_give_the_numbers_of_one(process, train, runs, parallel):
    arguments = (*BASE, "--crop-scale", 1, 3)
    done = process("segment", "--run-dir", runs / f"eight-{parallel}", *arguments, "--parallel", parallel, devices=8)
    assert done.status == 0, done.err
    compare(train("jit", *arguments), runs / f"eight-{parallel}")


def compare(first: Path, second: Path) -> None:
    a, b = (jax.tree.leaves(restore_weights(folder / "checkpoints", "latest")[0]) for folder in (first, second))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    for name, value in summary(first)["metrics"].items():
        assert summary(second)["metrics"][name] == pytest.approx(value, abs=2e-3), name


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_scenes_are_learnt(process, tmp_path):
    """The default command, without network access; minutes on two cores."""
    done = process("segment", "--run-dir", tmp_path / "run", timeout=1400)
    assert done.status == 0, done.err
    metrics = summary(tmp_path / "run")["metrics"]
    assert metrics["test/miou"] >= 0.8 > 0.2 > metrics["colour/miou"]


@pytest.mark.slow
def test_camvid_opens_and_its_baselines_are_what_they_are():
    """CVJAX_DATA names the folder above `camvid`."""
    root = Path(os.environ.get("CVJAX_DATA", "none")) / "camvid"
    if not root.is_dir():
        pytest.skip("no camvid: set CVJAX_DATA to the folder above it")
    data = open_segmentation(f"folder:{root}")
    assert (len(data.train), len(data.validation), len(data.test), data.num_classes) == (367, 101, 233, 11)
    found = baselines(SegmentationInputs(data, (360, 480), 4, BadFiles(701)))
    assert found["majority/miou"] < 0.05 < 0.1 < found["colour/miou"] < found["colour_position/miou"] < 0.35
