"""Supervised runs on the digits of a few steps each: what is kept, what is frozen, what is judged, what is refused."""

import json
import shutil
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
from PIL import Image

from cvjax.data.held_out import fold_out, hold_out
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.evaluate.calibration import expected_calibration_error
from cvjax.interop import save_weights
from cvjax.train.checkpoint import Checkpointer, read_meta, restore_weights
from cvjax.train.log import TIMING
from cvjax.workflow.classification.model import load_classifier
from cvjax.workflow.classification.transfer import is_head

# Without crops, which take most of the time to compile.
BASE = ("--batch-size", 64, "--log-every", 4, "--schedule", "cosine", "--crop-scale", 1, 1)
RESNET = (*BASE, "--model-fields", "depths=(1,)", "width=8")
MLP = (*BASE, "--model", "mlp", "--model-fields", "hidden=(16,)")
LINEAR = (*BASE, "--model", "linear", "--model-fields")
WATCHED = ("--steps", 8, "--validation", 0.2, "--eval-every", 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(command, runs):
    """`train("name", ...)`: the folder of a run to its end; asked again, the finished one."""
    def run(name: str, *arguments) -> Path:
        done = command("supervised", "--run-dir", runs / name, *arguments)
        assert done.status == 0, done.err
        return runs / name

    return run


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take half of a short run's time."""
    import cvjax.workflow.classification.goal as goal
    import cvjax.workflow.classification.report as report
    import cvjax.workflow.folder as folders

    for module, names in ((goal, ("plot_confusion", "plot_reliability")),
                          (report, ("_draw_mistakes", "_explain", "_draw_kernels"))):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in found]


def flat(variables) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in flax.traverse_util.flatten_dict(dict(variables), sep="/").items()}


def weights(folder: Path, step="latest") -> tuple[dict, dict]:
    """Parameters with statistics, and their averages, of a checkpoint."""
    found, _ = restore_weights(folder / "checkpoints", step)
    return flat({"params": found["params"], **found["model_state"]}), flat(found["ema"])


def probabilities(classifier, images) -> np.ndarray:
    return np.asarray(jax.nn.softmax(classifier.logits(classifier.variables, images)))


# --- what is chosen, judged and written


@pytest.mark.slow
def test_the_best_checkpoint_on_validation_is_the_one_that_is_judged(train):
    folder = train("resnet", *RESNET, *WATCHED)
    seen = {line["step"]: line["validation/top1"] for line in lines(folder) if "validation/top1" in line}
    assert list(seen) == [2, 4, 6, 8] and not any("test/top1" in line for line in lines(folder))
    best = max(seen, key=lambda step: (seen[step], step))
    with Checkpointer(folder / "checkpoints", best_metric="top1") as checkpointer:
        assert checkpointer.best_step() == best
    metrics, digits = summary(folder)["metrics"], open_dataset("digits")
    assert metrics["validation/top1"] == pytest.approx(seen[best], abs=1e-6)
    classifier = load_classifier(folder)
    found = probabilities(classifier, digits.test.images)
    own = found[np.arange(360), digits.test.labels]
    assert metrics["test/top1"] == pytest.approx((found.argmax(1) == digits.test.labels).mean(), abs=1e-6)
    assert metrics["test/nll"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert metrics["test/loss"] == pytest.approx(metrics["test/nll"], rel=1e-4), "the loop and the report agree"
    assert metrics["test/ece"] == pytest.approx(expected_calibration_error(found, digits.test.labels), abs=1e-4)
    held = hold_out(digits, 0.2, seed=0).validation
    assert metrics["validation/top1"] == pytest.approx(
        (probabilities(classifier, held.images).argmax(1) == held.labels).mean(), abs=1e-6)
    assert summary(folder)["protocol"]["chosen_by"] == "validation/top1"
    assert summary(folder)["protocol"]["training_images"] == 1150


def test_a_best_checkpoint_that_is_not_the_last_is_judged(train, no_pictures, monkeypatch):
    """The last evaluation is made to look bad."""
    import cvjax.workflow.training as training

    honest, calls = training.evaluate, []

    def evaluate(*arguments):
        evaluation = honest(*arguments)

        def watched(*arguments):
            calls.append(evaluation(*arguments))
            return calls[-1] | ({"top1": 0.0} if len(calls) == 2 else {})

        return watched

    monkeypatch.setattr(training, "evaluate", evaluate)
    folder = train("mlp-early", *MLP, "--steps", 8, "--validation", 0.2, "--eval-every", 4, "--base-learning-rate", 2)
    early, late = (probabilities(load_classifier(folder, step), open_dataset("digits").test.images) for step in (4, 8))
    labels = open_dataset("digits").test.labels
    scores = [-np.log(x[np.arange(360), labels]).mean() for x in (early, late)]
    assert abs(scores[0] - scores[1]) > 0.01
    assert summary(folder)["metrics"]["test/nll"] == pytest.approx(scores[0], rel=1e-4)
    assert summary(folder)["metrics"]["test/loss"] == pytest.approx(scores[0], rel=1e-4)


def test_the_report_has_tables_and_pictures_that_agree_with_the_summary(train):
    folder = train("resnet", *RESNET, *WATCHED)
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {"classes.txt", "confusion.png", "reliability.png", "mistakes.png", "explanations.png",
                     "kernels.png", "curves.png"}
    table = (folder / "figures" / "classes.txt").read_text().splitlines()
    assert [line.split()[0] for line in table] == ["class", *"0123456789", "mean", "accuracy"]
    assert f"{100 * summary(folder)['metrics']['test/top1']:.2f} %" in table[-1] and table[-1].endswith("360")


def test_linear_classifiers_show_their_templates_and_have_nothing_to_explain(train):
    figures = train("linear", *LINEAR, "--steps", 1) / "figures"
    assert (figures / "templates.png").exists()
    assert not (figures / "explanations.png").exists() and not (figures / "kernels.png").exists()


VIT = ("--model", "vit_tiny_patch16_224", "--model-fields", "patch_size=2", "width=16", "depth=2", "heads=2")


@pytest.mark.parametrize("model, fields, headings", [
    ("vit_tiny_patch16_224", dict(patch_size=2, width=16, depth=2, heads=2), ["attention rollout"]),
    ("resnet20", dict(width=8, depths=(1,)), ["Grad-CAM of layer1", "occlusion by 2 pixels"]), ("linear", {}, [])])
def test_vits_are_explained_by_attention_rollout_cnns_by_grad_cam_and_occlusion(model, fields, headings):
    from cvjax.models import create_model
    from cvjax.workflow.classification.report import explanations, preprocess

    model = create_model(model, image_size=8, in_channels=1, num_classes=10, **fields)
    images = preprocess(open_dataset("digits").test.images[:2], 8, Preprocessing.of(1))
    heat = explanations(model, jax.jit(model.init)(jax.random.key(0), images), images, np.array([1, 2]))
    assert list(heat) == headings
    assert all(map_.shape[0] == 2 and np.isfinite(map_).all() for map_ in heat.values())


@pytest.mark.slow
def test_a_vit_is_trained_and_explained(train):
    folder = train("vit", *BASE, *VIT, "--steps", 60, "--optimizer", "adamw", "--base-learning-rate", 8e-3)
    assert summary(folder)["metrics"]["test/top1"] > 0.2 and (folder / "figures" / "explanations.png").exists()


def test_mistakes_show_the_pictures_they_speak_of_where_files_are_unreadable(train, command, tmp_path, monkeypatch):
    """Positions count all files, probabilities the readable ones."""
    import cvjax.workflow.classification.report as report
    from tests.data.pictures import encode

    shown = []
    monkeypatch.setattr(report, "mistake_panel", lambda path, pictures, *rest, **_: shown.append((pictures, *rest)))
    monkeypatch.setattr(report, "_explain", lambda *_: None)
    for part, count in (("train", 16), ("test", 9)):
        for k, name in enumerate(("dark", "light")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((8, 8, 3), 100 * k + i, np.uint8)
                (tmp_path / part / name / f"{i:02}.png").write_bytes(encode(pixels))
    (tmp_path / "test" / "dark" / "00.png").write_bytes(b"no picture")
    done = command("supervised", *LINEAR, "--data", f"folder:{tmp_path}", "--image-size", 8, "--batch-size", 8,
                   "--steps", 1, "--base-learning-rate", 0, "--data-max-bad", 0.5, "--run-dir", tmp_path / "run")
    assert done.status == 0 and "1 unreadable files were skipped" in done.out, done.err
    ((pictures, labels, *_),) = shown
    assert len(pictures) and len(pictures) == len(labels)
    assert [int(picture.mean() * 255 >= 99) for picture in pictures] == labels.tolist()


def test_images_of_other_channels_are_judged_without_pictures(command, tmp_path):
    numbers = np.random.default_rng(0)
    np.savez(tmp_path / "two.npz", train_images=numbers.integers(0, 256, (20, 8, 8, 2), np.uint8),
             train_labels=np.arange(20) % 2)
    done = command("supervised", *LINEAR, "--data", f"npz:{tmp_path}/two.npz", "--batch-size", 8, "--steps", 1,
                   "--run-dir", tmp_path / "run")
    assert done.status == 0 and "test/ece" in summary(tmp_path / "run")["metrics"], done.err


# --- resuming


class Killed(BaseException):
    """In the place of a SIGKILL: nothing catches it, and nothing after a save is done."""


def test_a_run_killed_twice_ends_as_one_that_was_not(train, command, runs, no_pictures, monkeypatch):
    """Batch statistics, averages, the validation part, and early stopping with what it has waited, at a rate so small
    that nothing improves; the second kill comes between the deciding save and the stop."""
    arguments = (*RESNET, "--steps", 40, "--validation", 0.2, "--eval-every", 3, "--patience", 2, "--checkpoint-every",
                 4, "--base-learning-rate", 1e-9, "--ema-decay", 0.9999999, "--crop-scale", 0.7, 1)
    whole = train("whole", *arguments)
    reached = summary(whole)["steps"]
    assert reached < 40 and reached % 3 == 0 and lines(whole)[-1]["step"] == reached
    save, kills = Checkpointer.save, [4, reached]

    def save_and_die(self, state, meta, metrics=None):
        save(self, state, meta, metrics)
        if kills and int(state.step) == kills[0]:
            kills.pop(0)
            self.wait()
            raise Killed

    monkeypatch.setattr(Checkpointer, "save", save_and_die)
    for _ in range(2):
        with pytest.raises(Killed):
            command("supervised", *arguments, "--run-dir", runs / "killed")
    assert read_meta(runs / "killed" / "checkpoints")["early_stopping"]["waited"] == 2
    killed = train("killed", *arguments)
    assert kills == [] and summary(killed)["metrics"] == summary(whole)["metrics"]
    assert summary(killed)["params_sha256"] == summary(whole)["params_sha256"]
    assert summary(killed)["steps"] == reached and lines(killed) == lines(whole)
    for a, b in zip(weights(killed), weights(whole)):
        assert a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


def test_averages_hold_the_running_statistics_too(train):
    state, averages = weights(train("resnet", *RESNET, *WATCHED))
    assert averages.keys() == state.keys() and any(path.startswith("batch_stats/") for path in state)
    moving = [path for path in state if not np.array_equal(state[path], averages[path])]
    assert any(path.startswith("batch_stats/") for path in moving)


@pytest.mark.slow
def test_pmap_gives_the_numbers_of_jit(train, no_pictures):
    jit, pmap = train("resnet", *RESNET, *WATCHED), train("pmap", *RESNET, *WATCHED, "--parallel", "pmap")
    for a, b in zip(weights(jit), weights(pmap)):
        for path in a:
            np.testing.assert_allclose(b[path], a[path], rtol=1e-4, atol=1e-5)
    for name, value in summary(jit)["metrics"].items():
        assert summary(pmap)["metrics"][name] == pytest.approx(value, abs=1e-4)


def test_evaluations_may_see_larger_images_than_training(train, no_pictures, command, tmp_path):
    """The run is judged, and answers later, at the size it says; an average that moves rarely is kept and resumed."""
    arguments = (*RESNET, "--steps", 8, "--eval-size", 12, "--batch-norm-group", 32, "--ema-every", 3, "--ema-start",
                 0.25, "--validation", 0.2)
    folder = train("larger", *arguments)
    assert summary(folder)["protocol"]["images"]["size"] == 12
    classifier = load_classifier(folder)
    assert classifier.image_size == 12 and classifier.preprocessing.crop == 0.875
    _, averages = weights(folder)
    plain = weights(train("not-larger", *(word for word in arguments if word not in ("--eval-size", 12))))
    for path in averages:
        np.testing.assert_array_equal(plain[1][path], averages[path])  # evaluations change nothing of the training


def test_squares_of_files_are_cut_by_the_short_side(command, tmp_path, no_pictures):
    for split, count in (("train", 8), ("test", 2)):
        for label in "ab":
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / label / f"{number}.png")
    arguments = ("supervised", "--data", f"folder:{tmp_path / 'photos'}", "--image-size", 16, "--model", "linear",
                 "--model-fields", "--batch-size", 4, "--steps", 2, "--schedule", "cosine", "--short-side")
    assert command(*arguments, 18, 24, "--run-dir", tmp_path / "run").status == 0
    refused = command(*arguments, 12, 24, "--run-dir", tmp_path / "other").complaint
    assert "--short-side 12 24: both must be at least 16, the side of the crops" in refused


# --- shares and folds


def test_folds_are_models_of_their_own_and_their_mean_is_judged(train, no_pictures, command):
    folder = train("folds", *LINEAR, "--steps", 4, "--folds", 2, "--base-learning-rate", 1)
    found, digits = summary(folder)["metrics"], open_dataset("digits")
    parts = [summary(folder / f"fold-{fold}") for fold in range(2)]
    values = [part["metrics"]["validation/top1"] for part in parts]
    assert found["folds/top1_mean"] == pytest.approx(np.mean(values))
    assert found["folds/top1_std"] == pytest.approx(np.std(values, ddof=1))
    each = []
    for fold, part in enumerate(parts):
        held, classifier = fold_out(digits, 2, fold, seed=0), load_classifier(folder / f"fold-{fold}")
        assert part["protocol"]["training_images"] == len(held.train)
        answers = probabilities(classifier, held.validation.images).argmax(1)
        assert values[fold] == pytest.approx((answers == held.validation.labels).mean(), abs=1e-6)
        each.append(probabilities(classifier, digits.test.images))
    together = np.mean(each, axis=0)
    assert found["test/top1"] == pytest.approx((together.argmax(1) == digits.test.labels).mean(), abs=1e-6)
    assert found["test/nll"] == pytest.approx(-np.log(together[np.arange(360), digits.test.labels]).mean(), rel=1e-4)
    assert len({part["params_sha256"] for part in parts}) == 2
    # Killed in the last fold: the finished ones are not trained again.
    before = (folder / "fold-0" / "summary.json").stat().st_mtime_ns
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "fold-1")
    assert summary(train("folds", *LINEAR, "--steps", 4, "--folds", 2, "--base-learning-rate", 1))["metrics"] == found
    assert (folder / "fold-0" / "summary.json").stat().st_mtime_ns == before


def test_a_share_of_the_training_images(train, no_pictures):
    folder = train("share", *LINEAR, "--steps", 1, "--fraction", 0.25, "--validation", 0.5)
    assert summary(folder)["protocol"]["training_images"] == pytest.approx(1437 / 8, abs=5)


# --- transfer


def check_frozen(folder: Path, before: dict, frozen) -> None:
    """Every bit of what is frozen is as before, of parameters, statistics and their averages; the rest has moved."""
    for now in weights(folder):
        still = {path for path in now if np.array_equal(now[path], before[path])}
        assert still == {path for path in now if frozen(path.partition("/")[2])}


def test_a_frozen_backbone_keeps_every_bit_with_its_statistics(train, no_pictures):
    known = load_classifier(train("resnet", *RESNET, *WATCHED))
    model, start = known.model, flat(known.variables)
    folder = train("backbone", *RESNET, "--pretrained", train("resnet", *RESNET, *WATCHED), "--freeze", "backbone",
                   "--steps", 3, "--weight-decay", 0.1, "--ema-decay", 0.6)  # 0.6 x + 0.4 x is not x in float32
    check_frozen(folder, start, lambda path: not is_head(model, path))
    assert sum(not is_head(model, path) for path in start) > 10


def test_frozen_up_to_a_module(train, no_pictures):
    start = flat(load_classifier(train("resnet", *RESNET, *WATCHED)).variables)
    folder = train("up-to", *RESNET, "--pretrained", train("resnet", *RESNET, *WATCHED), "--freeze",
                   "up-to:layer1/0/conv1", "--steps", 3)
    check_frozen(folder, start, lambda path: path.startswith(("conv1/", "bn1/", "layer1/0/conv1/")))


def test_a_weight_file_of_other_classes_gives_all_but_the_head(train, no_pictures, tmp_path, caplog):
    trained, digits = load_classifier(train("resnet", *RESNET, *WATCHED)), open_dataset("digits")
    save_weights(trained.variables, trained.model, tmp_path / "weights.safetensors")
    few = digits.train.labels < 5
    np.savez(tmp_path / "five.npz", train_images=digits.train.images[few], train_labels=digits.train.labels[few])
    folder = train("five", *RESNET, "--data", f"npz:{tmp_path}/five.npz", "--pretrained",
                   tmp_path / "weights.safetensors", "--freeze", "backbone", "--steps", 1)
    assert "weights of ResNet: fresh: fc." in caplog.text
    start, now = flat(trained.variables), weights(folder)[0]
    assert now["params/fc/kernel"].shape == (8, 5)
    assert all(np.array_equal(now[path], start[path]) for path in now if "/fc/" not in path)
    assert load_classifier(folder).goal.names == tuple("01234")


def test_rates_of_the_backbone_and_of_layers_scale_the_first_step(train, no_pictures):
    """One step of plain SGD moves a parameter by its rate times the same gradient."""
    sgd = (*MLP, "--steps", 1, "--optimizer", "sgd", "--weight-decay", 0, "--warmup", 0, "--ema-decay", None,
           "--base-learning-rate", 4)
    whole, scaled = (load_classifier(train(name, *sgd, *options)) for name, options in (
        ("rate", ()), ("rates", ("--backbone-rate", 0.5, "--layer-decay", 0.25))))
    start = flat(whole.model.init(jax.random.split(jax.random.key(0))[0], np.zeros((1, 8, 8, 1), np.float32)))
    for path, begun in start.items():
        step = flat(whole.variables)[path] - begun
        assert np.abs(step).max() > 1e-3
        share = 1 if is_head(whole.model, path) else 0.5 * 0.25  # a single layer comes before the head
        np.testing.assert_allclose(flat(scaled.variables)[path] - begun, share * step, atol=1e-6)


def test_a_rate_of_zero_takes_a_models_own_dropout_away(command):
    from cvjax.workflow.classification.model import build_classifier
    from experiments.supervised import Config

    config = Config(model="alexnet")
    rates = [build_classifier(config, image_size=64, channels=3, num_classes=2, dropout=rate).dropout
             for rate in (None, 0.0, 0.3)]
    assert rates == [0.5, 0.0, 0.3]


# --- what is refused


@pytest.fixture(scope="module")
def other_files(tmp_path_factory) -> Path:
    """Weight files and data that do not fit, and folders that are no runs."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "empty").mkdir()
    (folder / "text.safetensors").write_text("no weights")
    images, labels = np.zeros((12, 8, 8, 1), np.uint8), np.arange(12) % 3
    for name, arrays in {
        "range": dict(train_images=images, train_labels=labels, test_images=images, test_labels=labels + 1),
        "one": dict(train_images=images, train_labels=0 * labels), "plain": dict(train_images=images),
        "nan": dict(train_images=images * np.float32(np.nan), train_labels=labels),
        "none": dict(train_images=images, train_labels=labels, test_images=images[:0], test_labels=labels[:0]),
    }.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


MISTAKES = [
    ("--model resnet51", "unknown model 'resnet51': did you mean resnet"),
    ("--model mae_vit_tiny_patch16", "--model mae_vit_tiny_patch16 is no classifier"),
    ("--model alexnet --model-fields", "images of 8x8 pixels are too small"),
    ("--model-fields width", "--model-fields width: it must be NAME=VALUE"),
    ("--model-fields wide=3", "resnet20 has no field wide; it has "),
    ("--model-fields name=3", "resnet20 has no field name; it has "),
    ("--model-fields stem=nope", "resnet20 with stem=nope: it must be one of imagenet, cifar"),
    ("--model-fields num_classes=5", "--model-fields num_classes=5: this field follows from the data"),
    ("--model-fields width=0", "--model resnet20 on images of 8x8x1: float division by zero"),
    ("--model-fields depths=3", "--model resnet20 on images of 8x8x1: 'int' object is not iterable"),
    ("--dropout 0.1", "--dropout 0.1: resnet20 has no dropout"),
    ("--remat full", "--remat full: resnet20 has no remat"),
    ("--scan", "--scan True: resnet20 has no scan"),
    ("--attention cudnn", "--attention cudnn: resnet20 has no attention"),
    ("--drop-path 1", "--drop-path 1.0: it must be in [0, 1)"),
    ("--image-size 0", "--image-size 0: it must be at least 1"),
    ("--fraction 0", "--fraction 0.0: it must be in (0, 1]"),
    ("--fraction 0.001", "a share of 0.001 of 1437 training images is none at all"),
    ("--validation 1", "--validation 1.0: it must be in [0, 1)"),
    ("--folds 1", "--folds 1: it must be at least 2, or 0 for none"),
    ("--folds 200", "200 folds need as many images of each class"),
    ("--folds 3 --validation 0.1", "--validation 0.1: it must be 0 with --folds"),
    ("--fold 0", "--fold 0: it must be in [0, 0), because of --folds"),
    ("--fold 3 --folds 3", "--fold 3: it must be in [0, 3), because of --folds"),
    ("--patience 2 --eval-every 5", "--patience 2 needs a validation part: give --validation SHARE"),
    ("--patience 2 --validation 0.1", "--patience 2: it must be 0 without --eval-every"),
    ("--resident --parallel pmap", "--resident True: it must be False with --parallel pmap"),
    ("--steps-per-dispatch 2 --parallel pmap", "--steps-per-dispatch 2: it must be 1 with --parallel pmap"),
    ("--steps-per-dispatch 3", "--steps-per-dispatch 3: it must be a divisor of --log-every 50"),
    ("--steps-per-dispatch 10 --eval-every 5", "--steps-per-dispatch 10: it must be a divisor of --eval-every 5"),
    ("--steps-per-dispatch 0", "--steps-per-dispatch 0: it must be at least 1"),
    ("--lookahead 5 --ema-decay None", "--lookahead 5: it must be 0 without --ema-decay"),
    ("--lookahead 5 --ema-every 2", "--ema-every 2: it must be 1 with --lookahead"),
    ("--ema-start 0.2 --ema-decay None", "--ema-start 0.2: it must be 0 without --ema-decay"),
    ("--ema-start 1", "--ema-start 1.0: it must be in [0, 1)"),
    ("--ema-every 0", "--ema-every 0: it must be at least 1"),
    ("--batch-norm-group 24", "--batch-norm-group 24: it must be a divisor of 64, the images that are seen together"),
    ("--batch-norm-group 24 --accumulate 2", "it must be a divisor of 32, the images that are seen"),
    ("--batch-norm-group 32 --parallel pmap", "--batch-norm-group 32: it must be left out with --parallel pmap"),
    ("--batch-norm-group 32 --model mlp --model-fields", "--batch-norm-group 32: mlp has no batch norm"),
    ("--eval-size 0", "--eval-size 0: it must be at least 1"),
    ("--eval-size 16 --model mlp --model-fields", "--model mlp on images of 16x16x1: images of 16x16 pixels do n"),
    ("--short-side 9 12", "--short-side 9 12: the images of --data digits are in memory, where crops follow --crop-sc"),
    ("--short-side 12 9", "--short-side (12, 9): it must be LEAST GREATEST with 1 <= LEAST <= GREATEST"),
    ("--bce-threshold 0.2", "--bce-threshold 0.2: it must be left out without --criterion bce"),
    ("--criterion bce --bce-threshold 2", "--bce-threshold 2.0: it must be in (0, 1)"),
    ("--start-rate 2", "--start-rate 2.0: it must be in [0, 1]"),
    ("--norm-bias-rate 0", "--norm-bias-rate 0.0: it must be more than 0"),
    ("--norm-bias-rate 2 --optimizer adamw", "a gradient scale with optimizer 'adamw'"),
    ("--norm-bias-rate 2 --model mlp --model-fields", "--norm-bias-rate 2.0: it must be 1, because the model has no n"),
    ("--alternating-flip --no-flip", "--alternating-flip True: it must be False with --no-flip"),
    ("--shift-padding reflect", "--shift-padding reflect: it must be constant without --shift"),
    ("--cutout-inside", "--cutout-inside True: it must be False without --cutout"),
    ("--layer-decay 0", "--layer-decay 0.0: it must be in (0, 1]"),
    ("--backbone-rate 0", "--backbone-rate 0.0: it must be more than 0; --freeze keeps"),
    ("--freeze all", "--freeze all: it must be none, backbone or up-to:NAME"),
    ("--freeze up-to:layer9", "--freeze up-to:layer9: the model has no such module; it has conv1, bn1, layer1"),
    ("--freeze up-to:maps", "--freeze up-to:maps: the model has no such module"),
    ("--freeze up-to:fc", "frozen holds for all of"),
    ("--pretrained FILES/gone.safetensors", "--pretrained FILES/gone.safetensors: "),
    ("--pretrained FILES/text.safetensors", "--pretrained FILES/text.safetensors: "),
    ("--pretrained FILES/empty", "FILES/empty: no checkpoints in it; give the folder of a run"),
    ("--pretrained RUNS/resnet --model-fields depths=(1,) width=9", "--pretrained RUNS/resnet: the weights do not fit"),
    ("--pretrained RUNS/resnet --model linear --model-fields", "--pretrained RUNS/resnet: no weight table for Linear"),
    ("--pretrained RUNS/mlp-early", "--pretrained RUNS/mlp-early: no weight table for MultilayerPerceptron"),
    ("--pseudo-labels FILES/gone.csv", "FILES/gone.csv is not a readable list"),
    ("--data npz:FILES/range.npz", "test label 3 is above the training labels' 2"),
    ("--data npz:FILES/one.npz --batch-size 4", "has 1 class labels: a classifier needs at least two"),
    ("--data npz:FILES/plain.npz --batch-size 4", "has no class labels: a classifier needs at least two"),
    ("--data npz:FILES/nan.npz", "train_images is float32 from nan to nan, whose range nothing states"),
    ("--data npz:FILES/none.npz", "test_images must be numbers (N, H, W, C) or (N, H, W) and not empty"),
    ("--mixup -1", "--mixup -1.0: it must be 0 or more"), ("--erasing 2", "--erasing 2.0: it must be in [0, 1]"),
    ("--policy-magnitude 31", "--policy-magnitude 31.0: it must be in [0, 30] with --policy-table torchvision"),
    ("--policy-magnitude 11 --policy-table timm", "it must be in [0, 10] with --policy-table timm"),
    ("--color-jitter 0 0 0 0.6", "--color-jitter (0.0, 0.0, 0.0, 0.6): it must be four numbers of 0 or more"),
    ("--label-smoothing 1", "--label-smoothing 1.0: it must be in [0, 1)"),
    ("--optimizer adamw --momentum 0.9", "momentum"), ("--schedule cosine --factor 0.1", "factor"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line(command, train, no_pictures, runs, other_files, tmp_path, arguments, message):
    if "RUNS" in arguments:
        train("resnet", *RESNET, *WATCHED)
        train("mlp-early", *MLP, "--steps", 8, "--validation", 0.2, "--eval-every", 4, "--base-learning-rate", 2)

    def place(text):
        return text.replace("FILES", str(other_files)).replace("RUNS", str(runs))

    model = () if "--model-fields" in arguments else ("--model-fields", "depths=(1,)", "width=8")
    done = command("supervised", *model, *place(arguments).split(), "--dry-run", "--run-dir", tmp_path / "run")
    assert place(message) in done.complaint
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_one_line_and_keeps_what_was_saved(command, tmp_path, no_pictures):
    done = command("supervised", *LINEAR, "--steps", 40, "--checkpoint-every", 1, "--optimizer", "sgd", "--log-every",
                   1, "--base-learning-rate", 1e38, "--warmup", 0, "--run-dir", tmp_path / "run")
    assert "training stopped, checkpoints before it are kept" in done.complaint
    kept = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept and max(kept) < int(done.complaint.split()[2])
