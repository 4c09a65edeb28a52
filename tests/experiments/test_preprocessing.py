"""Images are seen as the weights learnt to see them: from a published file to a run, and from a run to the next."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from cvjax.data.crops import EvaluationCrop
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.interop import save_weights
from cvjax.workflow.classification.model import Classifier, load_classifier
from cvjax.workflow.frozen.encoder import load_encoder
from cvjax.workflow.prediction.predictor import ClassifierNetwork
from cvjax.workflow.preprocessing import open_pretrained
from cvjax.workflow.restore import load_run
from experiments.predict import Config
from experiments.wiring.predict import open_network
from tests.data.pictures import encode
from tests.experiments.tiny_vit import FIELDS, NAME, SIZE, tiny_vit
from tests.interop.transformers_names import STORED, VIT

HALVES = Preprocessing((0.5,) * 3, (0.5,) * 3, 0.9)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    (tmp_path / "photo.png").write_bytes(encode(pixels))
    return tmp_path / "photo.png"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A ViT of three classes, with timm's config.json beside it."""
    model, variables = tiny_vit(num_classes=3)
    path = tmp_path / "published" / "model.safetensors"
    path.parent.mkdir()
    save_weights(variables, model, path, preprocessing=HALVES, class_names=("a", "b", "c"))
    config = json.loads((path.parent / "config.json").read_text())
    (path.parent / "config.json").write_text(json.dumps(config | {"architecture": NAME}))
    return path


def classifier_asked(photo: Path, weights: Path, **options: Any) -> Classifier:
    network, _ = open_network(asked(photo, weights, **options))
    assert isinstance(network, ClassifierNetwork)
    return network.classifiers[0]


def asked(photo: Path, weights: Path, **options: Any) -> Config:
    return Config((str(photo),), model=NAME, weights=str(weights), model_fields=FIELDS, **options)


def test_a_published_classifier_is_fed_what_its_config_says(photo: Path, weights: Path) -> None:
    classifier = classifier_asked(photo, weights)
    assert classifier.preprocessing == HALVES and classifier.goal.names == ("a", "b", "c")
    seen = EvaluationCrop(SIZE, 3, HALVES)(photo.read_bytes())
    assert EvaluationCrop(SIZE, 3, HALVES).resized.resize == 35  # 32 / 0.9, rounded down as timm does
    model, variables = tiny_vit(num_classes=3)
    expected = model.apply(variables, (np.float32(seen[None]) / 255 - 0.5) / 0.5, train=False)
    np.testing.assert_allclose(classifier.logits(variables, seen[None]), expected, rtol=1e-6, atol=1e-6)


def test_options_come_before_what_is_published(photo: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    classifier = classifier_asked(photo, weights, crop=1.0, mean=(0.1, 0.2, 0.3))
    assert classifier.preprocessing == Preprocessing((0.1, 0.2, 0.3), (0.5,) * 3, 1.0)
    said = capsys.readouterr().out
    assert "images: mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5, crop 0.9, bicubic; config.json of " in said
    assert "images: mean 0.1 0.2 0.3, deviation 0.5 0.5 0.5, crop 1, bicubic, by --mean, --crop" in said


@pytest.mark.parametrize("arguments, message", [
    ("--mean 0.5 0.5", "2 means and 3 deviations"), ("--mean 1 --std 1 --crop 2", "crop 2.0: it must be in (0, 1]"),
    ("--model resnet50", "says that the weights are of vit_tiny_patch16_224, not of resnet50"),
    ("--image-size 0", "--image-size 0: it must be at least 1")])
def test_a_mistake_is_one_line(command: Callable[..., Any], photo: Path, weights: Path, arguments: str,
                               message: str) -> None:
    done = command("predict", photo, "--model", NAME, "--weights", weights, "--model-fields", *FIELDS,
                   *arguments.split())
    assert message in done.complaint


def test_no_answer_without_a_head_of_its_classes(command: Callable[..., Any], photo: Path, weights: Path) -> None:
    arguments = ("predict", photo, "--model", NAME, "--weights", weights, "--model-fields", *FIELDS)
    config = json.loads((weights.parent / "config.json").read_text())
    (weights.parent / "config.json").unlink()
    complaint = command(*arguments).complaint  # the model's own 1,000 classes
    assert "head.weight is (3, 16), not (1000, 16)" in complaint and "--model-fields num_classes=N" in complaint
    assert "class 2 " in command(*arguments, "num_classes=3").out
    model, variables = tiny_vit()
    save_weights(variables, model, weights)
    assert "no head.weight" in command(*arguments).complaint and "experiments.knn" in command(*arguments).complaint
    del config["architecture"]
    (weights.parent / "config.json").write_text(json.dumps(config))
    assert "no head.weight" in command(*arguments).complaint


@pytest.mark.slow
def test_a_run_goes_on_with_the_statistics_of_its_start(command: Callable[..., Any], photo: Path, weights: Path,
                                                        tmp_path: Path) -> None:
    """supervised takes them from config.json; predict, a further training and an encoder take them from the run."""
    images = np.random.default_rng(1).integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    np.savez(tmp_path / "images.npz", train_images=images, train_labels=np.arange(16) % 2, test_images=images[:4],
             test_labels=np.arange(4) % 2)
    train = ("supervised", "--data", f"npz:{tmp_path / 'images.npz'}", "--batch-size", 8, "--steps", 1, "--model", NAME,
             "--model-fields", *FIELDS[:-1], "--base-learning-rate", 0, "--schedule", "constant")
    done = command(*train, "--pretrained", weights, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    assert load_run(tmp_path / "run").preprocessing == HALVES
    classifier, encoder = load_classifier(tmp_path / "run"), load_encoder(tmp_path / "run")
    assert classifier.preprocessing == encoder.preprocessing == HALVES
    model = load_run(tmp_path / "run").model
    expected = jax.nn.softmax(model.apply(classifier.variables, np.float32(images[:4]) / 127.5 - 1, train=False))
    np.testing.assert_allclose(jax.nn.softmax(classifier.logits(classifier.variables, images[:4])), expected, atol=1e-6)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["protocol"]["images"]["mean"] == [0.5] * 3
    done = command(*train, "--pretrained", tmp_path / "run", "--run-dir", tmp_path / "next", "--std", 1, 1, 1)
    assert done.status == 0, done.err
    assert load_run(tmp_path / "next").preprocessing == Preprocessing((0.5,) * 3, (1.0,) * 3, 0.9)


def test_a_folder_of_transformers_is_fed_what_its_processor_says(photo: Path, tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    """By `--weights`, which takes the configuration's activation, too, and by `--pretrained`, which asks for it."""
    stored, folder = STORED["networks"]["vit"], tmp_path / "repository"
    folder.mkdir()
    random = np.random.default_rng(0)
    safetensors.numpy.save_file({name: np.asarray(random.standard_normal(shape), np.float32)
                                 for name, shape in stored["shapes"].items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(stored["config"] | {"hidden_act": "gelu_new"}))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2,
        "image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    name, fields = "vit_tiny_patch16_224", tuple(f"{field}={value}" for field, value in VIT.items())
    network, (origin,) = open_network(Config((str(photo),), model=name, weights=str(folder), model_fields=fields))
    assert isinstance(network, ClassifierNetwork)
    (classifier,) = network.classifiers
    how = Preprocessing((0.5,) * 3, (0.25,) * 3, 1.0, "squash", "bilinear")
    assert classifier.preprocessing == how and classifier.goal.names == ("a", "b", "c")
    assert (classifier.model.activation, classifier.image_size) == ("gelu_tanh", 8)
    assert origin.is_same(origin.now()) and "licence: mit" in capsys.readouterr().out
    start = open_pretrained(str(folder), lambda: name, VIT | {"activation": "gelu_tanh"})
    assert start.preprocessing == how and start.trained == (8, 8) and start.position_resize == "deit"
    with pytest.raises(ConfigError, match=r"are not of vit_tiny_patch16_224: activation gelu_tanh \(not gelu\)$"):
        open_pretrained(str(folder), lambda: name, VIT)
