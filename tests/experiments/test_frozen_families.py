"""Every command that judges frozen features, on every kind of encoder: it answers, or refuses in one line by name."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.workflow.classification.model import parse_fields
from cvjax.workflow.frozen.encoder import published_encoder
from tests.experiments.tiny_vit import plain_picture, write_picture
from tests.models.drawn import balanced_like

VIT = ("vit_tiny_patch16_224", "patch_size=8", "width=16", "depth=1", "heads=2")
# name -> the model and its fields
ENCODERS: dict[str, tuple[str, ...]] = {
    "vit": VIT, "registers": (*VIT, "registers=2"), "mean with class token": (*VIT, "pool=avg"),
    "distilled": (*VIT, "distilled=True"), "without class token": (*VIT, "class_token=False", "pool=avg"),
    "attention pooling": (*VIT, "class_token=False", "pool=map"),
    "swin": ("swin_tiny_patch4_window7_224", "width=8", "depths=(1,1)", "heads=(1,2)", "window=4"),
    "convnext": ("convnext_tiny", "widths=(8,16)", "depths=(1,1)"), "resnet": ("resnet18", "width=8", "depths=(1,1)"),
}
CLASS_TOKEN = ("vit", "registers", "mean with class token", "distilled")
TOKENS = (*CLASS_TOKEN, "without class token", "attention pooling")
# command -> the encoders that it takes
COMMANDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("knn", "linear_probe", "few_shot", "retrieval", "embed"), tuple(ENCODERS)),
    "attention": CLASS_TOKEN, "copy_detection": CLASS_TOKEN, "propagate": TOKENS}


def model_of(kind: str) -> Any:
    name, *words = ENCODERS[kind]
    return create_model(name, image_size=32, num_classes=0, **parse_fields(words))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A weight file for each kind of encoder, pictures, and a data set of two classes."""
    folder, numbers = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for kind in ENCODERS:
        model = model_of(kind)
        variables = balanced_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
        save_weights(variables, model, folder / f"{kind}.safetensors", layout="timm")
    arrays: dict[str, Any] = {}
    for part, count in (("train", 12), ("test", 8)):
        labels = np.arange(count) % 2
        arrays |= {f"{part}_labels": labels, f"{part}_images": np.uint8(
            numbers.integers(0, 100, (count, 32, 32, 3)) + 100 * labels[:, None, None, None])}
    np.savez(folder / "data.npz", **arrays)
    for i in range(2):
        plain_picture(folder / "pictures" / f"{i}.png", (40 * i, 90, 200))
    write_picture(folder / "mask.png", np.repeat([[0, 1]], 32, 0).repeat(16, 1))
    return folder


def arguments(command: str, kind: str, files: Path, folder: Path) -> list[Any]:
    name, *fields = ENCODERS[kind]
    network = ["--model", name, "--weights", files / f"{kind}.safetensors", "--model-fields", *fields]
    pictures = {"attention": [files / "pictures"],
                "copy_detection": ["--originals", files / "pictures", "--copies", files / "pictures"],
                "propagate": [files / "pictures", "--mask", files / "mask.png", "--side-multiple", 8]}
    if command in pictures:
        return [*pictures[command], *network, "image_size=32", "--image-size", 32, "--output", folder]
    shots = ["--shots", 2, "--draws", 2] if command == "few_shot" else []
    return [*network, "--image-size", 32, "--data", f"npz:{files}/data.npz", "--batch-size", 4, "--run-dir", folder,
            *shots]


@pytest.mark.parametrize("kind", [kind if kind in ("registers", "attention pooling") else
                                  pytest.param(kind, marks=pytest.mark.slow) for kind in ENCODERS])
def test_features_are_those_of_the_network(kind, files):
    """With nothing asked for, what kNN sees is what the network itself gives: the token, the mean or the pooling."""
    name, *fields = ENCODERS[kind]
    encoder = published_encoder(name, str(files / f"{kind}.safetensors"), fields=tuple(fields), image_size=32, blocks=1)
    images = np.random.default_rng(1).standard_normal((2, 32, 32, 3)).astype(np.float32)
    features, own = jax.jit(lambda v: (encoder.apply(v, images), encoder.model.apply(v, images)))(encoder.variables)
    assert features.shape == (2, 16) and np.isfinite(features).all() and np.ptp(features, axis=0).max() > 1e-3
    if kind not in ("distilled", "mean with class token"):  # one token of two; the class token in place of the mean
        np.testing.assert_allclose(features, own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("command_name", COMMANDS)
def test_what_is_not_taken_is_refused_by_name(command_name, command, files, tmp_path):
    """Those that take all of them have nothing to refuse, and say in a dry run what they would do."""
    taken = COMMANDS[command_name]
    for kind in ENCODERS:
        given = arguments(command_name, kind, files, tmp_path / "out")
        if kind not in taken:
            complaint = command(command_name, *given).complaint
            assert f"--model {ENCODERS[kind][0]} is a {type(model_of(kind)).__name__}" in complaint
            assert "it must be a ViT, with" in complaint
        elif len(taken) == len(ENCODERS):
            done = command(command_name, *given, "--dry-run")
            assert done.status == 0 and "12 training images" in done.out, done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command_name, kind", [
    ("knn", "attention pooling"), ("linear_probe", "without class token"), ("few_shot", "convnext"),
    ("retrieval", "swin"), *(("embed", kind) for kind in ("registers", "resnet")),
    *((name, kind) for name in ("attention", "copy_detection", "propagate") for kind in COMMANDS[name])])
def test_what_is_taken_is_judged(command_name, kind, command, files, tmp_path):
    done = command(command_name, *arguments(command_name, kind, files, tmp_path / "out"))
    assert done.status == 0, done.err
    assert any((tmp_path / "out").rglob("*"))
