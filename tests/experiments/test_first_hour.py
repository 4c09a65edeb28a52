"""A stranger's first hour: from 64 photos of one's own to a page worth showing, by the commands that are printed."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from cvjax.workflow.prediction.predictor import load
from experiments.__main__ import main as list_or_run
from tests.data.pictures import encode, photo

pytestmark = pytest.mark.slow

SMALL = ("--image-size", 32, "--workers", 0)
TINY = ("--model", "mae_vit_tiny_patch16", "--patch-size", 8, "--width", 32, "--depth", 2, "--heads", 2,
        "--decoder-width", 32, "--decoder-depth", 1, "--decoder-heads", 2)
COLOURS = {"sea": (20, 60, 220), "wood": (40, 150, 40), "brick": (200, 60, 40)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """63 photos of different sizes in three classes, one broken file, and notes."""
    folder = tmp_path_factory.mktemp("own") / "my photos"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(21):
            pixels = 0.5 * photo(40 + i, 60 - i, seed=i) + 0.5 * np.array(colour)
            (folder / name / f"{i:02}.png").write_bytes(encode(pixels.astype(np.uint8)))
    (folder / "sea" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    (folder / "notes.txt").write_text("taken in spring")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that one works in; runs lie below it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(done, **words: str) -> list[list[str]]:
    """The commands that a training prints at its end, words in capitals replaced: experiment and arguments of each."""
    lines = [line.removeprefix("next: ").partition("    #")[0] for line in done.out.splitlines()
             if line.startswith("next: ")]
    commands = [[words.get(word, word) for word in shlex.split(line)] for line in lines]
    assert all(words[:2] == ["python", "-m"] for words in commands) and commands
    return [[words[2].removeprefix("experiments."), *words[3:]] for words in commands]


def test_a_classifier_of_ones_own_photos(command, here, photos, capsys):
    list_or_run([])
    assert "supervised" in capsys.readouterr().out
    done = command("supervised", "folder", "--data", photos)
    assert f"did you mean --data folder:{photos}?" in done.complaint

    done = command("supervised", "folder", "--data", f"folder:{photos}", "--model", "resnet20", "--steps", 40,
                   "--eval-every", 20, *SMALL)
    assert done.status == 0, done.err
    assert "data unreadable: 1 of 64 files" in done.out
    (run,) = (here / "runs" / "supervised").iterdir()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "complete" in page and "brick" in page
    commands = printed(done, PHOTOS=str(photos / "sea"), DIR="answers")
    assert [words[0] for words in commands] == ["predict", "evaluate", "report"]
    for words in commands:
        done = command(*words)
        assert done.status == 0, (words, done.err)
    assert (here / "runs" / "index.html").exists()
    answers = [json.loads(line) for line in (here / "answers" / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 21 and "broken.jpg" in (here / "answers" / "unreadable.txt").read_text()
    answer = load(run, batch_size=8)(answers[0]["file"]).limited()
    assert [(each["name"], np.float32(each["probability"])) for each in answers[0]["classes"]] == list(
        zip(answer.names, answer.values))
    judged, trained = (json.loads(next((here / "runs" / name).glob("*/summary.json")).read_text())["metrics"]
                       for name in ("evaluate", "supervised"))
    assert judged["test/top1"] == trained["test/top1"]
    for experiment in ("knn", "linear_probe", "few_shot", "retrieval", "embed"):
        done = command(experiment, "--checkpoint", run, *(("--shots", 1, 5) if experiment == "few_shot" else ()))
        assert done.status == 0, (experiment, done.err)


def test_features_of_ones_own_photos_without_labels(command, here, photos):
    done = command("mae_pretrain", "folder", "--data", f"folder:{photos}", "--steps", 40, *SMALL, *TINY)
    assert done.status == 0, done.err
    assert "--batch-size 64 is larger than the training set of " in done.out
    (run,) = (here / "runs" / "mae_pretrain").iterdir()
    commands = printed(done)
    assert [words[0] for words in commands] == ["knn", "linear_probe", "finetune", "report"]
    for words in commands:
        done = command(*words, *(("--steps", 5) if words[0] == "finetune" else ()))
        assert done.status == 0, (words, done.err)
    done = command("attention", photos / "wood", "--checkpoint", run, "--output", "attention")
    assert done.status == 0 and len(list((here / "attention").glob("*.png"))) == 21, done.err
    assert command("embed", "--checkpoint", run, "--run-dir", "kept").status == 0
    assert command("knn", "--features", "kept").status == 0
