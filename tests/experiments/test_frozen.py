"""Probes of a frozen encoder, of a run or of a published file: what they write down, and what they refuse."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.evaluate.copy_detection import copy_features
from cvjax.evaluate.protocol import protocol_of
from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.train.checkpoint import Checkpointer, restore_weights
from cvjax.train.state import TrainState
from cvjax.workflow.classification.model import parse_fields
from cvjax.workflow.config import DataConfig
from cvjax.workflow.frozen.copy_detection import describe
from cvjax.workflow.frozen.encoder import Encoder, frozen_encoder, load_vit, tokens_of
from cvjax.workflow.frozen.options import FrozenConfig, FrozenViTConfig
from cvjax.workflow.restore import record_of
from tests.models.drawn import random_like

FIELDS = ("patch_size=4", "width=16", "depth=2", "heads=2")
MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Dark and light noise, 30 of each to train with and 10 to test."""
    numbers, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 60), ("test", 20)):
        labels = np.arange(count) % 2
        arrays |= {f"{part}_labels": labels, f"{part}_images": np.uint8(
            numbers.integers(0, 100, (count, 8, 8, 1)) + 60 * labels[:, None, None, None])}
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def network():
    """A small ViT without a head, drawn at random."""
    model = create_model("vit_tiny_patch16_224", image_size=8, in_channels=1, num_classes=0, patch_size=4, width=16,
                         depth=2, heads=2)
    return model, jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, network):
    """A supervised run of it, written without training."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    params = {**network[1]["params"], "head": {"kernel": jnp.zeros((16, 2)), "bias": jnp.zeros(2)}}
    state = TrainState(jnp.asarray(np.int32(1)), params, {}, (), None, jax.random.key(0))
    with Checkpointer(folder / "checkpoints", best_metric="top1") as checkpointer:
        checkpointer.save(state, record_of("supervised", DataConfig(), "classifier", network[0].clone(num_classes=2),
                                           image_size=(8, 8), channels=1, preprocessing=Preprocessing.of(1),
                                           class_names=("dark", "light"),
                                           validated=False), {"top1": 1.0})
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory, network):
    """The same network as a weight file, and the words that name it."""
    path = tmp_path_factory.mktemp("published") / "vit.safetensors"
    save_weights(network[1], network[0], path)
    return "--model", "vit_tiny_patch16_224", "--image-size", 8, "--weights", str(path), "--model-fields", *FIELDS, \
        "in_channels=1"


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def finished(done, folder):
    assert done.status == 0, done.err
    return summary_of(folder)


def test_maes_form_writes_what_it_did_and_leaves_the_network_as_it_was(command, tmp_path, pretrained, data, network):
    done = command("linear_probe", "--form", "mae", "--checkpoint", pretrained, "--data", data, "--run-dir",
                   tmp_path / "run", "--batch-size", 12, "--epochs", 25, "--learning-rates", 0.1, 300,
                   "--crop-scale", 0.5, 1, "--checkpoint-every", 40)
    found = finished(done, tmp_path / "run")
    assert {"linear_probe/supervised", "linear_probe/supervised/loss"} < set(found["metrics"])
    assert not [name for name in found["metrics"] if name.startswith("test/")]
    assert found["metrics"]["linear_probe/supervised"] >= 0.9  # chance: 0.5; by the rate 0.1 it is near that
    slow, fast = (found["metrics"][f"linear_probe/supervised/validation/loss/lr={rate}"] for rate in (0.1, 300))
    assert 0.6 < slow < 0.8 and fast < 0.5  # one hardly leaves ln 2 = 0.69
    assert found["steps"] == 25 * 48 // 12 and found["protocol"]["data"]["training_images"] == 48
    assert found["protocol"]["chosen"] == {"linear_probe": {"supervised": {"learning_rate": 300.0}}}
    said = protocol_of(found, "linear_probe/supervised")
    for key, value in {"form": "mae", "learning_rates": [0.1, 300.0], "epochs": 25, "batch_size": 12,
                       "warmup": 1 / 9, "augmentation/crop_scale": [0.5, 1.0], "augmentation/flip": True,
                       "selection": "12 training images held out, last step, no second fit"}.items():
        assert said[f"linear_probe/{key}"] == value
    assert "lars, momentum 0.9, weight decay 0" in said["linear_probe/optimizer"]
    assert (said["features/pool"], said["features/blocks"], said["images/size"]) == ("token", 1, 8)
    weights, meta = restore_weights(tmp_path / "run" / "checkpoints")
    frozen, given = (jax.tree.leaves_with_path(tree) for tree in (weights["model_state"]["frozen"], network[1]))
    assert [(path, x.tobytes()) for path, x in frozen] == [(path, np.asarray(x).tobytes()) for path, x in given]
    assert set(weights["model_state"]) == {"frozen", "batch_stats"}
    assert set(weights["params"]) == {"lr=0.1", "lr=300"} and meta["experiment"] == "linear_probe"


def test_dinos_form_sees_four_blocks_and_reports_its_one_rate(command, tmp_path, pretrained, data):
    done = command("linear_probe", "--form", "dino", "--checkpoint", pretrained, "--data", data, "--run-dir",
                   tmp_path / "run", "--batch-size", 20, "--epochs", 1, "--crop-scale", 1, 1, "--no-flip")
    found = finished(done, tmp_path / "run")
    assert "--form dino is published for the 1,281,167 images of ImageNet; on 60 its few steps" in done.out
    said = protocol_of(found, "linear_probe/supervised")
    assert (said["features/pool"], said["features/blocks"]) == ("token", 2)  # as many as there are
    assert said["linear_probe/learning_rates"] == [0.001] and said["linear_probe/warmup"] == 0
    assert said["linear_probe/selection"] == "none: one learning rate, last step"
    assert said["linear_probe/augmentation/crop_scale"] == [1, 1] and not said["linear_probe/augmentation/flip"]
    assert said["linear_probe/optimizer"].startswith("momentum, momentum 0.9, weight decay 0")
    assert said["data/training_images"] == 60 and set(found["metrics"]) == {
        "linear_probe/supervised", "linear_probe/supervised/loss"}
    assert set(restore_weights(tmp_path / "run" / "checkpoints")[0]["model_state"]) == {"frozen"}, "without batch norm"


def test_few_shots_say_their_protocol(command, tmp_path, pretrained, data):
    few = finished(command("few_shot", "--checkpoint", pretrained, "--data", data, "--batch-size", 20, "--shots", 2, 30,
                           "--draws", 3, "--run-dir", tmp_path / "few", "--probe-blocks", 2), tmp_path / "few")
    assert few["metrics"]["few_shot/pixels/shots=30"] == 1.0
    assert few["metrics"]["few_shot/pixels/shots=30/deviation"] == 0.0, "all there are, in each draw"
    said = protocol_of(few, "few_shot/supervised/shots=30")
    assert (said["few_shot/shots"], said["few_shot/draws"], said["features/blocks"]) == (30, 3, 2)
    assert len(protocol_of(few, "few_shot/supervised/shots=2")["few_shot/l2s"]) == 13
    assert few["protocol"]["encoders"] == {"supervised": {"checkpoint": str(pretrained), "step": "latest"}}
    assert len(few["protocol"]["chosen"]["few_shot"]["supervised/shots=2"]) == 3


def test_neighbours_by_a_published_file_say_their_protocol(command, tmp_path, published, data):
    knn = finished(command("knn", *published, "--data", data, "--batch-size", 20, "--run-dir", tmp_path / "knn"),
                   tmp_path / "knn")
    said = protocol_of(knn, "knn/published")
    assert (said["knn/k"], said["knn/temperature"], said["knn/similarity"]) == (10, 0.07, "cosine")
    assert knn["protocol"]["knn"]["ks"] == [10, 20] and protocol_of(knn, "knn/published/k=20")["knn/k"] == 20
    assert said["images/resize"] == "whole images of 8x8" and said["data/test_images"] == 20
    assert protocol_of(knn, "knn/pixels")["features/features"] == "raw pixels"
    assert knn["protocol"]["encoders"]["published"]["model"] == "vit_tiny_patch16_224"


def test_a_published_file_gives_the_encoder_that_a_run_of_the_same_weights_gives(pretrained, published):
    of_run, _ = frozen_encoder(FrozenConfig(checkpoint=pretrained, probe_blocks=4))
    words = dict(zip(("model", "image_size", "weights"), published[1:6:2], strict=True))
    of_file, source = frozen_encoder(FrozenConfig(**words, model_fields=published[7:]))
    jax.tree.map(np.testing.assert_array_equal, of_run.variables, of_file.variables)
    assert (of_file.pool, of_file.blocks, of_file.image_size, of_file.channels) == ("token", 4, 8, 1)
    assert of_file.protocol() == of_run.protocol() and source["weights"] == words["weights"]


def test_all_patch_tokens_side_by_side(pretrained):
    """Block by block, each in the patches' order; kNN sees the last block's."""
    encoder, _ = frozen_encoder(FrozenConfig(checkpoint=pretrained, probe_blocks=2, pool="patches"))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    features = np.asarray(encoder.apply(encoder.variables, images))
    blocks = encoder.model.apply(encoder.variables, images, method="block_tokens")
    np.testing.assert_array_equal(features, np.concatenate([
        np.asarray(tokens)[:, 1 + patch] for tokens in blocks[-2:] for patch in range(tokens.shape[1] - 1)], axis=1))
    assert encoder.knn_width == features.shape[1] // 2


WITHOUT_CLASS_TOKEN = (*FIELDS, "class_token=False", "pool=avg")


def test_without_a_class_token_patches_are_averaged(tmp_path):
    fields = WITHOUT_CLASS_TOKEN
    model = create_model(MODEL, **parse_fields(fields), image_size=8, in_channels=1, num_classes=0)
    variables = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 1)))
    save_weights(variables, model, tmp_path / "vit.safetensors")
    words = dict(model=MODEL, image_size=8, weights=str(tmp_path / "vit.safetensors"),
                 model_fields=(*fields, "in_channels=1"))
    encoder, _ = frozen_encoder(FrozenConfig(**words, probe_blocks=1))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    assert encoder.pool == "avg"
    np.testing.assert_allclose(encoder.apply(encoder.variables, images), model.apply(variables, images), atol=1e-6)
    with pytest.raises(ConfigError, match="--pool token: it must be avg or patches, because the encoder has no class"):
        frozen_encoder(FrozenConfig(**words, pool="token"))
    with pytest.raises(ConfigError, match="a VisionTransformer without a class token: it must be a ViT, with a class"):
        load_vit(FrozenViTConfig(model=words["model"], weights=words["weights"], model_fields=words["model_fields"]))


def small_encoder(features, **fields):
    model = create_model(MODEL, **parse_fields(FIELDS), image_size=8, num_classes=0, **fields)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    return Encoder("published", model, variables, features, 2, 8, 3, Preprocessing())


def test_registers_are_neither_class_tokens_nor_patches(tmp_path):
    encoder = small_encoder("token+avg", registers=2)
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    features, (first, last) = jax.tree.map(np.asarray, jax.jit(lambda variables: (
        encoder.apply(variables, images), encoder.model.apply(variables, images, method="block_tokens")))(
            encoder.variables))
    np.testing.assert_allclose(features, np.concatenate(
        [last[:, 3:].mean(axis=1), first[:, 0], last[:, 0]], axis=1), atol=1e-5)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "black.png")
    tokens = tokens_of(encoder)(encoder.variables, jnp.zeros((1, 8, 8, 3), jnp.uint8))
    np.testing.assert_allclose(describe(encoder, [tmp_path / "black.png"], 8, 1, "all"),
                               jax.jit(copy_features)(tokens[:, 0], tokens[:, 3:]), atol=1e-5)


def test_features_of_attention_pooling_are_the_last_blocks():
    encoder = small_encoder("map", class_token=False, pool="map")
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    features, pooled = jax.jit(lambda variables: (
        encoder.apply(variables, images), encoder.model.apply(variables, images)))(encoder.variables)
    np.testing.assert_allclose(features, pooled, atol=1e-5)
    assert features.shape == (2, encoder.knn_width) and encoder.protocol()["linear_probe_blocks"] == 1
    with pytest.raises(ConfigError, match="--pool map: it must be another, because the encoder has no attention pool"):
        small_encoder("map")


@pytest.mark.slow
def test_fine_tuning_starts_from_a_small_head_and_changes_images_as_supervised_training_does(
        command, tmp_path, data, pretrained):
    """Nothing moves at a rate of 0: the head has its first deviation, 2e-5 (estimated from 32 numbers)."""
    run = tmp_path / "run"
    done = command("finetune", "run", "--checkpoint", pretrained, "--data", data, "--run-dir", run, "--steps", 1,
                   "--batch-size", 20, "--base-learning-rate", 0, "--cutmix", 1, "--policy", "rand_augment",
                   "--policy-table", "timm", "--erasing", 0.25, "--aug-repeats", 2)
    assert done.status == 0, done.err
    after, _ = restore_weights(run / "checkpoints", "latest")
    assert 1e-5 < after["params"]["head"]["kernel"].std() < 3e-5


@pytest.mark.slow
def test_a_network_without_a_class_token_is_trained_explained_and_fine_tuned(command, tmp_path, data):
    run, tuned, model = tmp_path / "run", tmp_path / "tuned", ("--model", MODEL)
    for experiment, more in (("supervised", (*model, "--model-fields", *WITHOUT_CLASS_TOKEN, "--run-dir", run)),
                             ("finetune", ("--checkpoint", run, "--run-dir", tuned))):
        done = command(experiment, "--data", data, *more, "--steps", 4, "--batch-size", 20, "--schedule",
                       "cosine")
        assert done.status == 0, done.err
    assert (run / "figures" / "explanations.png").is_file()
    after, _ = restore_weights(tuned / "checkpoints", "latest")
    assert after["params"]["pos_embed"].shape == (1, 4, 16) and "cls_token" not in after["params"]


def test_the_protocol_of_files_says_how_they_are_resized_and_cropped(tmp_path):
    from cvjax.data.bad_files import BadFiles
    from cvjax.data.sources import open_dataset
    from cvjax.workflow.frozen.probing import shared_protocol
    from cvjax.workflow.image_inputs import ImageInputs
    from tests.data.pictures import encode

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(encode(np.full((9, 12, 3), 80 * i, np.uint8)))
    dataset = open_dataset(f"folder:{tmp_path}", seed=0)
    said = shared_protocol(ImageInputs(dataset, 28, 2, BadFiles(6, 0.0, None), Preprocessing()))
    assert said["images"] == {"size": 28, "channels": 3, "interpolation": "bicubic", "crop": "central 28x28",
                              "resize": "short side to 32, images of 28x28 as they are",
                              "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert said["data"] == {"fingerprint": dataset.fingerprint, "classes": 2, "training_images": 4, "test_images": 2}


def test_what_a_form_sees_of_an_encoder_gives_way_to_what_is_asked_for(pretrained):
    from experiments.wiring.linear_probe import published_features

    class Large:
        is_vit, model = True, type("ViT", (), {"width": 768})

    assert published_features("dino", Large) == {"pool": "token+avg", "blocks": 1}
    assert published_features("mae", Large) == {"pool": "token", "blocks": 1}

    def own(encoder):
        return published_features("dino", encoder)

    assert (frozen_encoder(FrozenConfig(checkpoint=pretrained), own)[0].pool) == "token"
    asked, source = frozen_encoder(FrozenConfig(checkpoint=pretrained, pool="avg", probe_blocks=2, step="best"), own)
    assert (asked.pool, asked.blocks) == ("avg", 2) and source["step"] == "best"


def test_the_best_head_is_chosen_by_the_validation_part_and_ties_by_its_loss():
    from experiments.wiring.linear_probe import judge

    metrics = {"test/loss": 3.0, "validation/loss": 2.0}
    for head, validation, loss, test in (("a", 0.8, 0.5, 0.1), ("b", 0.8, 0.4, 0.2), ("c", 0.7, 0.1, 0.9)):
        metrics |= {f"validation/top1/{head}": validation, f"validation/loss/{head}": loss, f"test/top1/{head}": test,
                    f"test/loss/{head}": 10 * test}
    kept, best = judge(metrics, ["a", "b", "c"], "linear_probe/x")
    assert best == "b" and kept["linear_probe/x"] == 0.2 and kept["linear_probe/x/loss"] == 2.0
    assert {name for name in kept if "validation" not in name} == {"linear_probe/x", "linear_probe/x/loss"}
    assert kept["linear_probe/x/validation/top1/c"] == 0.7
    alone, _ = judge({"test/top1": 0.5, "test/top5": 0.9, "test/loss": 1.0}, ["a"], "linear_probe/x")
    assert alone == {"linear_probe/x": 0.5, "linear_probe/x/top5": 0.9, "linear_probe/x/loss": 1.0}


@pytest.mark.parametrize("experiment, arguments, message", [
    ("knn", "--weights f.pth --model vit_tiny_patch16_224 --checkpoint r",
     "--weights f.pth: it must be left out with --checkpoint"),
    ("knn", "--weights f.pth", "--model None: it must be given with --weights"),
    ("few_shot", "--model vit_tiny_patch16_224", "--model vit_tiny_patch16_224: it must be given with --weights"),
    ("knn", "--weights f.pth --model vit_tiny --step best", "--step best: it must be left out with --weights"),
    ("knn", "--image-size 32", "--image-size 32: it must be left out without --weights"),
    ("knn", "--model-fields width=3", "it must be left out without --weights"),
    ("knn", "--weights /missing.pth --model vit_tiny_patch16_224", "--weights /missing.pth: "),
    ("knn", "--weights f.pth --model vit_tini_patch16_224", "unknown model 'vit_tini_patch16_224'"),
    ("knn", "--probe-blocks 0", "--probe-blocks 0: it must be at least 1"),
    ("knn", "--probe-blocks 2", "--probe-blocks 2: it must be left out: neighbours are found by the last block"),
    ("few_shot", "--shots 0", "--shots (0,): it must be one or more numbers of at least 1"),
    ("few_shot", "--draws 1", "--draws 1: it must be at least 2"),
    ("linear_probe", "--epochs 0", "--epochs 0: it must be at least 1"),
    ("linear_probe", "--learning-rates 0.1 0", "--learning-rates (0.1, 0.0): it must be different numbers, each more"),
    ("linear_probe", "--learning-rates inf", "--learning-rates (inf,): it must be different"),
    ("linear_probe", "--learning-rates 1 1", "--learning-rates (1.0, 1.0): it must be different"),
    ("linear_probe", "--epochs 5", "--epochs 5: it must be left out with --form sweep"),
    ("linear_probe", "--no-flip", "--flip False: it must be left out with --form sweep"),
    ("linear_probe", "--workers 2", "--workers 2: it must be left out with --form sweep"),
    ("linear_probe", "--form mae --crop-scale 0 1", "--crop-scale (0.0, 1.0): it must be"),
    ("linear_probe", "--form dino --checkpoint-every 0", "--checkpoint-every 0: it must be at least 1"),
])
def test_an_impossible_combination_is_one_line(command, tmp_path, experiment, arguments, message):
    assert message in command(experiment, *arguments.split(), "--run-dir", tmp_path / "run", "--dry-run").complaint


def test_more_shots_than_images_are_refused_before_anything_is_computed(command, tmp_path, pretrained, data):
    done = command("few_shot", "--checkpoint", pretrained, "--data", data, "--shots", 1, 31, "--batch-size", 20,
                   "--run-dir", tmp_path / "run", "--dry-run")
    assert "--shots 31: it must be from 1 to 30, the number of training images of class '0'" in done.complaint


@pytest.mark.parametrize("form", ["mae", "dino"])
def test_a_dry_run_of_a_form_says_what_would_run(command, tmp_path, monkeypatch, pretrained, data, form):
    import experiments.wiring.linear_probe as module

    made, original = {}, module.make_inputs
    monkeypatch.setattr(module, "make_inputs", lambda *a, **options: made.update(options) or original(*a, **options))
    done = command("linear_probe", "--form", form, "--checkpoint", pretrained, "--data", data, "--batch-size", 20,
                   "--run-dir", tmp_path / "run", "--dry-run", "--crop-scale", 0.3, 0.9, "--no-flip")
    assert made["augmentation"].crop_scale == (0.3, 0.9) and made["augmentation"].flip is False
    assert done.status == 0 and "60 training" in done.out and f"form {form}" in done.out, done.err
    assert not (tmp_path / "run").exists()
