"""Pseudo-labels of a folder, by a classifier whose answers can be worked out, and a training that takes them."""

import csv
import json

import numpy as np
import pytest

from tests.data.pictures import encode
from tests.experiments.written_runs import light, write_run

GREYS = {"a/000.png": 255, "a/deep/001.png": 0, "b/002.png": 130, "003.png": 20}


@pytest.fixture
def images(tmp_path):
    for name, grey in GREYS.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(encode(np.full((8, 8, 3), grey, np.uint8)))
    (tmp_path / "images" / "notes.txt").write_text("")
    return tmp_path / "images"


def rows(path) -> dict[str, tuple[str, float]]:
    with open(path, newline="") as file:
        return {row["file"]: (row["label"], float(row["probability"])) for row in csv.DictReader(file)}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_sure_answers_are_written_whatever_the_batch_size(command, tmp_path, images, batch_size):
    done = command("pseudo_label", "--checkpoint", write_run(tmp_path / "run", 3.0), "--images", images, "--output",
                   tmp_path / "labels.csv", "--threshold", 0.9, "--batch-size", batch_size)
    assert done.status == 0, done.err
    expected = {f"{images}/{name}": light(3, grey) for name, grey in GREYS.items() if grey != 130}
    found = rows(tmp_path / "labels.csv")
    assert found == {name: ("light" if p > 0.5 else "dark", pytest.approx(max(p, 1 - p), abs=1e-5))
                     for name, p in expected.items()}
    assert "3 of 4 images got a label of probability 0.9 or more" in done.out and "  dark: 2\n  light: 1" in done.out


def test_several_checkpoints_are_averaged(command, tmp_path, images):
    runs = write_run(tmp_path / "a", 3.0), write_run(tmp_path / "b", 0.0)
    command("pseudo_label", "--checkpoint", *runs, "--images", images, "--output", tmp_path / "labels.csv",
            "--threshold", 0)
    found = rows(tmp_path / "labels.csv")
    assert len(found) == 4
    assert found[f"{images}/a/000.png"] == ("light", pytest.approx((light(3, 255) + 0.5) / 2, abs=1e-5))


def test_unreadable_images_are_counted_and_none_at_all_is_one_line(command, tmp_path, images):
    arguments = ("pseudo_label", "--checkpoint", write_run(tmp_path / "run"), "--images", images, "--output",
                 tmp_path / "labels.csv")
    (images / "003.png").write_bytes(b"no picture")
    done = command(*arguments, "--threshold", 0)
    assert done.status == 0 and "3 of 3 images" in done.out and "; 1 could not be read" in done.out
    assert len(rows(tmp_path / "labels.csv")) == 3
    assert "0 of 3 images" in command(*arguments, "--threshold", 1).out and rows(tmp_path / "labels.csv") == {}
    for name in GREYS:
        (images / name).write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("kept")
    assert f"none of the 4 images in {images} can be read" in command(*arguments).complaint
    assert (tmp_path / "labels.csv").read_text() == "kept"


@pytest.mark.parametrize("change, message", [
    ({"--output": "gone/labels.csv"}, "--output gone/labels.csv: it must be a file in a folder that exists"),
    ({"--output": "images"}, "--output images: it must be a file in a folder that exists"),
    ({"--images": "gone"}, "no such folder: gone"), ({"--images": "run/checkpoints"}, "no images (.jpg"),
    ({"--threshold": 1.5}, "--threshold 1.5: it must be in [0, 1]"),
    ({"--threshold": "nan"}, "--threshold nan: it must be in [0, 1]"),
    ({"--batch-size": 0}, "--batch-size 0: it must be at least 1"),
    ({"--checkpoint": "gone"}, "gone: no checkpoints in it")])
def test_a_mistake_is_one_line(command, tmp_path, images, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    arguments = {"--checkpoint": "run", "--images": "images", "--output": "labels.csv"} | change
    assert message in command("pseudo_label", *(word for pair in arguments.items() for word in pair)).complaint


def test_a_training_takes_them(command, tmp_path, images):
    write_run(tmp_path / "run", 3.0, channels=3)
    done = command("pseudo_label", "--checkpoint", tmp_path / "run", "--images", images, "--output",
                   tmp_path / "labels.csv", "--threshold", 0.6)
    assert done.status == 0, done.err
    count = len(rows(tmp_path / "labels.csv"))
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(encode(np.full((8, 8, 3), 200 * k + i, np.uint8)))
    done = command("supervised", "--data", f"folder:{tmp_path}/photos", "--pseudo-labels", tmp_path / "labels.csv",
                   "--validation", 0.25, "--image-size", 8, "--batch-size", 8, "--steps", 1, "--schedule", "cosine",
                   "--model", "linear", "--model-fields", "--run-dir", tmp_path / "second")
    assert done.status == 0, done.err
    assert f"data folder:{tmp_path}/photos: {12 + count} training and 4 validation and 4 test images" in done.out
    summary = json.loads((tmp_path / "second" / "summary.json").read_text())
    assert count == 4 and summary["protocol"]["training_images"] == 16
