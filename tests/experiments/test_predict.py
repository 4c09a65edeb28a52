"""Answers about pictures, by networks whose answers can be worked out."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from cvjax.errors import ConfigError, DataError
from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.workflow.prediction.answers import LabelMap, Named, Objects
from cvjax.workflow.prediction.pictures import find
from cvjax.workflow.prediction.predictor import Predictor, load
from tests.data.pictures import encode
from tests.experiments.written_runs import light, write_run


def picture(path, grey, size=(20, 30)):
    path.write_bytes(encode(np.full((*size, 3), grey, np.uint8)))
    return path


def test_answers_are_the_models_probabilities_likeliest_first(command, tmp_path):
    run = write_run(tmp_path / "run", 2.0)
    white, dim = picture(tmp_path / "white.png", 255), picture(tmp_path / "dim.png", 100, (9, 8))
    done = command("predict", white, dim, "--checkpoint", run)
    assert done.status == 0, done.err
    p, q = light(2, 255), light(2, 100)
    assert f"{white}: light {100 * p:.1f} %, dark {100 - 100 * p:.1f} %" in done.out.splitlines()
    assert f"{dim}: dark {100 - 100 * q:.1f} %, light {100 * q:.1f} %" in done.out.splitlines()
    assert f"{white}: light {100 * p:.1f} %\n" in command("predict", white, "--checkpoint", run, "--top", 1).out


def test_several_checkpoints_are_averaged(command, tmp_path):
    runs = write_run(tmp_path / "a", 2.0), write_run(tmp_path / "b", 0.5)
    done = command("predict", picture(tmp_path / "white.png", 255), "--checkpoint", *runs)
    assert f"light {50 * (light(2, 255) + light(0.5, 255)):.1f} %" in done.out


def test_unreadable_pictures_are_named_and_others_answered(command, tmp_path):
    run, broken = write_run(tmp_path / "run"), tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    os.mkfifo(tmp_path / "fifo.png")
    done = command("predict", broken, picture(tmp_path / "white.png", 255), tmp_path / "gone.png",
                   tmp_path / "fifo.png", tmp_path / "none.mp4", "--checkpoint", run)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"{tmp_path}/none.mp4: No such file or directory", "videos are opened before photos are decoded"
    assert lines[1].startswith(f"{broken}: ") and "light" in lines[2]
    assert lines[3] == f"{tmp_path}/gone.png: No such file or directory"
    assert lines[4] == f"{tmp_path}/fifo.png: is a FIFO, not a file"
    assert lines[5] == "4 of 5 images could not be read" and len(lines) == 6
    done = command("predict", "https://example.org/a.png", picture(tmp_path / "white.png", 255), "--checkpoint", run)
    assert "is an address: download it first" in done.out.splitlines()[0]
    assert "none of the 1 images can be read" in command("predict", broken, "--checkpoint", run).complaint


def read(folder):
    """The lines of `predictions.jsonl`."""
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_what_is_written_equals_the_call_in_python_bit_for_bit(command, tmp_path):
    runs = write_run(tmp_path / "a", 2.0), write_run(tmp_path / "b", 0.3)
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    paths = [picture(photos / name, grey, size) for name, grey, size in (
        ("photo2.png", 40, (20, 30)), ("photo10.png", 90, (8, 8)), ("sub/photo1.png", 200, (500, 41)))]
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture either")
    (photos / ".hidden.png").write_bytes(b"")
    done = command("predict", photos, "--checkpoint", *runs, "--output", tmp_path / "out", "--batch-size", 2,
                   "--threshold", 0)
    assert done.status == 0, done.err
    assert f"left out: 1 file that is no picture, such as {photos}/notes.txt" in done.out
    assert "1 of 4 images could not be read" in done.out and "images/s" in done.out

    lines, answers = read(tmp_path / "out"), list(load(*runs, batch_size=2).many(paths))
    assert [line["file"] for line in lines] == list(map(str, paths)), "photo2 comes before photo10"
    for line, answer in zip(lines, answers, strict=True):
        written = {each["name"]: np.float32(each["probability"]) for each in line["classes"]}
        assert written == dict(zip(answer.names, answer.values)) and len(written) == 2
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as table:
        rows = list(csv.reader(table))
    assert rows[0] == ["file", "frame", "name", "value"] and len(rows) == 7
    assert {row[2]: np.float32(row[3]) for row in rows[1:3]} == dict(zip(answers[0].names, answers[0].values))
    drawn = tmp_path / "out" / "drawn" / "photos"
    assert sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.jpg")) == [
        "photo10.png.jpg", "photo2.png.jpg", "sub/photo1.png.jpg"]
    with Image.open(drawn / "photo2.png.jpg") as copy:
        assert copy.width == 360 and copy.height > 240, "small pictures are enlarged, and text is below"
        assert abs(int(np.asarray(copy)[5, 5, 0]) - 40) < 3
    assert "broken.jpg: " in (tmp_path / "out" / "unreadable.txt").read_text()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["images"] == 3
    assert [source["run"] for source in summary["sources"]] == list(map(str, runs))


def test_one_picture_is_answered_in_every_form(tmp_path):
    predictor, path = load(write_run(tmp_path / "run", 2.0)), picture(tmp_path / "white.png", 255)
    answer = predictor(path)
    np.testing.assert_allclose(answer.values, [1 - light(2, 255), light(2, 255)], rtol=1e-6)
    with Image.open(path) as opened:
        for form in (str(path), path.read_bytes(), opened, np.full((20, 30, 3), 255, np.uint8)):
            np.testing.assert_array_equal(predictor(form).values, answer.values)
    with pytest.raises(ValueError, match="got NoneType"):
        predictor(None)
    with pytest.raises(FileNotFoundError):
        predictor(tmp_path / "gone.png")


class Mean:
    """A network whose answer is the mean of the pixels, of pictures of any size."""

    variables, channels, origins = 2.0, 3, []

    def __init__(self):
        self.batches = []

    def example(self, picture):
        with Image.open(picture if isinstance(picture, Path) else os.fspath(picture)) as opened:
            return {"image": np.asarray(opened)}

    def outputs(self, variables, batch):
        self.batches.append(batch["image"].shape)
        return {"mean": variables * batch["image"].mean(axis=(1, 2, 3))}

    def answer(self, outputs, example):
        return Named("numbers", ("mean",), outputs["mean"][None])


def test_batches_are_full_and_of_one_shape_and_answers_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("cvjax.workflow.prediction.predictor.picture_of", lambda path: path)
    sizes = [(4, 6), (6, 4), (4, 6), (4, 6), (6, 4)]
    paths = [picture(tmp_path / f"{number}.png", 10 * number, size) for number, size in enumerate(sizes)]
    predictor = Predictor(network := Mean(), batch_size=3)
    answers = list(predictor.many([paths[0], tmp_path / "gone.png", *paths[1:]]))
    assert isinstance(answers.pop(1), FileNotFoundError)
    assert [answer.values[0] for answer in answers] == [0, 20, 40, 60, 80]
    assert sorted(network.batches) == [(3, 4, 6, 3), (3, 6, 4, 3)], "each shape is compiled once"
    with pytest.raises(ConfigError, match="batch_size 0: it must be at least 1"):
        Predictor(network, batch_size=0)


def test_a_video_is_answered_frame_by_frame(command, tmp_path):
    run, clip = write_run(tmp_path / "run", 2.0), tmp_path / "clip.mp4"
    video = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 24))
    for grey in range(0, 250, 50):
        video.write(np.full((24, 32, 3), grey, np.uint8))
    video.release()
    (tmp_path / "no.mp4").write_bytes(b"no video")
    done = command("predict", clip, tmp_path / "no.mp4", "--checkpoint", run, "--every", 2, "--output",
                   tmp_path / "out")
    assert done.status == 0, done.err
    assert f"{tmp_path}/no.mp4: no video that OpenCV can read" in done.out
    lines = read(tmp_path / "out")
    assert [(line["frame"], line["seconds"]) for line in lines] == [(0, 0.0), (2, 0.2), (4, 0.4)]
    for line, grey in zip(lines, (0, 100, 200)):  # MPEG-4 keeps levels of grey to a few steps
        found = {each["name"]: each["probability"] for each in line["classes"]}
        assert light(2, grey - 6) < found["light"] < light(2, grey + 6)
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "drawn" / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and drawn.get(cv2.CAP_PROP_FPS) == 5
    done = command("predict", clip, "--checkpoint", run, "--every", 4)
    assert [line.split(": ")[0] for line in done.out.splitlines()[:2]] == [f"{clip} at 0.00 s", f"{clip} at 0.40 s"]


NAMES = ("background", "cat", "dog")


def test_objects_in_words_numbers_and_boxes():
    boxes = np.float32([[10, 20, 50, 60], [0, 0, 5, 5], [1, 2, 3, 4]])
    answer = Objects(NAMES, boxes, np.float32([0.9, 0.5, 0.2]), np.array([2, 1, 1]), (100, 200))
    reported = answer.limited(None, None)
    known = dataclasses.replace(answer, least=(1.0, 0.5, 0.95))
    assert known.limited().words() == "1 object: cat 0.50"
    assert known.limited(threshold=0.9).words() == "1 object: dog 0.90"
    assert reported.words() == "2 objects: dog 0.90, cat 0.50" and answer.limited(None, 0.1).words()[0] == "3"
    assert answer.limited(1, None).words() == "1 object: dog 0.90" and answer.limited(None, 1).words() == "0 objects"
    assert reported.as_json() == {"height": 100, "width": 200, "objects": [
        {"name": "dog", "score": float(np.float32(0.9)), "box": [10, 20, 50, 60]},
        {"name": "cat", "score": 0.5, "box": [0, 0, 5, 5]}]}
    assert reported.rows()[1] == ("cat", 0.5, 0, 0, 5, 5) and len(reported.rows()[0]) == len(Objects.COLUMNS)
    drawn = answer.limited(1, None).drawn(np.zeros((100, 200, 3), np.uint8))
    zoom = drawn.shape[0] // 100
    assert drawn.shape == (100 * zoom, 200 * zoom, 3)
    assert drawn[60 * zoom - 1, 30 * zoom].any() and drawn[40 * zoom, 10 * zoom].any(), "its lower and its left edge"
    assert not drawn[40 * zoom, 30 * zoom].any() and not drawn[:, 150 * zoom:].any(), "nothing within and beside it"


def test_classes_of_pixels_in_words_numbers_and_paint():
    labels = np.zeros((40, 60), np.uint8)
    labels[:10] = 1
    answer = LabelMap(NAMES, labels)
    assert answer.words() == "background 75.0 %, cat 25.0 %" and answer.rows() == [("background", 0.75), ("cat", 0.25)]
    assert answer.as_json()["classes"][1] == {"name": "cat", "share": 0.25}
    drawn = answer.drawn(np.full((40, 60, 3), 128, np.uint8))
    assert np.ptp(drawn[30, 30].astype(int)) > 30 and np.ptp(drawn[200, 30].astype(int)) == 0, "only the cat is painted"


def test_pictures_are_found_and_never_written_to_one_place(tmp_path):
    for name in ("a/1.png", "a/b/1.JPG", "c/1.png", "c/clip.mp4", "c/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def places(*given, **options):
        return [str(found.place) for found in find([str(tmp_path / one) for one in given], **options)[0]]

    assert places("a", "c") == ["a/1.png", "a/b/1.JPG", "c/1.png"]
    assert places("a/*.png", "c", videos=True) == ["1.png", "c/1.png", "c/clip.mp4"]
    assert find([str(tmp_path / "c")])[1].startswith("2 files that are no pictures, such as ")
    for given, error, message in ((("a/1.png", "c/1.png"), DataError, "give a folder above both"),
                                  (("*.gif",), ConfigError, "no file fits "), (("e",), DataError, "no images (")):
        (tmp_path / "e").mkdir(exist_ok=True)
        with pytest.raises(error) as caught:
            places(*given)
        assert message in str(caught.value)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weight file of a ResNet for ten classes, and its answer to a white picture."""
    model, path = create_model("resnet20"), tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    variables["params"]["fc"]["bias"] = np.float32([0, 0, 0, 9, 0, 0, 0, 0, 0, 0])
    save_weights(variables, model, path)
    return path


def test_a_published_file_with_and_without_names(command, tmp_path, weights):
    white = picture(tmp_path / "white.png", 255)
    arguments = ("predict", white, "--model", "resnet20", "--weights", weights, "--top", 1)
    done = command(*arguments, "--figure", tmp_path / "figure.png")
    assert done.status == 0 and f"{white}: class 3 " in done.out, done.err
    assert (tmp_path / "figure.png").stat().st_size > 1000
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij") + "\n")
    assert f"{white}: d " in command(*arguments, "--class-names", tmp_path / "names.txt").out
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    assert "10 lines long, but it has 2" in command(*arguments, "--class-names", tmp_path / "names.txt").complaint
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00")
    for wrong in ("names.txt", "gone.txt"):
        assert f"--class-names {tmp_path}/{wrong}: " in command(*arguments, "--class-names", tmp_path / wrong).complaint


@pytest.mark.parametrize("arguments, message", [
    ("--checkpoint RUN", "no images given"), ("IMAGE", "give --checkpoint, or --model with --weights"),
    ("IMAGE --model resnet20", "give --checkpoint, or --model with --weights"),
    ("IMAGE --weights WEIGHTS", "give --checkpoint, or --model with --weights"),
    ("IMAGE --checkpoint RUN --model resnet20 --weights WEIGHTS", "give --checkpoint, or --model with --weights"),
    ("IMAGE --checkpoint RUN --class-names names.txt", "left out with --checkpoint, which knows its classes"),
    ("IMAGE --checkpoint RUN --every 0", "--every 0: it must be at least 1"),
    ("gone/*.png --checkpoint RUN", "no file fits gone/*.png"),
    ("IMAGE --checkpoint RUN --output IMAGE", "it must be a folder, or not exist"),
    ("IMAGE --checkpoint RUN --top 0", "--top 0: it must be at least 1"),
    ("IMAGE --checkpoint RUN OTHER --figure f.png", "--figure f.png: it must be left out for an ensemble"),
    ("IMAGE --checkpoint RUN --figure gone/f.png", "--figure gone/f.png: it must be in a folder that exists"),
    ("IMAGE --checkpoint RUN --figure f.png", "--figure f.png: this classifier has no feature maps to explain its"),
    ("IMAGE --checkpoint IMAGE", "no checkpoints in it; give the folder of a run"),
    ("IMAGE --checkpoint MAE", "is a run of mae_pretrain and holds an encoder; this takes a classifier"),
    ("IMAGE --checkpoint RUN OTHER", "the checkpoints know different things: 2 classes (dark, light) and 2"),
    ("IMAGE --checkpoint RUN RGB", "the checkpoints take images of 1 and of 3 channels"),
    ("IMAGE --model resnet21 --weights WEIGHTS", "unknown model 'resnet21': did you mean resnet"),
    ("IMAGE --model resnet18 --weights WEIGHTS", "the weights do not fit ResNet"),
    ("IMAGE --model resnet20 --weights gone.pth", "--weights gone.pth: "),
    ("IMAGE --model mae_vit_tiny_patch16 --weights WEIGHTS", "is no classifier"),
    ("IMAGE --model linear --weights WEIGHTS", "no weight table for Linear"),
])
def test_a_mistake_is_one_line(command, tmp_path, monkeypatch, weights, arguments, message):
    monkeypatch.chdir(tmp_path)
    places = {"WEIGHTS": weights, "IMAGE": picture(tmp_path / "white.png", 255)}
    if "MAE" in arguments:
        places["MAE"] = write_run(tmp_path / "mae", experiment="mae_pretrain", kind="encoder")
    if "RUN" in arguments:
        places |= {"RUN": write_run(tmp_path / "run"), "OTHER": write_run(tmp_path / "other", names=("a", "b")),
                   "RGB": write_run(tmp_path / "rgb", channels=3)}
    done = command("predict", *(places.get(word, word) for word in arguments.split()))
    assert message in done.complaint
