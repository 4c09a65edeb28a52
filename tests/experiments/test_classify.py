"""Labels for pictures, by classifiers whose answers can be worked out."""

import jax
import numpy as np
import pytest

from cvjax.interop import save_weights
from cvjax.models import create_model
from tests.data.pictures import encode
from tests.experiments.written_runs import light, write_run


def picture(path, grey, size=(20, 30)):
    path.write_bytes(encode(np.full((*size, 3), grey, np.uint8)))
    return path


def test_answers_are_the_models_probabilities_likeliest_first(command, tmp_path):
    run = write_run(tmp_path / "run", 2.0)
    white, dim = picture(tmp_path / "white.png", 255), picture(tmp_path / "dim.png", 100, (9, 8))
    done = command("classify", white, dim, "--checkpoint", run)
    assert done.status == 0, done.err
    p, q = light(2, 255), light(2, 100)
    assert f"{white}: light {100 * p:.1f} %, dark {100 - 100 * p:.1f} %" in done.out.splitlines()
    assert f"{dim}: dark {100 - 100 * q:.1f} %, light {100 * q:.1f} %" in done.out.splitlines()
    assert f"{white}: light {100 * p:.1f} %\n" in command("classify", white, "--checkpoint", run, "--top", 1).out


def test_several_checkpoints_are_averaged(command, tmp_path):
    runs = write_run(tmp_path / "a", 2.0), write_run(tmp_path / "b", 0.5)
    done = command("classify", picture(tmp_path / "white.png", 255), "--checkpoint", *runs)
    assert f"light {50 * (light(2, 255) + light(0.5, 255)):.1f} %" in done.out


def test_unreadable_pictures_are_named_and_others_answered(command, tmp_path):
    run, broken = write_run(tmp_path / "run"), tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    done = command("classify", broken, picture(tmp_path / "white.png", 255), tmp_path / "gone.png", tmp_path,
                   "--checkpoint", run)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{broken}: ") and lines[1] == f"{tmp_path}/gone.png: No such file or directory"
    assert lines[2] == f"{tmp_path}: is a folder, not a file" and "light" in lines[3]
    assert lines[4] == "3 of 4 images could not be read"
    done = command("classify", "https://example.org/a.png", picture(tmp_path / "white.png", 255), "--checkpoint", run)
    assert "is an address: download it first" in done.out.splitlines()[0]
    assert "none of the 1 images can be read" in command("classify", broken, "--checkpoint", run).complaint


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
    arguments = ("classify", white, "--model", "resnet20", "--weights", weights, "--top", 1)
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
    done = command("classify", *(places.get(word, word) for word in arguments.split()))
    assert message in done.complaint
