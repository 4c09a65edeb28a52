"""Means of trained networks: which are taken, what becomes of them, and which cannot be averaged."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.held_out import hold_out
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.data.sources.digits import open_digits
from cvjax.models import create_model
from cvjax.workflow.classification.goal import Classification
from cvjax.workflow.classification.model import Classifier
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.restore import load_run
from experiments.wiring.average import Means
from tests.data.pictures import encode
from tests.experiments.written_runs import write_model_run

# Dark pictures up to a grey of 90, light ones from 165 on; a linear network's threshold is between -bias / sharpness.
GREYS = np.repeat([0, 30, 60, 90, 165, 195, 225, 255], 8)
LABELS = (GREYS > 127).astype(int)


@pytest.fixture
def data(tmp_path: Path) -> str:
    images = np.broadcast_to(GREYS[:, None, None].astype(np.uint8), (len(GREYS), 8, 8))
    np.savez(tmp_path / "data.npz", train_images=images, train_labels=LABELS, test_images=images[::2],
             test_labels=LABELS[::2])
    return f"npz:{tmp_path}/data.npz"


def linear_run(folder: Path, data: str, sharpness: float, bias: float = 0.0, *, names: tuple[str, ...] = ("0", "1"),
               channels: int = 1, **options: Any) -> Path:
    """A run whose answer to a picture is class 1 if `sharpness` times its mean in [-1, 1] and `bias` are above 0."""
    model = create_model("linear", image_size=8, in_channels=channels, num_classes=len(names))
    kernel = np.zeros((64 * channels, len(names)), np.float32)
    kernel[:, 1] = sharpness / len(kernel)
    biases = np.zeros(len(names), np.float32)
    biases[1] = bias
    options = {"metrics": {"test/top1": 0.5}, "config": {"data": data, "validation": 0.5}} | options
    variables = {"params": {"fc": {"kernel": kernel, "bias": biases}}}
    return write_model_run(folder, model, variables, names=names, **options)


def right(data: str, threshold: float) -> float:
    """The share of the held-out pictures that are told apart by a threshold of their grey."""
    held = hold_out(open_dataset(data, seed=0), 0.5, seed=0).validation
    assert held is not None and held.labels is not None
    greys = np.array([held[i]["image"][0, 0, 0] for i in range(len(held))])
    return np.mean((greys > threshold) == held.labels)


@pytest.fixture
def runs(tmp_path: Path, data: str) -> list[Path]:
    """One that is always right, one whose threshold is a little too low, and one that is always wrong."""
    return [linear_run(tmp_path / name, data, *values)
            for name, values in (("low", (4, 2)), ("wrong", (-4, 0)), ("right", (4, 0)))]


@pytest.fixture
def average(command: Any, tmp_path: Path) -> Any:
    def run(*words: Any, name: str = "mean"):
        done = command("average", *words, "--batch-size", 8, "--run-dir", tmp_path / name)
        return done, tmp_path / name

    return run


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_the_mean_of_all_is_a_run_like_any_other(average: Any, command: Any, tmp_path: Path, data: str,
                                                 runs: list[Path]) -> None:
    done, folder = average(*runs)
    assert done.status == 0, done.err
    params = load_run(folder).variables["params"]["fc"]
    np.testing.assert_allclose(params["kernel"][:, 1], (4 / 3) / 64, rtol=1e-6)
    np.testing.assert_array_equal(params["bias"], np.float32([0, np.float32(2 / 3)]))
    summary = summary_of(folder)
    # It calls light what is above a mean of -1/2, a grey of 64: the greys 90 are wrong.
    assert summary["metrics"]["test/top1"] == 7 / 8 and summary["metrics"]["validation/top1"] == right(data, 64) < 1
    assert [source["run"] for source in summary["sources"]] == list(map(str, runs))
    told = summary["protocol"]["runs"]
    assert {Path(run).name: facts["validation/top1"] for run, facts in told.items()} == {
        "low": right(data, 64), "wrong": 0, "right": 1}
    assert all(facts["kept"] and facts["test/top1"] == 0.5 and facts["weights"] == source["weights"]
               for facts, source in zip(told.values(), summary["sources"]))
    assert "did not start from the same learnt weights" in done.out
    judged = command("evaluate", "--checkpoint", folder, "--run-dir", tmp_path / "evaluation", "--batch-size", 8)
    assert judged.status == 0, judged.err
    assert summary_of(tmp_path / "evaluation")["metrics"]["test/top1"] == 7 / 8
    assert "is complete" in average(*runs)[0].out
    page = (folder / "report.html").read_text()
    assert "The mean of" in page and f"evaluate --checkpoint {folder}" in page


def test_a_greedy_mean_leaves_out_what_makes_it_worse(average: Any, runs: list[Path]) -> None:
    done, folder = average(*runs, "--how", "greedy")
    assert done.status == 0, done.err
    summary = summary_of(folder)
    assert {Path(run).name: facts["kept"] for run, facts in summary["protocol"]["runs"].items()} == {
        "low": True, "wrong": False, "right": True}
    np.testing.assert_array_equal(load_run(folder).variables["params"]["fc"]["bias"], [0, 1])
    assert summary["metrics"]["validation/top1"] == 1 and summary["protocol"]["soup"]["ingredients"] == 2
    assert summary["protocol"]["chosen_by"] == "validation/top1"
    assert "  out " in done.out


def test_numbers_are_averaged_by_greed_too(average: Any, tmp_path: Path) -> None:
    """By R2, as the loss of a training is none of an evaluation's scores."""
    lines = ["file,split,dark,light"]
    for i, grey in enumerate(GREYS[::2]):
        (tmp_path / f"{i}.png").write_bytes(encode(np.full((8, 8, 3), grey, np.uint8)))
        lines.append(f"{i}.png,{'test' if i % 4 == 0 else 'train'},{-grey},{grey}")
    (tmp_path / "numbers.csv").write_text("\n".join(lines))
    options = dict(names=("dark", "light"), channels=3, kind="regressor", preprocessing=Preprocessing((0.5,), (0.5,)),
                   mean=[-127.5, 127.5], std=[127.5, 127.5])
    runs = [linear_run(tmp_path / name, f"labels:{tmp_path}/numbers.csv", sharpness, **options)
            for name, sharpness in (("wrong", -1), ("right", 1))]
    done, folder = average(*runs, "--how", "greedy")
    assert done.status == 0, done.err
    protocol = summary_of(folder)["protocol"]
    assert [facts["kept"] for facts in protocol["runs"].values()] == [False, True]
    assert protocol["chosen_by"] == "validation/r2" and "validation/r2 " in done.out


def test_greed_needs_a_validation_part_and_all_do_not(average: Any, tmp_path: Path, data: str) -> None:
    runs = [linear_run(tmp_path / name, data, 4, bias, config={"data": data}, metrics=None)
            for name, bias in (("a", 0), ("b", 1))]
    done, folder = average(*runs, "--how", "greedy")
    assert "--how greedy chooses by a validation part, and the runs have none" in done.complaint
    assert not folder.exists()
    done, folder = average(*runs)
    assert done.status == 0 and list(summary_of(folder)["metrics"])[0].startswith("test/"), done.err
    assert f"{runs[1]} is unfinished: step 1 of 2" in done.err
    assert "test/top1" not in summary_of(folder)["protocol"]["runs"][str(runs[1])]


@pytest.mark.parametrize("change, said", [
    (dict(names=("0", "1", "2")), "the classes is ('0', '1') and ('0', '1', '2')"),
    (dict(channels=3), "the network's in_channels is 1 and 3"),
    (dict(preprocessing=Preprocessing((0.5,), (0.25,))), "preprocessing is mean 0.5, deviation 0.5"),
    (dict(config={"data": "digits", "validation": 0.5}), "--data is npz:"),
    (dict(config={"validation": 0.25}), "--validation is 0.5 and 0.25"),
    (dict(test_views="mirror"), "test_views is None and mirror"),
    (dict(image_size=16), "the size of judged images is (8, 8) and (16, 16)")])
def test_runs_that_differ_are_refused_in_one_line(average: Any, tmp_path: Path, data: str, change: dict[str, Any],
                                                  said: str) -> None:
    config = {"config": {"data": data} | change["config"]} if "config" in change else {}
    one, other = linear_run(tmp_path / "a", data, 4), linear_run(tmp_path / "b", data, 4, **change | config)
    complaint = average(one, other)[0].complaint
    assert f"{one} and {other} cannot be averaged: {said}" in complaint


def test_what_cannot_be_averaged_is_one_line(average: Any, tmp_path: Path, runs: list[Path]) -> None:
    assert "the folders of at least two" in average(runs[0])[0].complaint
    for again in (runs[0], f"{runs[0]}/", runs[1] / ".." / runs[0].name):
        assert "it must be given once" in average(runs[0], again)[0].complaint
    assert "no checkpoints in it" in average(runs[0], tmp_path / "gone")[0].complaint
    other = write_model_run(tmp_path / "other", create_model("mlp", hidden=(2,), image_size=8, in_channels=1,
                                                             num_classes=2), {"params": {"x": np.zeros(1)}})
    assert "the network is Linear and MultilayerPerceptron" in average(runs[0], other)[0].complaint


@pytest.mark.parametrize("readable, batches", [([20, 15, 15], [20, 20]), ([20, 0, 19], [20]), ([7, 6, 0], [13])])
def test_the_images_behind_the_statistics_are_counted(monkeypatch: pytest.MonkeyPatch, readable: list[int],
                                                      batches: list[int]) -> None:
    """In whole batches, without unreadable files and the rest; of fewer images than a batch, all of them."""
    inputs = ImageInputs(open_digits(), 8, 20, BadFiles(1.0), Preprocessing.of(1))
    monkeypatch.setattr(ImageInputs, "eval_batches", lambda inputs, part: (
        {"image": np.zeros((20, 8, 8, 1), np.uint8), "mask": np.arange(20) < count} for count in readable))
    model = create_model("linear", image_size=8, in_channels=1, num_classes=10)
    means = Means(Classifier(model, {}, 8, 1, Preprocessing.of(1), Classification(tuple("0123456789"))), [{}], inputs)
    assert [len(batch) for batch in means._batches()] == batches and means.renewed_on == sum(batches)


@pytest.mark.slow
def test_batch_norms_statistics_are_those_of_the_mean(average: Any, command: Any, tmp_path: Path) -> None:
    """Of all training digits at once, so that their order does not matter."""
    model = create_model("resnet20", depths=(1,), width=4, image_size=8, in_channels=1, num_classes=10)
    rng, images = np.random.default_rng(0), open_digits().train.images
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    places = []
    for name in ("a", "b"):
        variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)
        places.append(write_model_run(tmp_path / name, model, variables, names=tuple("0123456789"), metrics={},
                                      config={"model": "resnet20", "drop_path": rng.uniform()}))
    done = command("average", *places, "--batch-size", len(images), "--run-dir", tmp_path / "mean")
    assert done.status == 0, done.err
    found, (a, b) = load_run(tmp_path / "mean").variables, (load_run(place).variables for place in places)
    kernel = (a["params"]["conv1"]["kernel"].astype(np.float64) + b["params"]["conv1"]["kernel"]) / 2
    np.testing.assert_array_equal(found["params"]["conv1"]["kernel"], kernel.astype(np.float32))
    seen = np.pad(images.astype(np.float64) / 127.5 - 1, ((0, 0), (1, 1), (1, 1), (0, 0)))
    maps = sum(seen[:, i:i + 8, j:j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    statistics = found["batch_stats"]["bn1"]
    # float32 sums of 92,000 numbers
    np.testing.assert_allclose(statistics["mean"], maps.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], maps.var((0, 1, 2)), rtol=1e-4)
    assert summary_of(tmp_path / "mean")["protocol"]["soup"]["batch_statistics_images"] == len(images)
    done = command("supervised", "--pretrained", tmp_path / "mean", "--dry-run", "--model-fields", "width=4",
                   "depths=(1,)", "--run-dir", tmp_path / "next")
    assert done.status == 0, done.err
    done = command("push", tmp_path / "mean", "hf-hub:me/soup", "--dry-run", "--output", tmp_path / "hub")
    assert done.status == 0, done.err
    assert "experiment average on digits." in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.slow
def test_three_seeds_from_one_start(command: Any, tmp_path: Path) -> None:
    """Their mean answers about as well as they do, and its numbers are those that an evaluation finds."""
    short = ("--steps", 60, "--log-every", 60, "--model-fields", "width=8", "depths=(1,)")
    start = command("supervised", "--seed", 9, *short, "--run-dir", tmp_path / "start")
    assert start.status == 0, start.err
    places = [tmp_path / f"seed-{seed}" for seed in range(3)]
    for seed, place in enumerate(places):
        done = command("supervised", "--seed", seed, *short, "--pretrained", tmp_path / "start", "--validation", 0.2,
                       "--base-learning-rate", 0.1, "--run-dir", place)
        assert done.status == 0, done.err
    each = [summary_of(place)["metrics"] for place in places]
    for how in ("uniform", "greedy"):
        done = command("average", *places, "--how", how, "--run-dir", tmp_path / how)
        assert done.status == 0, done.err
        assert "did not start" not in done.out
        summary = summary_of(tmp_path / how)
        told = list(summary["protocol"]["runs"].values())
        for facts, own in zip(told, each):
            # The training judged in other batches, whose rounding may turn a tie; 287 images are judged.
            assert abs(facts["validation/top1"] - own["validation/top1"]) < 2 / 287
            assert facts["test/top1"] == own["test/top1"]
        tested = [own["test/top1"] for own in each]
        assert summary["metrics"]["test/top1"] > min(tested) - 0.02, (how, summary["metrics"], tested)
    assert summary["metrics"]["validation/top1"] >= max(facts["validation/top1"] for facts in told), "greedy"
    done = command("evaluate", "--checkpoint", tmp_path / "greedy", "--run-dir", tmp_path / "judged")
    assert done.status == 0, done.err
    assert summary_of(tmp_path / "judged")["metrics"]["test/top1"] == summary["metrics"]["test/top1"]
