"""The commands that pack images and that measure how fast they come."""

import json

import numpy as np
import pytest
from PIL import Image

from cvjax.data import RandomResizedCrop
from cvjax.experiment import input_speed
from tests.data.pictures import encode, photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for i in range(10):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        (root / "ab"[i % 2] / f"{i}.jpg").write_bytes(encode(photo(40, 50, i), "JPEG"))
    return root


def test_pack_and_measure(folder, tmp_path, command):
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "a" / "notes.txt").write_text("notes")
    pack = tmp_path / "pack"
    arguments = ("pack", f"folder:{folder}", "--output", pack, "--image-size", 30)
    assert "1 of 11 files cannot be read" in command(*arguments).complaint
    done = command(*arguments, "--data-max-bad", 0.1)
    assert done.status == 0, done.err
    assert "train: 10 images, " in done.out and "1 .txt files" in done.out and f"--data packed:{pack}" in done.out
    assert f"1 unreadable files are named in {pack / 'bad_files.txt'}" in done.out
    assert "is there already" in command(*arguments).complaint

    output = tmp_path / "speed.json"
    done = command("input_speed", f"packed:{pack}", "--image-size", 16, "--images", 6, "--repeats", 2, "--batches", 2,
                   "--batch-size", 4, "--output", output)
    assert done.status == 0, done.err
    said = json.loads(output.read_text())
    assert said["images"] == 6 and set(said["read"]) == {"in order", "shuffled"}
    assert set(said["one_core"]["milliseconds"]) == {
        f"{what}{way}" for what in ("decode", "crop, bilinear", "crop, bicubic") for way in ("", ", Pillow")}
    assert all(0 < gap < 3 for gap in said["one_core"]["difference"].values())
    assert said["pipeline"]["images_per_second"] > 0
    assert (said["copy"]["gb_per_second"] is None) == said["copy"]["device"].startswith("cpu")
    assert {"simplejpeg", "opencv-contrib-python-headless", "jax"} <= set(said["machine"]["versions"])
    assert said["machine"]["cores"] >= 1
    for words in ("read in order", "decode, one core", "beside Pillow", "pipeline, threads", "copy to device"):
        assert words in done.out


@pytest.mark.parametrize("arguments, message", [
    (("pack", "digits", "--output", "x"), "cannot pack 'digits': it must be folder:PATH"),
    (("pack", "folder:x", "--output", "y", "--quality", 99), "--quality 99: it must be in [1, 95]"),
    (("pack", "folder:x", "--output", "y", "--image-size", 0), "--image-size 0: it must be at least 1"),
    (("pack", "folder:x", "--output", "y", "--shard-mb", 0), "--shard-mb 0: it must be at least 1"),
    (("pack", "folder:/missing", "--output", "y"), "no such folder: /missing"),
    (("input_speed", "npz:x"), "cannot measure 'npz:x': it must be folder:PATH, tar:PATH or packed:DIR"),
    (("input_speed", "packed:/missing"), "no pack in /missing"),
    (("input_speed", "folder:x", "--batches", 0), "--batches 0: it must be at least 1"),
    (("input_speed", "folder:x", "--output", "/missing/file"), "--output /missing/file: it must be a file in a folder"),
])
def test_mistakes(arguments, message, command):
    assert message in command(*arguments).complaint


def test_pillows_way_takes_the_same_box():
    """Of a picture without detail, both crops show the same, turned by EXIF or not."""
    picture = np.stack(np.meshgrid(np.linspace(0, 255, 90), np.linspace(255, 0, 70)), -1).round().astype(np.uint8)
    picture = np.concatenate([picture, np.full((70, 90, 1), 50, np.uint8)], axis=2)
    crop = RandomResizedCrop(24)
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(picture, "JPEG", quality=95, exif=exif)
        for seed in range(4):
            theirs = input_speed.pillow_crop(data, crop, seed)
            assert np.abs(crop(data, np.random.default_rng(seed)).astype(int) - theirs).max() <= 4
