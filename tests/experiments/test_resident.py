"""Runs whose images are on the device, several steps at a time: the lines and the end of a run that does neither."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.models import create_model
from cvjax.models.airbench import whitening_kernel
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.log import TIMING
from cvjax.workflow.classification.model import load_classifier
from cvjax.workflow.classification.transfer import frozen_parameters, norm_bias_rates, with_parameters
from cvjax.workflow.normalization import preprocess

ARGUMENTS = ("--model", "linear", "--model-fields", "--batch-size", 64, "--steps", 27, "--log-every", 5,
             "--checkpoint-every", 10, "--eval-every", 20, "--crop-scale", 1, 1, "--flip", "--alternating-flip",
             "--aug-repeats", 3, "--ema-decay", 0.9)


@pytest.fixture
def train(command, tmp_path, monkeypatch):
    import cvjax.workflow.classification.goal as goal
    import cvjax.workflow.classification.report as report
    import cvjax.workflow.folder as folders

    monkeypatch.setattr(goal.Classification, "write", lambda *_: None)
    for name in ("_draw_mistakes", "_explain", "_draw_kernels"):
        monkeypatch.setattr(report, name, lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)

    def run(name, *options):
        done = command("supervised", *ARGUMENTS, *options, "--run-dir", tmp_path / name)
        assert done.status == 0, done.err
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return ([{key: value for key, value in line.items() if key not in TIMING} for line in lines],
                json.loads((tmp_path / name / "summary.json").read_text()))

    return run


class Killed(BaseException):
    """In the place of a SIGKILL."""


def assert_near(found, lines):
    assert len(found) == len(lines)
    for a, b in zip(found, lines, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)  # roundings of 27 steps


@pytest.mark.slow
def test_the_same_run_from_the_device_and_in_rows(train, tmp_path):
    lines, summary = train("host")
    resident_lines, resident = train("resident", "--resident")
    assert resident_lines == lines and resident["params_sha256"] == summary["params_sha256"]
    assert_near(train("rows", "--resident", "--steps-per-dispatch", 5, "--profile", 1)[0], lines)
    assert len(list((tmp_path / "rows" / "profile").rglob("*.xplane.pb"))) == 1


def test_a_killed_run_goes_on_from_the_host_and_step_by_step(train, monkeypatch):
    lines, _ = train("host")
    save = Checkpointer.save

    def save_and_die(self, state, meta, metrics=None):
        save(self, state, meta, metrics)
        self.wait()
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Checkpointer, "save", save_and_die)
        train("changed", "--resident", "--steps-per-dispatch", 5)
    changed, _ = train("changed")  # from the host now, and one by one
    assert_near(changed, lines)


def test_files_that_are_not_in_memory_cannot_live_on_the_device(command, tmp_path, photos):
    done = command("supervised", "folder", "--data", f"folder:{photos}", "--image-size", 64, "--batch-size", 2,
                   "--resident", "--model", "mlp", "--validation", 0, "--patience", 0, "--run-dir", tmp_path / "run")
    assert (f"--resident with --data folder:{photos}: its images must be in memory, all of one size; for folder: add "
            "--data-cache") in done.complaint


@pytest.fixture
def photos(tmp_path):
    from tests.data.pictures import encode

    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.full((20, 24 + i, 3), 40 * i, np.uint8)
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(encode(pixels))
    return tmp_path / "photos"


@pytest.mark.slow
def test_airbench_whitens_by_its_training_images_and_keeps_that_kernel(train, tmp_path):
    """Also: which rates and which views a run of it has."""
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (24, 9, 9, 3), np.uint8)
    np.savez(tmp_path / "images.npz", train_images=images, train_labels=np.arange(24) % 3, test_images=images[:6],
             test_labels=np.arange(6) % 3)
    _, summary = train("airbench", "--data", f"npz:{tmp_path / 'images.npz'}", "--model", "airbench94",
                       "--model-fields", "widths=(2,2,2)", "--batch-size", 8, "--steps", 2, "--norm-bias-rate", 64,
                       "--decay", "all", "--test-views", "mirror_shift", "--ema-decay", 0.7, "--lookahead", 1,
                       "--schedule", "linear")
    classifier = load_classifier(tmp_path / "airbench")
    params = classifier.variables["params"]
    seen = np.asarray(preprocess(images, 9, Preprocessing()))
    np.testing.assert_array_equal(params["whiten"]["kernel"], whitening_kernel(seen))
    assert np.abs(params["whiten"]["bias"]).max() > 0 and classifier.views == "mirror_shift"
    logits = classifier.logits(classifier.variables, images[:6])
    nll = -np.asarray(jax.nn.log_softmax(logits))[np.arange(6), np.arange(6) % 3].mean()
    assert summary["metrics"]["test/loss"] == pytest.approx(nll, rel=1e-4), "of the evaluation in training"
    assert summary["metrics"]["test/nll"] == pytest.approx(nll, rel=1e-4), "of the report"
    one = dataclasses.replace(classifier, views="one")
    assert np.abs(logits - one.logits(one.variables, images[:6])).max() > 1e-4


def test_rates_of_norm_biases_and_parameters_that_are_never_trained():
    model = create_model("airbench94", widths=(2, 2, 2))
    rate = norm_bias_rates(64.0, model)
    assert [rate(path) for path in ("group1/conv1/bn/bias", "whiten/bias", "group1/conv1/conv/kernel")] == [64, 1, 1]
    assert norm_bias_rates(1.0, model) is None
    frozen = frozen_parameters("none", model)
    assert frozen("whiten/kernel") and not frozen("whiten/bias") and not frozen("fc/kernel")
    backbone = frozen_parameters("backbone", model)
    assert backbone("whiten/kernel") and backbone("whiten/bias") and not backbone("fc/kernel")
    before = {"params": {"a": {"x": 1, "y": 2}, "b": 3}, "batch_stats": {"c": 4}}
    assert with_parameters(before, {"a": {"y": 5}}) == {"params": {"a": {"x": 1, "y": 5}, "b": 3},
                                                       "batch_stats": {"c": 4}}
