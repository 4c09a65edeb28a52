"""Detection runs of a few steps: what is judged and written, what is refused; and a real one."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from cvjax.data.boxes.selective_search import selective_search
from cvjax.data.dataset import Dataset
from cvjax.data.decode import DecodeError
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.scenes import open_scenes
from cvjax.errors import ConfigError
from cvjax.evaluate.mean_ap import Curve, Detections, Truth
from cvjax.models import list_models
from cvjax.models.fast_rcnn import FastRCNN
from cvjax.tasks.detection import Detector
from cvjax.train.checkpoint import Checkpointer, restore_weights
from cvjax.workflow import training
from cvjax.workflow.detection.model import (
    DETECTORS,
    Start,
    TrainedDetector,
    build_model,
    load_detector,
    load_start,
    open_start,
    put_in,
)
from cvjax.workflow.detection.report import average_precision, best_scores
from cvjax.workflow.prediction.predictor import load
from cvjax.workflow.prepared import build_optimizer
from cvjax.workflow.restore import load_run
from experiments.detect import PRESETS, Config
from tests.data.detection_folders import write_voc
from tests.data.pictures import encode

MODEL = ("--model-fields", "backbone=resnet20", "backbone_fields={'width':4,'depths':(1,1)}", "head_width=8",
         "head_depth=1")
BASE = ("--data", "scenes:40,9,32", "--canvas", 32, 32, "--batch-size", 8, "--steps", 12, "--log-every", 2,
        "--schedule", "cosine", "--checkpoint-every", 6, "--color-jitter", 0.2, 0.2, 0.2, 0.1, "--mosaic", 0.3,
        "--optimizer", "adam", "--base-learning-rate", 0.3, "--backbone-rate", 0.5, "--max-detections", 20, *MODEL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(command, runs):
    """`train("name", ...)`: the folder of a run to its end; asked again, the finished one."""
    def run(name: str, *arguments) -> Path:
        done = command("detect", "--run-dir", runs / name, *arguments)
        assert done.status == 0, done.err
        return runs / name

    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_nothing_is_compiled_once_the_first_checkpoint_is_written(train, monkeypatch):
    """At step 6, in the second epoch of three; objects by picture differ, shapes do not."""
    compiled, seen, fit = [], [], training.fit

    def note(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    def noting(state, step, batches, **options):
        def counted(*arguments):
            result = step(*arguments)
            seen.append(len(compiled))
            return result

        return fit(state, counted, batches, **options)

    monkeypatch.setattr(training, "fit", noting)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        train("whole", *BASE)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert len(seen) == 12 and seen[0] > 0
    assert seen[6] == seen[11]


def test_a_run_writes_numbers_pictures_and_a_detector_that_answers(train):
    folder = train("whole", *BASE)
    metrics, protocol = summary(folder)["metrics"], summary(folder)["protocol"]
    assert {"test/ap50", "test/ap50_11point", "test/ap", "test/ap75"} <= set(metrics)
    assert protocol["test"] == {
        "score_threshold": 0.001, "nms_threshold": 0.5, "max_detections": 20, "iou": 0.5,
        "boxes": "pixels of the files", "difficult": "neither asked for nor wrong to find"}
    assert protocol["images"]["canvas"] == [32, 32] and protocol["chosen_by"] == "last step"
    detector, data = load_detector(folder), open_scenes("boxes", train=40, test=9, side=32)
    assert detector.class_names == tuple("0123456789") and detector.channels == 3
    # Batches of another size round differently: a pair of near scores may change places.
    again(folder, detector, data, 0.02)


def test_the_command_writes_what_the_call_answers(train, command, tmp_path):
    folder, data = train("whole", *BASE), open_scenes("boxes", train=40, test=9, side=32)
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for number, path in enumerate(paths):
        path.write_bytes(encode(data.test[number]["image"].repeat(2, axis=0)))  # 64 x 32 pixels
    done = command("predict", *paths, "--checkpoint", folder, "--output", tmp_path / "out", "--batch-size", 1,
                   "--threshold", 0.01, "--top", 7)
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    detector, count = load_detector(folder), 0
    for path, line in zip(paths, lines, strict=True):
        found, answer = detector.predict(path), load(folder)(path).limited(top=7, threshold=0.01)
        assert (line["height"], line["width"]) == answer.size == (64, 32)
        np.testing.assert_array_equal(answer.boxes, found["boxes"][:len(answer.boxes)])
        assert [(each["name"], np.float32(each["score"])) for each in line["objects"]] == [
            (answer.names[label], score) for label, score in zip(answer.labels, answer.scores)]
        np.testing.assert_array_equal(np.float32([each["box"] for each in line["objects"]]).reshape(-1, 4),
                                      answer.boxes)
        count += len(answer.boxes)
        assert (tmp_path / "out" / "drawn" / f"{path.name}.jpg").stat().st_size > 1000
    assert count > 3
    said = command("predict", paths[0], "--checkpoint", folder, "--threshold", 0.01, "--top", 1).out
    assert said.startswith(f"{paths[0]}: 1 object: ")
    complaint = command("predict", paths[0], "--checkpoint", folder, folder).complaint
    assert "holds a detector; this takes a classifier" in complaint


REGIONS = ("--data", "scenes:16,5,32", "--canvas", 32, 40, "--batch-size", 4, "--steps", 4, "--schedule", "cosine",
           "--log-every", 2, "--model", "fast_rcnn", "--max-detections", 20, "--proposals", "quality",
           "--sides", 20, 28, "--exposure-jitter", 1.5, 1.5,
           "--max-proposals", 12, "--model-fields", "backbone=resnet20", "backbone_fields={'width':4,'depths':(1,1)}",
           "map=layer2", "bins=2", "fc_width=8")


def region_echo(model, **options) -> Detector:
    """Finds each region that it is given, of class 0, in their order; compiled in no time."""
    def losses(params, model_state, images, batch, key):
        return {"given": params["weight"] * batch["proposal_mask"].sum(1)}, model_state

    def detect(variables, images, extent, proposals, there):
        score = jnp.broadcast_to(1 / (1 + jnp.arange(there.shape[1])), there.shape)
        return {"boxes": proposals, "score": score, "box_label": jnp.zeros(there.shape, jnp.int32), "valid": there}

    return Detector(lambda rng, images: {"params": {"weight": jnp.ones(())}}, losses, detect,
                    ("proposals", "proposal_mask"))


def test_a_detector_of_given_regions_is_given_them_everywhere(train, monkeypatch):
    """Training, evaluation and pictures have those of the file, which are searched for once; so has a photo."""
    import cvjax.data.boxes.selective_search as proposals

    asked, search = [], proposals._search

    def noting(image, mode):
        asked.append((image.shape, mode))
        return search(image, mode)

    monkeypatch.setattr(proposals, "_search", noting)
    monkeypatch.setitem(DETECTORS, FastRCNN, region_echo)
    folder = train("echo", *REGIONS)
    assert asked == [((32, 32, 3), "quality")] * 21
    assert summary(folder)["protocol"]["test"]["regions"] == "selective search (quality), at most 12"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any(value > 1 for line in lines for name, value in line.items() if name.endswith("given")), lines
    detector, data = load_detector(folder), open_scenes("boxes", train=16, test=5, side=32)
    assert summary(folder)["protocol"]["images"]["resize"] == "short side 20, long side at most 28"
    again(folder, detector, data, 1e-9)
    photo = data.test[0]["image"]
    expected = selective_search(photo, "quality", max_proposals=12)
    np.testing.assert_array_equal(detector.predict(encode(photo))["boxes"], expected)
    assert len(expected) and len(asked) == 21
    half = photo[:16, :20]  # enlarged by 5 / 4, and back; regions that come in the same order
    expected = selective_search(half, "quality", max_proposals=12)
    np.testing.assert_array_equal(detector.predict(half)["boxes"], expected)
    assert len(expected) and asked[21:] == [((16, 20, 3), "quality")]
    assert detector.example(half)["scale"] == np.float32(20 / 16), "the short side gets 20 pixels in a photo too"
    (folder / "photo.png").write_bytes(encode(half))
    for form in (folder / "photo.png", str(folder / "photo.png"), Image.fromarray(half)):
        np.testing.assert_array_equal(detector.predict(form)["boxes"], expected)
    with pytest.raises(DecodeError, match="is an address: download it first"):
        detector.predict("https://example.org/photo.png")


@pytest.mark.slow
def test_fast_rcnn_runs(train):
    folder = train("regions", *REGIONS)
    assert {"test/ap50", "test/ap"} <= set(summary(folder)["metrics"])
    # Batches of another size round differently.
    again(folder, load_detector(folder), open_scenes("boxes", train=16, test=5, side=32), 0.02)


def again(folder: Path, detector: TrainedDetector, data: Dataset, tolerance: float) -> None:
    """The pictures are there, and the numbers are those of the test pictures one at a time."""
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "detections.png", "precision_recall.png", "curves.png", "best_scores.json"}
    truth, truths, detections = data.test.ground_truth(), [], []
    for i in range(len(data.test)):
        found = detector.predict(encode(data.test[i]["image"]))
        truths.append(Truth(*(truth[i][name] for name in ("boxes", "box_label", "box_difficult"))))
        detections.append(Detections(found["boxes"], found["score"], found["box_label"]))
        assert (np.diff(found["score"]) <= 0).all() and found["boxes"].shape == (len(found["score"]), 4)
    assert sum(len(d.scores) for d in detections) > len(data.test)
    for name, value in average_precision(truths, detections, data.class_names).items():
        assert summary(folder)["metrics"][f"test/{name}"] == pytest.approx(value, abs=tolerance), name


def test_a_dry_run_searches_for_no_regions(command, tmp_path, monkeypatch):
    import cvjax.data.boxes.selective_search as proposals

    monkeypatch.setattr(proposals, "selective_search", None)
    done = command("detect", *REGIONS, "--run-dir", tmp_path / "run", "--dry-run")
    assert done.status == 0, done.err


def test_fully_connected_layers_come_along_to_fast_rcnn(monkeypatch):
    config = dataclasses.replace(Config(**PRESETS["voc_fast_rcnn_vgg16"]), canvas=(32, 32),
                                 model_fields=("backbone_fields={'width':2,'fc_width':8}", "fc_width=8"))
    model = build_model(config, channels=3, num_classes=2)
    backbone = model.make_backbone()
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32))
    learnt = jax.tree.map(lambda leaf: np.full(leaf.shape, 7.0, leaf.dtype), shapes)
    start = Start("weights.pth", False, lambda backbone, seed: learnt, Preprocessing(), None)
    given = {"/".join(path[1:]) for path in load_start(start, model, 0)}
    assert {"fc6/kernel", "fc6/bias", "fc7/kernel", "fc7/bias", "backbone/conv5_3/kernel"} <= given
    assert not any(path.startswith("box_predictor") for path in given)
    fields = ("backbone_fields={'width':2,'fc_width':8}", "fc_width=4")
    narrow = build_model(dataclasses.replace(config, model_fields=fields), channels=3, num_classes=2)
    given = {path[1] for path in load_start(start, narrow, 0)}
    assert given == {"backbone"}, "layers of other widths start fresh"


class Killed(BaseException):
    """In the place of a SIGKILL."""


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_was_not(train, command, runs, monkeypatch):
    import cvjax.workflow.folder as folders
    import experiments.wiring.detect as detecting

    monkeypatch.setattr(detecting, "report", lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)
    save = Checkpointer.save

    def save_and_die(self, state, meta, metrics=None):
        save(self, state, meta, metrics)
        self.wait()
        raise Killed

    monkeypatch.setattr(Checkpointer, "save", save_and_die)
    with pytest.raises(Killed):
        command("detect", "--run-dir", runs / "killed", *BASE)
    monkeypatch.setattr(Checkpointer, "save", save)
    killed, other = train("killed", *BASE), train("whole", *BASE)
    assert summary(killed)["params_sha256"] == summary(other)["params_sha256"]
    assert summary(killed)["metrics"] == summary(other)["metrics"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_fits_together(name):
    config = Config(**PRESETS[name])
    if config.model not in list_models():
        pytest.skip(f"no {config.model}")
    model = build_model(config, channels=3, num_classes=20)
    assert model.num_classes == 20 and model.image_size == config.canvas
    _, schedule = build_optimizer(config, 1000)
    peak = config.base_learning_rate * config.batch_size / 256
    assert max(float(schedule(step)) for step in range(0, 1000, 20)) == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize("name, bias_rate, bias_decay", [
    ("voc_fast_rcnn_vgg16", 2, 0), ("voc_faster_rcnn_vgg16", 2, 5e-4), ("voc_yolov1", 1, 0),
    ("coco_faster_rcnn_resnet50_fpn", 1, 1e-4), ("bccd_yolov1", 1, None)])
def test_biases_learn_and_decay_as_the_sources_state(name, bias_rate, bias_decay):
    """Caffe's lr_mult and decay_mult, Darknet's and torchvision's decay; beside a backbone's rate and frozen layers."""
    config = Config(**PRESETS[name])
    layer = {"kernel": jnp.full((2, 3), 4.0), "bias": jnp.full(3, 8.0)}
    params = {"backbone": {"conv2_2": layer, "conv3_1": layer}, "head": layer}
    optimizer, schedule = build_optimizer(
        config, 1000, frozen=lambda path: "conv2_2" in path,
        layer_scale=lambda path: 0.5 if path.startswith("backbone/") else 1.0)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    if bias_decay is None:
        assert config.bias_rate == 1 and config.optimizer == "muon", "our own"
        return
    rate = float(schedule(0))
    assert not any(leaf.any() for leaf in updates["backbone"]["conv2_2"].values())
    for part, share in ((updates["backbone"]["conv3_1"], 0.5), (updates["head"], 1.0)):
        np.testing.assert_allclose(part["kernel"], -rate * share * (1 + 4 * config.weight_decay), rtol=1e-6)
        np.testing.assert_allclose(part["bias"], -rate * share * bias_rate * (1 + 8 * bias_decay), rtol=1e-6)


def test_a_dry_run_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("detect", "--dry-run")
    assert done.status == 0 and "2,000 training and 500 test images, 10 classes, seen at 64x64x3" in done.out, done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, message", [
    ("nope", "unknown preset 'nope': it must be one of scenes, bccd_yolov1"),
    ("--data digits", "unknown data set 'digits' for detection; allowed: scenes"),
    ("--data scenes:3", "scenes:3: it must be scenes or scenes:TRAIN,TEST,SIDE"),
    ("--data voc:/missing", "voc:/missing has no folder Annotations"),
    ("--canvas 0 9", "--canvas (0, 9): it must be HEIGHT WIDTH of at least 1"),
    ("--sides 5 4", "--sides (5, 4): it must be SHORT LONG with 1 <= SHORT <= LONG"),
    ("--sides 20 32 --mosaic 0.5", "--mosaic 0.5: it must be 0 with --sides"),
    ("--exposure-jitter 1.5 0.5", "--exposure-jitter (1.5, 0.5): it must be two numbers of at least 1"),
    ("--bias-rate 0", "--bias-rate 0.0: it must be more than 0"),
    ("--max-boxes 0", "--max-boxes 0: it must be at least 1"),
    ("--max-detections 0", "--max-detections 0: it must be at least 1"),
    ("--max-proposals 0", "--max-proposals 0: it must be at least 1"),
    ("--max-proposals 9", "--max-proposals 9: yolo takes no regions from elsewhere; leave it out"),
    ("--proposals fast", "--proposals fast: yolo takes no regions from elsewhere; leave it out"),
    ("--crop-ratio 0.5", "--crop-ratio 0.5: it must be at least 1"),
    ("--zoom-out 0", "--zoom-out 0.0: it must be in (0, 1]"), ("--mosaic 2", "--mosaic 2.0: it must be in [0, 1]"),
    ("--score-threshold -1", "--score-threshold -1.0: it must be in [0, 1]"),
    ("--nms-threshold 2", "--nms-threshold 2.0: it must be in [0, 1]"),
    ("--backbone-rate 0", "--backbone-rate 0.0: it must be more than 0"),
    ("--freeze up-to:nothing", "--freeze up-to:nothing: the model has no such module"),
    ("--data-cache", "--data-cache with --data scenes"), ("--resident", "--resident with --data scenes"),
    ("--model resnet18 --model-fields", "--model resnet18 is no detector: its class must be one of FastRCNN, F"),
    ("--model yolov9", "unknown model 'yolov9'"), ("--scan", "--scan True: yolo has no scan"),
    ("--model-fields image_size=3", "--model-fields image_size=3: this field follows from the data"),
    ("--pretrained /missing.pth", "--pretrained /missing.pth"),
    ("--patience 3", "--patience 3: it must be 0 without --eval-every")])
def test_an_impossible_configuration_is_one_line(command, tmp_path, arguments, message):
    preset = ["nope"] if arguments == "nope" else []
    done = command("detect", *preset, "--data", "scenes:40,9,32", "--canvas", 32, 32, *MODEL, "--batch-size", 8,
                   *arguments.split()[len(preset):], "--run-dir", tmp_path / "run", "--dry-run")
    assert message in done.complaint
    assert not (tmp_path / "run").exists()


def test_a_part_without_objects_has_no_precision():
    nothing = Truth(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool))
    with pytest.raises(ConfigError, match="the pictures of this part have no objects to find"):
        average_precision([nothing], [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))], ["a"])


def test_a_picture_shows_what_the_best_f1_of_each_class_counts():
    """Right, right, wrong, of three objects: F1 is 1/2, 4/5 and 2/3. The other classes are never found."""
    curves = [Curve(np.array([1, 2, 2]) / 3, np.array([1, 1, 2 / 3]), np.array([0.9, 0.4, 0.2])), None,
              Curve(np.zeros(1), np.zeros(1), np.ones(1)), Curve(*[np.zeros(0)] * 3)]
    assert best_scores(curves) == [0.4, 1.0, 1.0, 1.0]


@pytest.mark.slow
def test_a_detector_starts_from_a_run(train):
    folder = train("whole", *BASE)
    learnt = load_detector(folder).variables
    run = load_run(folder)
    model = run.model
    fresh = jax.tree.map(np.zeros_like, learnt)
    start = open_start(str(folder), "yolo")
    for x, y in zip(jax.tree.leaves(put_in(fresh, load_start(start, model, 0))), jax.tree.leaves(learnt)):
        np.testing.assert_array_equal(x, y)
    wider = model.clone(num_boxes=3)
    with pytest.raises(ConfigError, match=r"the model's output/bias is \(25,\), the weights' is \(20,\)"):
        load_start(start, wider, 0)


@pytest.mark.slow
def test_a_backbone_starts_from_a_classifier_and_may_be_held_still(train, command, tmp_path):
    done = command("supervised", "--model", "resnet20", "--model-fields", "width=4", "depths=(1,1)", "--data", "digits",
                   "--steps", 12, "--run-dir", tmp_path / "digits", "--no-flip")
    assert done.status == 0, done.err
    done = command("detect", *BASE, "--pretrained", tmp_path / "digits", "--run-dir", tmp_path / "none")
    assert "conv1/kernel is (3, 3, 3, 4), the weights' is (3, 3, 1, 4)" in done.complaint, "digits are grey"
    write_classes(tmp_path / "colours")
    done = command("supervised", "--model", "resnet20", "--model-fields", "width=4", "depths=(1,1)", "--image-size", 32,
                   "--data", f"folder:{tmp_path / 'colours'}", "--batch-size", 4, "--steps", 12, "--run-dir",
                   tmp_path / "classifier", "--no-flip")
    assert done.status == 0, done.err
    folder = train("frozen", *BASE, "--pretrained", tmp_path / "classifier", "--freeze", "backbone",
                   "--backbone-rate", 1)
    from cvjax.workflow.classification.model import load_classifier

    theirs = flatten_dict(load_classifier(tmp_path / "classifier").variables)
    for path, leaf in flatten_dict(load_detector(folder).variables).items():
        if path[1] == "backbone":
            np.testing.assert_array_equal(leaf, theirs[(path[0], *path[2:])])


def write_classes(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
            (root / name / f"{i}.png").write_bytes(encode(pixels))


# Adam would divide small gradients, which differ by their rounding, by themselves.
STEADY = (*BASE, "--steps", 4, "--optimizer", "momentum", "--base-learning-rate", 0.3, "--clip-norm", 1)


@pytest.mark.slow
def test_pmap_gives_the_numbers_of_jit(train):
    compare(train("jit", *STEADY), train("pmap", *STEADY, "--parallel", "pmap"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_eight_devices_give_the_numbers_of_one(process, train, runs, parallel):
    done = process("detect", "--run-dir", runs / f"eight-{parallel}", *STEADY, "--parallel", parallel, devices=8)
    assert done.status == 0, done.err
    compare(train("jit", *STEADY), runs / f"eight-{parallel}")


def compare(first: Path, second: Path) -> None:
    a, b = (jax.tree.leaves(restore_weights(folder / "checkpoints", "latest")[0]) for folder in (first, second))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_photos_in_files_and_their_validation_part(train, tmp_path):
    objects = [("cat", (2, 2, 9, 11)), ("dog", (8, 3, 19, 14), 0), ("dog", (1, 1, 4, 4), 1)]
    names = [f"{i}" for i in range(8)]
    write_voc(tmp_path, {name: objects for name in names}, {"trainval": names[:5], "test": names[5:]})
    folder = train("voc", "--data", f"voc:{tmp_path}", "--canvas", 32, 48, "--batch-size", 2, "--steps", 6,
                   "--schedule", "cosine", "--validation", 0.4, "--eval-every", 3, *MODEL)
    assert "validation/ap50" in summary(folder)["metrics"] and "test/ap50" in summary(folder)["metrics"]
    assert summary(folder)["protocol"]["chosen_by"] == "validation/ap50"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_scenes_are_learnt(process, tmp_path):
    """The default command, without network access; minutes on two cores."""
    done = process("detect", "--run-dir", tmp_path / "run", timeout=1400)
    assert done.status == 0, done.err
    assert summary(tmp_path / "run")["metrics"]["test/ap50"] >= 0.85
