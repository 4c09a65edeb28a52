"""Images of any number of channels, of 16 bits and of floats, from files and arrays to answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.workflow import image_inputs
from cvjax.workflow.restore import load_run
from tests.data.pictures import encode
from tests.data.test_stored import pages
from tests.experiments.tiny_vit import NAME, write_weights

SIZE = 16
SMALL = ("--model", NAME, "--model-fields", "patch_size=8", "width=16", "depth=1", "heads=2", "--batch-size", 8,
         "--schedule", "constant", "--crop-scale", 1, 1)


def numbers(channels: int, dtype: type = np.uint16, count: int = 24) -> np.ndarray:
    """Two classes, the second brighter in its last channel."""
    images = np.random.default_rng(channels).integers(0, np.iinfo(dtype).max // 3, (count, SIZE, SIZE, channels), dtype)
    images[1::2, :, :, -1] += np.iinfo(dtype).max // 2
    return images


def arrays(path: Path, images: np.ndarray, **more: Any) -> str:
    labels = np.arange(len(images)) % 2
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:8], test_labels=labels[:8], **more)
    return f"npz:{path}"


def folder(root: Path, images: np.ndarray) -> str:
    for i, image in enumerate(images):
        for part in ("train", "test")[:1 + (i < 8)]:
            place = root / part / "ab"[i % 2] / f"{i:02}.tif"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(pages(image))
    return f"folder:{root}"


@pytest.mark.slow
def test_pages_of_tiffs_are_learnt_judged_and_classified(command: Callable[..., Any], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbers(7)
    data = ("--data", folder(tmp_path / "pages", images), "--channels", 7)
    train = ("supervised", *data, *SMALL, "--image-size", SIZE, "--run-dir", tmp_path / "run", "--optimizer", "adamw",
             "--base-learning-rate", 0.1, "--steps", 40)
    done = command(*train)
    assert done.status == 0, done.err
    seen = images / 65535
    how = load_run(tmp_path / "run").preprocessing
    np.testing.assert_allclose(how.mean, seen.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(how.std, seen.std((0, 1, 2)), rtol=1e-6)
    assert done.out.startswith(f"images: {how}; mean and deviation measured on 24 training pictures")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]["test/top1"] == 1
    assert {"explanations.png", "mistakes.png"} <= {file.name for file in (tmp_path / "run" / "figures").iterdir()}
    assert "test/top1: 100.00 %" in command("evaluate", "--checkpoint", tmp_path / "run", *data, "--batch-size", 8,
                                       "--run-dir", tmp_path / "judged").out
    refused = command("evaluate", "--checkpoint", tmp_path / "run", *data[:2], "--batch-size", 8, "--run-dir",
                      tmp_path / "other").complaint
    assert "cannot be read" in refused or "--channels 7" in refused
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    answers = command("predict", tmp_path / "pages" / "test" / "b" / "01.tif", photo, "--checkpoint", tmp_path / "run")
    assert "01.tif: b " in answers.out and "stores 3 channels, not 7" in answers.out
    # A run that goes on takes what its checkpoints say and measures nothing.
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setattr(image_inputs, "channel_statistics", None)
    done = command(*train)
    assert done.status == 0 and f"images: {how}, as in the run's checkpoints" in done.out
    assert load_run(tmp_path / "run").preprocessing == how


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_are_learnt_with_what_works_on_any_channels(command: Callable[..., Any], tmp_path: Path, channels: int
                                                           ) -> None:
    images = numbers(channels, np.uint8)
    data = arrays(tmp_path / "x.npz", images * np.float32(2) - 100, range=np.array([-100, 410]))
    done = command("supervised", "--data", data, *SMALL[:-3], "--run-dir", tmp_path / "run", "--steps", 40,
                   "--optimizer", "adamw", "--base-learning-rate", 0.1, "--crop-scale", 0.5, 1, "--mixup", 0.2,
                   "--cutout", 2, "--erasing", 0.2, "--noise", 1, "--shift", 1, "--resident")
    assert done.status == 0, done.err
    np.testing.assert_allclose(load_run(tmp_path / "run").preprocessing.mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]["test/top1"] == 1


@pytest.mark.slow
def test_an_mae_of_four_channels_and_views_without_colours(command: Callable[..., Any], tmp_path: Path) -> None:
    data = ("--data", arrays(tmp_path / "x.npz", numbers(4)), "--batch-size", 8)
    mae = command("mae_pretrain", *data, "--run-dir", tmp_path / "mae", "--steps", 60, "--patch-size", 4,
                  "--log-every", 5)
    assert mae.status == 0, mae.err
    lines = map(json.loads, (tmp_path / "mae" / "metrics.jsonl").read_text().splitlines())
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.95 * losses[0]
    assert (tmp_path / "mae" / "figures" / "reconstruction.png").is_file()
    refused = command("dino_pretrain", *data, "--run-dir", tmp_path / "dino", "--steps", 2)
    assert "images of 4 channels have no colours" in refused.complaint and "--color-jitter 0" in refused.complaint
    dino = command("dino_pretrain", *data, "--run-dir", tmp_path / "dino", "--steps", 2, "--overwrite", "--grayscale",
                   0, "--color-jitter", 0, 0, 0, 0)
    assert dino.status == 0, dino.err
    assert {"views.png", "neighbours.png"} <= {file.name for file in (tmp_path / "dino" / "figures").iterdir()}


@pytest.mark.parametrize("options, words", [
    (("--policy", "rand_augment"), "--policy rand_augment: images of 7 channels have no colours that it could change"),
    (("--color-jitter", 0.1, 0, 0, 0), "give --color-jitter 0.0 0.0 0.0 0.0"),
    (("--grayscale", 0.1), "give --grayscale 0.0"), (("--exposure-jitter", 1.5, 1), "give --exposure-jitter 1.0 1.0"),
    (("--channels", 3), "are arrays of 7; leave it out"), (("--channels", 0), "--channels 0: it must be at least 1"),
    (("--mean", 0.5, 0.5, "--std", 1, 1), "statistics of 2 channels for images of 7")])
def test_what_seven_channels_cannot_have_is_one_line(command: Callable[..., Any], tmp_path: Path, options: tuple,
                                                     words: str) -> None:
    data = arrays(tmp_path / "x.npz", numbers(7))
    assert words in command("supervised", "--data", data, *SMALL, "--dry-run", *options).complaint


def test_options_come_before_what_is_measured(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command("supervised", "--data", arrays(tmp_path / "x.npz", numbers(2)), *SMALL, "--dry-run", "--mean", 0.25,
                   "--std", 0.5)
    assert done.status == 0, done.err
    how = Preprocessing((0.25,), (0.5,))
    assert f"images: {how}, by --mean, --std" in done.out and "measured" not in done.out


@pytest.mark.parametrize("experiment", ["segment", "detect"])
def test_pictures_with_annotations_are_photos(command: Callable[..., Any], experiment: str) -> None:
    arguments = ("--data", "scenes:8,4,32", "--channels", 4, "--batch-size", 2, "--dry-run")
    complaint = command(experiment, *arguments).complaint
    assert "--channels 4" in complaint and "are photos; leave it out" in complaint


def test_weights_for_colours_are_adapted_and_the_data_measured(command: Callable[..., Any], tmp_path: Path) -> None:
    _, _, _, weights, _, *fields = write_weights(tmp_path / "vit.safetensors")
    data = arrays(tmp_path / "x.npz", np.zeros((24, 32, 32, 5), np.uint8))
    done = command("supervised", "--data", data, "--model", NAME, "--model-fields", *fields[:-1], "--pretrained",
                   weights, "--dry-run", "--batch-size", 8)
    assert done.status == 0, done.err
    assert "mean 0 0 0 0 0, deviation 1 1 1 1 1" in done.out and "measured on 24 training pictures" in done.out
