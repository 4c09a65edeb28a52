"""Labels carried on through videos in which each patch of an object looks like no patch of another."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.experiments.tiny_vit import plain_picture, write_picture, write_weights

COLOURS = np.array([[20, 90, 30], [230, 30, 30], [30, 60, 240]], np.uint8)
NUMBERS = (1, 2, 10, 11)  # of the frames: their natural order is not that of their letters
SMALL = ("--image-size", 32, "--side-multiple", 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "vit.safetensors")


def labels(time: int) -> np.ndarray:
    """Two bars on a field of 32x96 pixels that move by a patch each frame, one to the right, one to the left.

    Squares would come back with round corners: shares are interpolated.
    """
    map_ = np.zeros((32, 96), int)
    map_[:, 8 * time:8 * time + 16] = 1
    map_[:, 88 - 8 * time:96 - 8 * time] = 2
    return map_


def write_video(folder, scale: int = 1, numbers=NUMBERS) -> tuple:
    """Frames and masks of the video, enlarged."""
    for time, number in enumerate(numbers):
        large = labels(time).repeat(scale, 0).repeat(scale, 1)
        write_picture(folder / "frames" / f"f{number}.png", COLOURS[large])
        write_picture(folder / "masks" / f"f{number}.png", large)
    return folder / "frames", folder / "masks"


def written(folder) -> np.ndarray:
    maps = []
    for number in NUMBERS:
        with Image.open(folder / f"f{number}.png") as image:
            assert image.mode == "P" and image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # as DAVIS's own
            maps.append(np.array(image))
    return np.stack(maps)


@pytest.mark.parametrize("scale", [1, 2])
def test_bars_of_other_colours_are_followed_exactly(command, tmp_path, weights, scale):
    """At twice the size the network sees the same pixels, and the labels come out at the frames' own size."""
    frames, masks = write_video(tmp_path, scale)
    done = command("propagate", frames, "--truth", masks, *weights, *SMALL, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    wanted = np.stack([labels(time) for time in range(4)]).repeat(scale, 1).repeat(scale, 2)
    np.testing.assert_array_equal(written(tmp_path / "out" / "frames"), wanted)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"] == {"jf_mean": 1, "j_mean": 1, "j_recall": 1, "j_decay": 0, "f_mean": 1, "f_recall": 1,
                                  "f_decay": 0}
    assert summary["protocol"]["queue"] == 7 and summary["protocol"]["videos"] == ["frames"]
    assert "frames: 4 frames, 2 objects, J&F 100.00 %" in done.out
    with Image.open(tmp_path / "out" / "frames.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.size) == (4, 100, (96 * scale, 32 * scale))
        for time in range(4):
            gif.seek(time)
            inside = np.array(gif.convert("RGB")).astype(int)[4 * scale, (8 * time + 4) * scale]
            assert np.abs(inside - [(230 + 128) // 2, 15, 15]).max() < 12  # a palette's error


def test_options_reach_the_propagation(command, tmp_path, weights):
    """Only from the first frame, only from the nearest patches, and of these only from the most similar ones."""
    frames, masks = write_video(tmp_path)
    done = command("propagate", frames, "--truth", masks, *weights, *SMALL, "--output", tmp_path / "out", "--queue", 0,
                   "--radius", 1, "--top-k", 1)
    assert done.status == 0, done.err
    # The first column of patches becomes background, which is not among its neighbours. The others take the labels of
    # their colour until the bar has left its neighbourhood; then only the background is there.
    wanted = np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
                       [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0],
                       [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                       [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    wanted = np.broadcast_to(wanted.repeat(8, axis=1)[:, None], (4, 32, 96))
    np.testing.assert_array_equal(written(tmp_path / "out" / "frames"), wanted)
    metrics = json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"]
    assert metrics["j_mean"] == pytest.approx((2 / 3 + 1 / 3 + 1 + 0) / 4)  # two frames of two objects


def test_a_first_mask_alone(command, tmp_path, weights):
    """Void is background; a mask besides the truth comes first; without a truth nothing is judged."""
    frames, masks = write_video(tmp_path)
    first = np.where(labels(0) == 1, 2, 0)
    first[:8, 70:] = 255
    mask = write_picture(tmp_path / "first.png", first)
    done = command("propagate", frames, "--mask", mask, *weights, *SMALL, "--output", tmp_path / "out",
                   "--frames-per-second", 25)
    assert done.status == 0, done.err
    wanted = np.stack([labels(time) for time in range(4)])
    np.testing.assert_array_equal(written(tmp_path / "out" / "frames"), np.where(wanted == 1, 2, 0))
    assert not (tmp_path / "out" / "summary.json").exists() and "J&F" not in done.out
    with Image.open(tmp_path / "out" / "frames.gif") as gif:
        assert gif.info["duration"] == 40
    done = command("propagate", frames, "--mask", mask, "--truth", masks, *weights, *SMALL, "--output",
                   tmp_path / "both")
    np.testing.assert_array_equal(written(tmp_path / "both" / "frames"), np.where(wanted == 1, 2, 0))
    assert "J&F 0.00 %" in done.out  # whatever was 1 is 2, and what was 2 is 0


def test_an_object_between_the_patches_is_said_to_be_lost(command, tmp_path, weights):
    frames, _ = write_video(tmp_path)
    first = labels(0)
    first[20, 28] = 3  # the pixel in the middle of its patch
    first[21, 38] = 4
    mask = write_picture(tmp_path / "first.png", first)
    done = command("propagate", frames, "--mask", mask, *weights, *SMALL, "--output", tmp_path / "out")
    assert "label 4 covers the middle of no patch of 8 pixels and is lost" in done.out, done.err


def test_davis(command, tmp_path, weights):
    """Two videos of two sizes; each object counts the same."""
    root = tmp_path / "davis"
    for name, scale in (("cat", 1), ("two", 2)):
        frames, masks = write_video(tmp_path / name, scale)
        for kind, folder in (("JPEGImages", frames), ("Annotations", masks)):
            (root / kind / "480p").mkdir(parents=True, exist_ok=True)
            folder.rename(root / kind / "480p" / name)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("cat\ntwo\n")
    done = command("propagate", "--davis", root, *weights, *SMALL, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["protocol"]["videos"] == ["cat", "two"] and summary["metrics"]["jf_mean"] == 1
    assert written(tmp_path / "out" / "two").shape == (4, 64, 192)
    for name in ("../../../cat", str(tmp_path / "cat")):
        (root / "ImageSets" / "2017" / "val.txt").write_text(f"two\n{name}\n")
        assert "val.txt: the name" in command("propagate", "--davis", root, *weights).complaint
    (root / "ImageSets" / "2017" / "val.txt").write_text("")
    assert "val.txt names no video" in command("propagate", "--davis", root, *weights).complaint


@pytest.mark.parametrize("arguments, message", [
    ("VIT", "give a folder of frames, or --davis"),
    ("FRAMES VIT --davis FRAMES", "give a folder of frames, or --davis"),
    ("FRAMES VIT", "give --mask, the labels of the first frame, or --truth, those of all"),
    ("VIT --davis FRAMES --truth MASKS", "leave --mask and --truth out"),
    ("VIT --davis FRAMES", "is no DAVIS folder: it has no ImageSets/2017/val.txt"),
    ("FRAMES --truth MASKS", "give --checkpoint, or --model with --weights"),
    ("gone VIT --truth MASKS", "no such folder: gone"), ("EMPTY VIT --truth MASKS", "no images ("),
    ("FRAMES VIT --truth gone", "--truth gone: it must be a folder"), ("FRAMES VIT --truth EMPTY", "no mask "),
    ("FRAMES VIT --mask gone.png", "gone.png: No such file or directory"),
    ("FRAMES VIT --mask FRAMES/f1.png", "f1.png: a label map must have a palette or be grey, this PNG is RGB"),
    ("FRAMES VIT --mask other.png", "other.png has 40x40 pixels, its picture 96x32"),
    ("FRAMES VIT --mask void.png", "void.png has no object: objects count from 1; it has 255, which marks"),
    ("FRAMES VIT --mask zero.png", "zero.png has no object: objects count from 1"),
    ("ONE VIT --mask MASKS/f1.png", "has 1 frame: a video needs 2"),
    ("TWO VIT --truth MASKS", "has 2 frames: a video needs 2, and 3 to be judged"),
    ("MIXED VIT --truth MASKS", "f10.png has 40x40 pixels, f1.png 96x32: the frames of a video have one size"),
    ("FRAMES VIT --truth MASKS --image-size 36", "--image-size 36: it must be a multiple of the patches' 8 pixels"),
    ("FRAMES VIT --truth MASKS --side-multiple 12", "--side-multiple 12: it must be a multiple"),
    ("FRAMES VIT --truth MASKS --side-multiple 128", "has a long side of less than 128 pixels at a short side of 32"),
    ("FRAMES VIT --truth MASKS --queue -1", "--queue -1: it must be at least 0"),
    ("FRAMES VIT --truth MASKS --top-k 0", "--top-k 0: it must be at least 1"),
    ("FRAMES VIT --truth MASKS --temperature 0", "--temperature 0.0: it must be more than 0"),
    ("FRAMES VIT --truth MASKS --frames-per-second 0", "--frames-per-second 0.0: it must be from 1 to 50"),
    ("FRAMES VIT --truth MASKS --output ROOT", "frames, which is read"),
])
def test_a_mistake_is_one_line(command, tmp_path, monkeypatch, weights, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path)
    (tmp_path / "empty").mkdir()
    write_video(tmp_path / "a", numbers=(1,))
    write_video(tmp_path / "b", numbers=(1, 2))
    write_video(tmp_path / "c")
    plain_picture(tmp_path / "c" / "frames" / "f10.png", 90, (40, 40))
    write_picture(tmp_path / "other.png", np.ones((40, 40)))
    write_picture(tmp_path / "void.png", np.where(labels(0), 255, 0))
    write_picture(tmp_path / "zero.png", np.zeros((32, 96)))
    places = {"FRAMES": "frames", "MASKS": "masks", "EMPTY": "empty", "ONE": "a/frames", "TWO": "b/frames",
              "MIXED": "c/frames", "ROOT": str(tmp_path)}
    words = []
    for word in arguments.split():
        start, slash, rest = word.partition("/")
        words += weights if word == "VIT" else [places.get(start, start) + slash + rest]
    size = () if "--side-multiple" in words else SMALL[2:]
    size += () if "--image-size" in words else SMALL[:2]
    out = () if "--output" in words else ("--output", "out")
    assert message in command("propagate", *words, *size, *out).complaint
    assert not (tmp_path / "out").exists()
