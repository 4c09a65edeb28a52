"""Models with published weights by their names. Nothing here needs a network."""

import json
import shutil

import jax
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import create_pretrained, load_weights, pretrained, save_weights
from cvjax.models import create_model

HALVES = Preprocessing((0.5,) * 3, (0.5,) * 3, 0.9)
SMALL = dict(width=16, depth=1, heads=2, patch_size=8)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A ViT of three classes at 32 pixels, with timm's config.json, and its variables."""
    model = create_model("vit_tiny_patch16_224", image_size=32, num_classes=3, **SMALL)
    variables = jax.jit(model.init)(jax.random.key(3), np.zeros((1, 32, 32, 3), np.float32))
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    save_weights(variables, model, path, preprocessing=HALVES, class_names=("a", "b", "c"))
    return path, variables


def test_a_file_gives_module_variables_and_what_images_become(published):
    path, variables = published
    found = create_pretrained("vit_tiny_patch16_224", path, **SMALL)
    assert (found.model.image_size, found.model.num_classes) == (32, 3)
    assert found.preprocessing == HALVES and found.class_names == ("a", "b", "c")
    jax.tree.map(np.testing.assert_array_equal, found.variables, load_weights(found.model, path))
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)


def test_another_head_starts_fresh_and_has_no_names(published):
    path, variables = published
    found = create_pretrained("vit_tiny_patch16_224", path, num_classes=5, **SMALL)
    assert found.variables["params"]["head"]["kernel"].shape == (16, 5) and found.class_names == ()
    np.testing.assert_array_equal(found.variables["params"]["norm"]["scale"], variables["params"]["norm"]["scale"])


def test_weights_without_a_head_give_features(tmp_path):
    model = create_model("vit_tiny_patch16_224", image_size=32, num_classes=0, **SMALL)
    variables = jax.jit(model.init)(jax.random.key(3), np.zeros((1, 32, 32, 3), np.float32))
    save_weights(variables, model, tmp_path / "model.safetensors", preprocessing=HALVES)
    found = create_pretrained("vit_tiny_patch16_224", tmp_path / "model.safetensors", **SMALL)
    assert found.model.num_classes == 0 and "head" not in found.variables["params"]
    given = create_pretrained("vit_tiny_patch16_224", tmp_path / "model.safetensors", num_classes=3, **SMALL)
    assert given.variables["params"]["head"]["kernel"].shape == (16, 3)


def test_by_default_the_weights_are_timms_own(published, monkeypatch):
    asked, open_published = [], pretrained.open_published

    def opened(source):
        asked.append(source)
        return open_published(published[0])

    monkeypatch.setattr(pretrained, "open_published", opened)
    create_pretrained("vit_tiny_patch16_224", **SMALL)
    assert asked == ["hf-hub:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"]


def test_a_mistake_is_one_line(published, tmp_path):
    for message, call in (
            ("timm publishes no weights of resnet20: give a file", lambda: create_pretrained("resnet20")),
            ("unknown model 'resnet51'", lambda: create_pretrained("resnet51")),
            ("has no field depth", lambda: create_pretrained("resnet50", depth=3)),
            ("create_model makes a module without parameters; cvjax.interop.create_pretrained('resnet50')",
             lambda: create_model("resnet50", pretrained=True))):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value).startswith(message) or message in str(caught.value)
    config = json.loads(published[0].with_name("config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "resnet50"}))
    (tmp_path / "model.safetensors").write_bytes(published[0].read_bytes())
    with pytest.raises(ValueError, match="the weights are of resnet50, not of vit_tiny_patch16_224"):
        create_pretrained("vit_tiny_patch16_224", tmp_path / "model.safetensors", **SMALL)


@pytest.mark.parametrize("fields, message", [
    ({"depth": 60000}, "VisionTransformer has 60000 blocks, the weights have 20 arrays"),
    ({"depth": "many"}, "the fields of this VisionTransformer make no network: "),
    ({"norm_epsilon": [1]}, "the fields of this VisionTransformer make no network: "),
    ({"width": 0}, "the fields of this VisionTransformer make no network: "),
])
def test_a_description_of_no_network_is_one_line(published, tmp_path, fields, message):
    shutil.copy(published[0], tmp_path)
    config = json.loads(published[0].with_name("config.json").read_text())
    config["cvjax"]["fields"] |= fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        create_pretrained(config["cvjax"]["name"], tmp_path)
    assert "\n" not in str(error.value)


def test_impossible_images_come_before_the_weights_are_laid_out(published, tmp_path, monkeypatch):
    shutil.copy(published[0], tmp_path)
    config = json.loads(published[0].with_name("config.json").read_text())
    config["pretrained_cfg"]["interpolation"] = "random"
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(pretrained, "load_weights", None)
    with pytest.raises(ValueError, match="interpolation 'random'; allowed"):
        create_pretrained(config["cvjax"]["name"], tmp_path)
