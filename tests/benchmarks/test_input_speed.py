"""Reading and decoding are timed, and Pillow's crops are made from the same boxes as ours."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.input_speed import stages
from cvjax.data.crops import RandomResizedCrop
from tests.data.pictures import encode, photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for i in range(10):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        (root / "ab"[i % 2] / f"{i}.jpg").write_bytes(encode(photo(40, 50, i), "JPEG"))
    return root


def test_every_stage_is_measured_printed_and_written(folder, tmp_path, command, benchmark):
    pack = tmp_path / "pack"
    assert command("pack", f"folder:{folder}", "--output", pack, "--image-size", 30).status == 0
    output = tmp_path / "speed.json"
    done = benchmark("input_speed", f"packed:{pack}", "--image-size", 16, "--images", 6, "--repeats", 2, "--batches", 2,
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
    (("npz:x",), "cannot measure 'npz:x': it must be folder:PATH, tar:PATH or packed:DIR"),
    (("packed:/missing",), "no pack in /missing"),
    (("folder:x", "--batches", 0), "--batches 0: it must be at least 1"),
    (("folder:x", "--output", "/missing/file"), "--output /missing/file: it must be a file in a folder"),
])
def test_mistakes(arguments, message, benchmark):
    assert message in benchmark("input_speed", *arguments).complaint


def test_pillows_way_takes_the_same_box():
    """Both crops of a picture without detail show the same, turned by EXIF or not."""
    picture = np.stack(np.meshgrid(np.linspace(0, 255, 90), np.linspace(255, 0, 70)), -1).round().astype(np.uint8)
    picture = np.concatenate([picture, np.full((70, 90, 1), 50, np.uint8)], axis=2)
    crop = RandomResizedCrop(24)
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(picture, "JPEG", quality=95, exif=exif)
        for seed in range(4):
            theirs = stages.pillow_crop(data, crop, seed)
            assert np.abs(crop(data, np.random.default_rng(seed)).astype(int) - theirs).max() <= 4
