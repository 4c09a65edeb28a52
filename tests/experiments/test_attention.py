"""The attention of a class token, in a network whose attention is known: it is the same everywhere."""

import json
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.workflow.frozen.pictures import natural_order, read_label_map, read_picture, short_side, short_side_down
from tests.experiments.tiny_vit import PATCH, plain_picture, write_picture, write_vit_run, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "vit.safetensors")


def mask_of(rows: int, columns: int, patches: int) -> np.ndarray:
    """The first patches in row-major order, in pixels: of equal patches the first ones are taken."""
    grid = np.arange(rows * columns).reshape(rows, columns) < patches
    return grid.repeat(PATCH, 0).repeat(PATCH, 1)


def test_masks_are_judged_at_the_size_of_the_truth(command, tmp_path, weights):
    """Of 4x4 patches the first 10 are the fewest that hold 60 %; of 4x14, as the long side is longer, 34."""
    plain_picture(tmp_path / "in" / "small.png", (9, 200, 30))
    plain_picture(tmp_path / "in" / "wide.png", (9, 20, 230), (64, 224))  # shown to the network at half its size
    half = np.zeros((32, 32), int)
    half[:, :16], half[:4] = 1, 255  # the left half; 4 rows are not judged
    masks = tmp_path / "masks"
    write_picture(masks / "small.png", half)
    truth = mask_of(8, 28, 112) * 3  # the upper half
    truth[60:, 100:] = 7
    write_picture(masks / "wide.png", truth)
    done = command("attention", tmp_path / "in", *weights, "--masks", masks, "--output", tmp_path / "out")
    assert done.status == 0, done.err
    found = mask_of(4, 4, 10)[4:]
    left = (half == 1)[4:]
    small = (found & left).sum() / (found | left).sum()
    found = mask_of(4, 14, 34).repeat(2, 0).repeat(2, 1)
    wide = np.mean([(found & object_).sum() / (found | object_).sum() for object_ in (truth == 3, truth == 7)])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["pictures"] == {"small": pytest.approx(small), "wide": pytest.approx(wide)}
    assert summary["metrics"] == {"jaccard": pytest.approx((small + wide) / 2)}
    assert summary["protocol"]["mass"] == 0.6 and summary["protocol"]["image_size"] == 32
    assert summary["protocol"]["pictures"] == 2
    assert f"small.png  Jaccard {100 * small:.2f} %" in done.out
    assert f"mean over 2 pictures: Jaccard {50 * (small + wide):.2f} %" in done.out
    for name in ("small", "wide"):
        with Image.open(tmp_path / "out" / f"{name}.png") as panel:
            assert panel.width > 300


def test_a_larger_image_and_another_mass(command, tmp_path, weights):
    """8x8 patches at 64 pixels; the first 20 of them hold 30 % (19.2 patches)."""
    picture = plain_picture(tmp_path / "in" / "a.png", (9, 200, 30))
    write_picture(tmp_path / "masks" / "a.png", mask_of(4, 4, 4))
    done = command("attention", picture, *weights, "--masks", tmp_path / "masks", "--output", tmp_path / "out",
                   "--image-size", 64, "--mass", 0.3)
    assert done.status == 0, done.err
    assert "Jaccard 80.00 %" in done.out, done.out


def test_pictures_without_objects_are_left_out_of_the_mean(command, tmp_path, weights):
    for name in "ab":
        plain_picture(tmp_path / "in" / f"{name}.png", (9, 200, 30))
    write_picture(tmp_path / "masks" / "a.png", np.zeros((32, 32)))
    write_picture(tmp_path / "masks" / "b.png", mask_of(4, 4, 10))
    arguments = (tmp_path / "in", *weights, "--masks", tmp_path / "masks", "--output", tmp_path / "out")
    done = command("attention", *arguments)
    assert "a.png  no object" in done.out and "mean over 1 pictures: Jaccard 100.00 %" in done.out, done.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["pictures"] == {"a": None, "b": 1.0} and summary["metrics"]["jaccard"] == 1
    write_picture(tmp_path / "masks" / "b.png", np.full((32, 32), 255))
    assert "they have no object; objects count from 1" in command("attention", *arguments).complaint


def test_a_run_and_a_video_in_natural_order(command, tmp_path):
    run = write_vit_run(tmp_path / "run", plain=False)
    for number, red in ((1, 0), (2, 120), (10, 240)):
        plain_picture(tmp_path / "in" / f"frame{number}.png", (red, 0, 0))
    done = command("attention", tmp_path / "in", "--checkpoint", run, "--video", "--output", tmp_path / "out",
                   "--frames-per-second", 20)
    assert done.status == 0, done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["attention.gif"]
    with Image.open(tmp_path / "out" / "attention.gif") as gif:
        reds = []
        for number in range(gif.n_frames):
            gif.seek(number)
            assert gif.info["duration"] == 50
            reds.append(gif.convert("RGB").getpixel((60, 60))[0])
    assert np.allclose(reds, [0, 120, 240], atol=12)  # the palette of a frame
    plain_picture(tmp_path / "in" / "frame11.png", 0, (32, 48))
    done = command("attention", tmp_path / "in", "--checkpoint", run, "--video", "--output", tmp_path / "out")
    assert "frame11.png has 48x32 pixels, frame1.png 32x32: the frames of a video have one size" in done.complaint


def test_natural_order():
    names = ["frame10.png", "frame2.png", "frame1.png", "Frame3.png", "a.png", "2.png", "10.png", "x1y10", "x1y9",
             "007"]
    assert sorted(names, key=natural_order) == ["2.png", "007", "10.png", "a.png", "frame1.png", "frame2.png",
                                                "Frame3.png", "frame10.png", "x1y9", "x1y10"]


@pytest.mark.parametrize("fit, size, wanted", [
    (short_side(32, 8), (100, 100), (32, 32)), (short_side(32, 8), (100, 134), (32, 40)),  # 42.88
    (short_side(32, 8), (138, 100), (48, 32)),  # 44.16
    (short_side_down(480, 64), (480, 854), (480, 832)), (short_side_down(480, 64), (1080, 1920), (480, 832)),
    (short_side_down(480, 64), (854, 480), (832, 480)), (short_side_down(480, 64), (500, 500), (480, 448)),
])
def test_sizes(fit, size, wanted):
    assert fit(*size) == wanted


def test_label_maps_hold_the_numbers_of_their_file(tmp_path):
    labels = np.arange(12).reshape(3, 4) % 4
    palette = Image.fromarray(labels.astype(np.uint8))
    palette.putpalette([255, 0, 0, 0, 9, 0, 7, 7, 7, 1, 2, 3])
    palette.save(tmp_path / "palette.png")
    write_picture(tmp_path / "grey.png", labels)
    Image.fromarray(labels % 2 == 1).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "palette.png"), labels)
    np.testing.assert_array_equal(read_label_map(tmp_path / "grey.png", (3, 4)), labels)
    np.testing.assert_array_equal(read_label_map(tmp_path / "one.png"), labels % 2)
    # Two bits of grey, which Pillow reads but does not write: a PNG by hand.

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([0b00011011]) for _ in range(3))
    (tmp_path / "bits.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 2, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    np.testing.assert_array_equal(read_label_map(tmp_path / "bits.png"), labels)


def test_a_picture_is_read_whole_and_its_own_size_is_told(tmp_path):
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 20:] = 255
    path = write_picture(tmp_path / "a.png", image)
    picture, size = read_picture(path, 1, lambda height, width: (height, width // 2))
    assert size == (10, 30) and picture.shape == (10, 15, 1)
    assert (picture[:, :9] == 0).all() and (picture[:, 11:] == 255).all()


@pytest.mark.parametrize("arguments, message", [
    ("VIT", "no pictures given"), ("IN", "give --checkpoint, or --model with --weights"),
    ("IN --checkpoint run VIT", "give --checkpoint, or --model with --weights"),
    ("IN --model resnet20", "give --checkpoint, or --model with --weights"),
    ("IN --checkpoint run --model-fields depth=1", "it must be left out with --checkpoint"),
    ("IN VIT --step best", "--step best: it must be left out without --checkpoint"),
    ("IN --model vit_tiny_patch16_224 --weights gone.pth", "--weights gone.pth: "),
    ("IN --checkpoint gone", "gone: no checkpoints in it"),
    ("IN --model resnet20 --weights RESNET", "--model resnet20 is a ResNet: it must be a ViT, with a class token"),
    ("IN VIT --image-size 36", "--image-size 36: it must be a multiple of the patches' 8 pixels"),
    ("IN VIT --image-size 0", "--image-size 0: it must be a multiple"),
    ("IN VIT --mass 0", "--mass 0.0: it must be in (0, 1]"),
    ("IN VIT --frames-per-second 60", "--frames-per-second 60.0: it must be from 1 to 50"),
    ("EMPTY VIT", "no images (.jpg, .jpeg, .png, .webp, .tif, .tiff) in "),
    ("gone.png VIT", "gone.png: No such file or directory"),
    ("BROKEN VIT", "broken.png: not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
    ("IN IN VIT", "have the same name: their results would be the same file"),
    ("IN VIT --masks gone", "--masks gone: it must be a folder"),
    ("IN VIT --masks EMPTY", "a.png for "),
    ("IN VIT --masks IN", "a.png: a label map must have a palette or be grey, this PNG is RGB"),
    ("IN VIT --masks SMALL", "a.png has 4x3 pixels, its picture 32x32"),
    ("IN VIT --masks JPEG", "a.png: a label map must be a PNG"), ("IN VIT --masks CUT", "a.png: "),
    ("IN VIT --output IN", ", which is read"), ("IN VIT --output FILE", "it must be a folder, or not exist"),
    ("IN VIT --masks SMALL --output SMALL", ", which is read"),
])
def test_a_mistake_is_one_line(command, tmp_path, monkeypatch, weights, arguments, message):
    monkeypatch.chdir(tmp_path)
    plain_picture(tmp_path / "in" / "a.png", 90)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    write_picture(tmp_path / "small" / "a.png", np.ones((3, 4)))
    for name, content in (("jpeg", b"\xff\xd8\xff"), ("cut", (tmp_path / "small" / "a.png").read_bytes()[:50])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(content)
    places = {word.upper(): [tmp_path / word] for word in ("in", "empty", "file", "small", "jpeg", "cut")}
    places |= {"BROKEN": [tmp_path / "broken.png"], "VIT": weights}
    if "RESNET" in arguments:
        model = create_model("resnet20")
        variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
        save_weights(zeros, model, tmp_path / "resnet.safetensors")
        places["RESNET"] = [tmp_path / "resnet.safetensors"]
    words = [word for each in arguments.split() for word in places.get(each, [each])]
    out = () if "--output" in words else ("--output", tmp_path / "out")
    assert message in command("attention", *words, *out).complaint
