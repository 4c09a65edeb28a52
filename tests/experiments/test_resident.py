"""Runs whose images are on the device, several steps at a time: the lines and the end of a run that does neither."""

import json

import numpy as np
import pytest

from cvjax.train.checkpoint import Checkpointer
from cvjax.train.log import TIMING

ARGUMENTS = ("--model", "linear", "--model-fields", "--batch-size", 64, "--steps", 27, "--log-every", 5,
             "--checkpoint-every", 10, "--eval-every", 20, "--crop-scale", 1, 1, "--flip", "--alternating-flip",
             "--ema-decay", 0.9)


@pytest.fixture
def train(command, tmp_path, monkeypatch):
    import cvjax.experiment.report as report
    import cvjax.visualize.curves as curves

    for name in ("plot_confusion", "plot_reliability", "_draw_mistakes", "_explain", "_draw_kernels"):
        monkeypatch.setattr(report, name, lambda *_, **__: None)
    monkeypatch.setattr(curves, "plot_curves", lambda *_: None)

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
def test_the_same_run_from_the_device_and_in_rows(train):
    lines, summary = train("host")
    resident_lines, resident = train("resident", "--resident")
    assert resident_lines == lines and resident["params_sha256"] == summary["params_sha256"]
    assert_near(train("rows", "--resident", "--steps-per-dispatch", 5)[0], lines)


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
