"""Images with several labels and images with numbers: trained, judged and answered by the three commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score, root_mean_squared_error

from cvjax.data.sources import open_dataset
from cvjax.train.checkpoint import Checkpointer, read_meta
from cvjax.workflow.classification.model import load_classifier
from cvjax.workflow.restore import load_run
from tests.data.pictures import encode

SMALL = ("--model", "mlp", "--model-fields", "hidden=(16,)", "--image-size", 8, "--batch-size", 8, "--log-every", 4,
         "--crop-scale", 1, 1, "--schedule", "cosine")


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> Path:
    """44 pictures, 30 to train on, listed twice: `labels.csv` has what is bright in them, `numbers.csv` how bright."""
    folder, numbers = tmp_path_factory.mktemp("lists"), np.random.default_rng(0)
    labels, columns = ["file,split,labels"], ["file,split,red,green"]
    for i in range(44):
        red, green = numbers.integers(0, 256, 2)
        pixels = numbers.integers(0, 256, (8, 8, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = red, green
        (folder / f"{i}.png").write_bytes(encode(pixels))
        part = "train" if i < 30 else "test"
        bright = [name for name, value in (("red", red), ("green", green)) if value > 127] + ["late"] * (i % 3 == 0)
        labels.append(f"{i}.png,{part},{';'.join(bright)}")
        columns.append(f"{i}.png,{part},{red / 100 + 1000},{-green}.5")
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "numbers.csv").write_text("\n".join(columns))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(command, lists, runs):
    """`train("name", "labels.csv", ...)`: the folder of a run to its end; asked again, the finished one."""
    def run(name: str, data: str, *arguments) -> Path:
        done = command("supervised", "--data", f"labels:{lists}/{data}", *SMALL, "--run-dir", runs / name, *arguments)
        assert done.status == 0, done.err
        return runs / name

    return run


@pytest.fixture
def multi_label(train) -> Path:
    return train("labels", "labels.csv", "--steps", 40)


@pytest.fixture
def regression(train) -> Path:
    return train("numbers", "numbers.csv", "--steps", 40, "--base-learning-rate", 0.05)


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take half of a short run's time."""
    import cvjax.workflow.classification.goal as goal
    import cvjax.workflow.folder as folders

    for module, name in ((goal, "plot_average_precision"), (goal, "plot_predictions"), (folders, "plot_curves")):
        monkeypatch.setattr(module, name, lambda *_, **__: None)


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())["metrics"]


def answers(folder: Path, data: str, part: str = "test") -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """A run's outputs to the images of a part, which are seen as they are, and the truth."""
    classifier, dataset = load_classifier(folder), open_dataset(f"labels:{data}", cache=True)
    source = getattr(dataset, part)
    return np.asarray(classifier.logits(classifier.variables, source.images)), source.labels, dataset.targets.names


def test_labels_are_learnt_judged_and_answered(multi_label, lists, command, tmp_path):
    outputs, truth, names = answers(multi_label, lists / "labels.csv")
    assert names == ("green", "late", "red")
    probabilities = 1 / (1 + np.exp(-outputs.astype(np.float64)))
    expected = {"map": average_precision_score(truth, probabilities),
                "f1": f1_score(truth, probabilities >= 0.5, average="macro", zero_division=0),
                "loss": -np.where(truth, np.log(probabilities), np.log(1 - probabilities)).mean()}
    found = metrics(multi_label)
    assert {name: found[f"test/{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert found["test/map"] > 0.6, "red and green are perfect after a few steps"
    run = load_run(multi_label)
    assert (run.kind, run.class_names) == ("multi_label_classifier", names)
    assert {path.name for path in (multi_label / "figures").iterdir()} == {
        "labels.txt", "average_precision.png", "curves.png"}
    done = command("evaluate", "--checkpoint", multi_label, "--data", f"labels:{lists}/labels.csv", "--batch-size", 8,
                   "--run-dir", tmp_path / "evaluation")
    assert done.status == 0 and (multi_label / "figures" / "labels.txt").read_text() in done.out, done.err
    judged = metrics(tmp_path / "evaluation")
    assert judged == {name: pytest.approx(found[name], rel=1e-6) for name in ("test/map", "test/f1")}

    last = len(truth) - 1
    picture, own = lists / "43.png", probabilities[last]
    order = np.argsort(-own)
    said = [f"{names[k]} {100 * own[k]:.1f} %" for k in order]
    done = command("predict", picture, "--checkpoint", multi_label)
    assert done.out.splitlines()[-1] == f"{picture}: {', '.join(said)}"
    assert command("predict", picture, "--checkpoint", multi_label, "--top", 1).out.endswith(f"{picture}: {said[0]}\n")
    between = (own[order[0]] + own[order[1]]) / 2
    for threshold, line in ((between, said[0]), (0, ", ".join(said)), (1, "none of 100 % or more")):
        done = command("predict", picture, "--checkpoint", multi_label, "--threshold", threshold)
        assert done.out.splitlines()[-1] == f"{picture}: {line}"


def test_numbers_are_learnt_judged_and_answered_in_their_own_units(regression, lists, command, tmp_path):
    data = lists / "numbers.csv"
    outputs, truth, names = answers(regression, data)
    _, known, _ = answers(regression, data, "train")
    mean, std = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    run = load_run(regression)
    assert (run.kind, run.class_names, names) == ("regressor", ("red", "green"), ("red", "green"))
    np.testing.assert_allclose([run.facts["mean"], run.facts["std"]], [mean, std], rtol=1e-12)
    predicted = outputs * std + mean
    expected = {"mae": mean_absolute_error(truth, predicted), "rmse": root_mean_squared_error(truth, predicted),
                "r2": r2_score(truth, predicted), "loss": np.square(outputs - (truth - mean) / std).mean()}
    found = metrics(regression)
    # 1000 in float32 is exact to 3e-5, a thousandth of the mean error of that column.
    assert {name: found[f"test/{name}"] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert found["test/r2"] > 0.5
    assert {path.name for path in (regression / "figures").iterdir()} == {
        "numbers.txt", "predictions.png", "curves.png"}
    done = command("evaluate", "--checkpoint", regression, "--data", f"labels:{data}", "--batch-size", 8, "--run-dir",
                   tmp_path / "evaluation")
    assert done.status == 0 and (regression / "figures" / "numbers.txt").read_text() in done.out, done.err
    judged = metrics(tmp_path / "evaluation")
    assert judged == {f"test/{name}": pytest.approx(found[f"test/{name}"], rel=1e-5) for name in ("mae", "rmse", "r2")}
    done = command("predict", lists / "43.png", "--checkpoint", regression)
    words = done.out.splitlines()[-1].removeprefix(f"{lists}/43.png: ").split(", ")
    assert [word.split()[0] for word in words] == ["red", "green"]
    np.testing.assert_allclose([float(word.split()[1]) for word in words], predicted[-1], rtol=1e-5)  # six digits


@pytest.mark.slow
def test_several_runs_are_averaged_in_the_units_of_their_answers(train, regression, lists, command, tmp_path):
    other = train("other", "numbers.csv", "--steps", 4, "--validation", 0.3, "--eval-every", 4)
    runs, data = [regression, other], lists / "numbers.csv"
    assert load_run(other).facts["mean"] != load_run(regression).facts["mean"], "each has its own training part"
    predicted = []
    for folder in runs:
        outputs, truth, _ = answers(folder, data)
        facts = load_run(folder).facts
        predicted.append(outputs * facts["std"] + facts["mean"])
    done = command("evaluate", "--checkpoint", *runs, "--data", f"labels:{data}", "--batch-size", 8, "--run-dir",
                   tmp_path / "evaluation")
    assert done.status == 0, done.err
    assert metrics(tmp_path / "evaluation")["test/mae"] == pytest.approx(
        mean_absolute_error(truth, np.mean(predicted, axis=0)), rel=1e-3)


@pytest.mark.parametrize("data, metric, options", [
    pytest.param("labels.csv", "map", ("--mixup", 0.2, "--cutmix", 1.0, "--ema-decay", 0.5), marks=pytest.mark.slow),
    ("numbers.csv", "loss", ("--criterion", "l1"))])
def test_a_killed_run_ends_as_one_that_was_not_and_the_best_checkpoint_counts(train, no_pictures, monkeypatch, data,
                                                                              metric, options):
    class Killed(BaseException):
        """In the place of a SIGKILL."""

    arguments = (*options, "--steps", 12, "--validation", 0.3, "--eval-every", 3)
    whole = train(f"whole-{metric}", data, *arguments)
    save, kills = Checkpointer.save, [6]

    def save_and_die(self, state, meta, metrics=None):
        save(self, state, meta, metrics)
        if kills and int(state.step) == kills[0]:
            kills.pop()
            self.wait()
            raise Killed

    monkeypatch.setattr(Checkpointer, "save", save_and_die)
    with pytest.raises(Killed):
        train(f"killed-{metric}", data, *arguments)
    killed = train(f"killed-{metric}", data, *arguments)
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (whole, killed))
    assert kills == [] and first["params_sha256"] == second["params_sha256"] and first["metrics"] == second["metrics"]
    assert first["protocol"]["chosen_by"] == f"validation/{metric}" and read_meta(whole / "checkpoints")["validated"]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    seen = [line[f"validation/{metric}"] for line in lines if f"validation/{metric}" in line]
    assert len(seen) == 4 and first["metrics"][f"validation/{metric}"] == pytest.approx(
        (max if metric == "map" else min)(seen), rel=1e-6)


@pytest.mark.slow
def test_folds_are_chosen_by_the_goals_own_metric(train):
    found = metrics(train("folds", "numbers.csv", "--steps", 4, "--folds", 2))
    assert found.keys() == {"folds/loss_mean", "folds/loss_std", "test/mae", "test/rmse", "test/r2"}


@pytest.mark.slow
def test_images_in_memory_and_on_the_device_give_the_same_run(train):
    options = ("--steps", 6, "--data-cache")
    cached = train("cached", "numbers.csv", *options)
    resident = train("resident", "numbers.csv", *options, "--resident")
    assert metrics(cached) == metrics(resident)
    assert metrics(train("files", "numbers.csv", "--steps", 6)) == pytest.approx(metrics(cached), rel=1e-4)


@pytest.mark.parametrize("experiment, arguments, message", [
    ("supervised", "LABELS --criterion l1", "--criterion l1: it must be bce for images with several labels"),
    ("supervised", "LABELS --criterion softmax", "--criterion softmax: it must be bce for images with several labels"),
    ("supervised", "LABELS --label-smoothing 0.1", "--label-smoothing 0.1: it must be 0 for images with several"),
    ("supervised", "LABELS --pseudo-labels f.csv", "--pseudo-labels f.csv: they are classes, labels:"),
    ("supervised", "NUMBERS --criterion bce", "--criterion bce: it must be l1 or l2 for numbers"),
    ("supervised", "NUMBERS --label-smoothing 0.1", "--label-smoothing 0.1: it must be 0 for numbers"),
    ("supervised", "NUMBERS --cutmix 1", "--cutmix 1.0: it must be 0 for numbers"),
    ("supervised", "NUMBERS --criterion bce --bce-threshold 0.5", "--criterion bce: it must be l1 or l2 for numbers"),
    ("supervised", "NUMBERS --patience 2 --eval-every 2", "needs a validation part"),
    ("supervised", "digits --criterion l2", "--criterion l2: it must be softmax or bce for classes"),
    ("finetune", "LABELS", "has no class labels: fine-tuning needs them"),
    ("knn", "LABELS", "probing needs class labels and a test split"),
    ("linear_probe", "NUMBERS", "probing needs class labels and a test split"),
    ("few_shot", "NUMBERS", "probing needs class labels and a test split"),
    ("retrieval", "LABELS", "probing needs class labels and a test split"),
    ("detect", "LABELS", "unknown data set 'labels:"),
    ("segment", "LABELS", "unknown data set 'labels:"),
    ("evaluate", "LABELS", "the checkpoint knows 2 numbers (red, green), labels:"),
    ("evaluate", "digits", "the checkpoint knows 2 numbers (red, green), digits has 10 classes (0, 1, 2, ...)"),
])
def test_what_does_not_fit_the_goal_is_one_line(command, regression, lists, tmp_path, experiment, arguments, message):
    data, *options = arguments.split()
    data = {"LABELS": f"labels:{lists}/labels.csv", "NUMBERS": f"labels:{lists}/numbers.csv"}.get(data, data)
    own = {"supervised": ("--image-size", 8), "detect": (), "segment": ()}
    fixed = own.get(experiment, ("--checkpoint", regression))
    done = command(experiment, "--data", data, *fixed, "--batch-size", 8, "--run-dir", tmp_path / "run", *options)
    assert message in done.complaint


def test_what_predict_cannot_answer_is_one_line(command, regression, multi_label, lists, tmp_path):
    for options, message in ((("--threshold", 0.5), "--threshold 0.5: it must be left out for 2 numbers (red, green)"),
                             (("--figure", tmp_path / "f.png"), "it must be left out for 2 numbers (red, green)")):
        done = command("predict", lists / "1.png", "--checkpoint", regression, *options)
        assert message in done.complaint
    done = command("predict", lists / "1.png", "--checkpoint", regression, multi_label)
    assert "the checkpoints know different things: 2 numbers (red, green) and 3 labels (green," in done.complaint
    done = command("predict", lists / "1.png", "--checkpoint", multi_label, "--threshold", 2)
    assert "--threshold 2.0: it must be in [0, 1]" in done.complaint
    done = command("pseudo_label", "--checkpoint", multi_label, "--images", lists, "--output", tmp_path / "o.csv")
    assert "holds a multi-label classifier; this takes a classifier" in done.complaint


@pytest.mark.parametrize("rows, message", [
    ("a.png,train,3\nb.png,train,3\nc.png,test,4\n", "all training images have 3 in the column y: nothing to learn"),
    ("a.png,train,16000001\nb.png,train,16000003\nc.png,test,4\n", "which is lost in float32 beside 16000001"),
    ("a.png,train,cat\nb.png,train,\nc.png,test,\n", "no image of the test part has a label: there is nothing"),
])
def test_targets_by_which_nothing_is_learnt_or_judged_are_one_line(command, tmp_path, rows, message):
    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.png").write_bytes(encode(np.full((8, 8, 3), number, np.uint8)))
    (tmp_path / "labels.csv").write_text("file,split,y\n" + rows)
    done = command("supervised", "--data", f"labels:{tmp_path}", *SMALL, "--batch-size", 2, "--run-dir",
                   tmp_path / "run")
    assert message in done.complaint


def test_missing_pictures_are_bad_files(command, no_pictures, tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(encode(np.full((8, 8, 3), 20 * number, np.uint8)))
    (tmp_path / "labels.csv").write_text("file,y\n" + "".join(f"{number}.png,{number}.5\n" for number in range(10)))
    arguments = ("supervised", "--data", f"labels:{tmp_path}", *SMALL, "--batch-size", 4, "--steps", 1, "--run-dir",
                 tmp_path / "run")
    assert "1 of 10 files cannot be read, 0 may be" in command(*arguments, "--data-max-bad", 0).complaint
    done = command(*arguments, "--overwrite")
    assert done.status == 0 and "1 listed pictures that are not there, left out (9.png)" in done.out, done.err
    assert (tmp_path / "run" / "bad_files.txt").read_text() == f"{tmp_path}/9.png\tno such file\n"
