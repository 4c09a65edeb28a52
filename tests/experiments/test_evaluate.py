"""Trained classifiers judged on a data set, with answers that can be worked out."""

import json

import numpy as np
import pytest

from tests.experiments.written_runs import light, write_run

GREYS = np.array([10, 60, 110, 140, 200, 250] * 3)
LABELS = np.array([0, 0, 1, 1, 1, 0] * 3)  # 110 and 250 are labelled against the model


@pytest.fixture
def data(tmp_path) -> str:
    images = np.broadcast_to(GREYS[:, None, None].astype(np.uint8), (18, 8, 8))
    np.savez(tmp_path / "data.npz", train_images=images[:4], train_labels=LABELS[:4], test_images=images,
             test_labels=LABELS)
    return f"npz:{tmp_path}/data.npz"


@pytest.fixture
def evaluate(command, tmp_path, data):
    def run(*runs, options=(), name="evaluation"):
        done = command("evaluate", "--checkpoint", *runs, "--data", data, "--batch-size", 4, "--run-dir",
                       tmp_path / name, *options)
        return done, tmp_path / name

    return run


def by_hand(*sharpnesses: float, count: int = 18) -> dict[str, float]:
    p = np.mean([light(s, GREYS[:count]) for s in sharpnesses], axis=0)
    labels = LABELS[:count]
    own = np.where(labels, p, 1 - p)
    return {"top1": np.mean((p > 0.5) == labels), "nll": -np.log(own).mean()}


@pytest.mark.parametrize("part, count", [("test", 18), ("train", 4)])
def test_one_run_on_either_part(evaluate, tmp_path, part, count):
    done, folder = evaluate(write_run(tmp_path / "run", 2.0, names=("0", "1")), options=("--part", part))
    assert done.status == 0, done.err
    summary = json.loads((folder / "summary.json").read_text())
    for name, value in by_hand(2.0, count=count).items():
        assert summary["metrics"][f"{part}/{name}"] == pytest.approx(value, rel=1e-5)
    assert summary["protocol"]["checkpoints"] == [str(tmp_path / "run")] and summary["protocol"]["step"] == "judged"
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"classes.txt", "confusion.png", "reliability.png", "mistakes.png", "templates.png"} == names
    again, _ = evaluate(tmp_path / "run", options=("--part", part))
    assert again.status == 0 and "is complete" in again.out
    metrics = summary["metrics"]  # as a person reads them
    assert f"  {part}/top1: {100 * metrics[f'{part}/top1']:.2f} %\n" in done.out
    assert f"  {part}/nll: {metrics[f'{part}/nll']:.4g}\n" in again.out


def test_several_runs_are_averaged(evaluate, tmp_path):
    runs = write_run(tmp_path / "a", 2.0, names=("0", "1")), write_run(tmp_path / "b", 0.5, names=("0", "1"))
    done, folder = evaluate(*runs)
    assert done.status == 0, done.err
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    for name, value in by_hand(2.0, 0.5).items():
        assert metrics[f"test/{name}"] == pytest.approx(value, rel=1e-5)


def test_the_best_checkpoint_or_the_latest(evaluate, tmp_path):
    run = write_run(tmp_path / "run", 2.0, names=("0", "1"), step=1)
    write_run(run, 0.5, names=("0", "1"), step=2)  # the later, worse checkpoint
    for step, sharpness in (("best", 2.0), ("latest", 0.5)):
        _, folder = evaluate(run, options=("--step", step), name=step)
        metrics = json.loads((folder / "summary.json").read_text())["metrics"]
        assert metrics["test/nll"] == pytest.approx(by_hand(sharpness)["nll"], rel=1e-5)


def test_other_classes_or_channels_than_the_datas_are_one_line(evaluate, tmp_path):
    for number, (fields, message) in enumerate((
            (dict(names=("0", "1", "2")), "the checkpoint knows 3 classes (0, 1, 2), npz:"),
            (dict(names=("1", "0")), "they must be the same, in the same order"),
            (dict(names=("0", "1"), channels=3), "the checkpoint takes images of 3 channels, npz:"))):
        done, folder = evaluate(write_run(tmp_path / f"run{number}", **fields), name=f"evaluation{number}")
        assert message in done.complaint and not (folder / "summary.json").exists()
    done, _ = evaluate(tmp_path / "gone", name="gone")
    assert f"{tmp_path}/gone: no checkpoints in it" in done.complaint
