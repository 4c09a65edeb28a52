"""Networks in timm's words, and what a file beside weights may say of a network."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import create_pretrained, open_published, save_weights
from cvjax.interop.timm_config import timm_arguments
from cvjax.models import create_model

VIT = "vit_tiny_patch16_224"


@pytest.mark.parametrize("name, fields, arguments", [
    (VIT, {}, {}),
    (VIT, dict(image_size=32, num_classes=3, in_channels=1, drop_path=0.1, dtype=np.dtype("float16")), {}),
    (VIT, dict(width=64, depth=2), {"embed_dim": 64, "depth": 2}),
    (VIT, dict(pool="avg"), {"global_pool": "avg", "class_token": True, "fc_norm": True}),
    (VIT, dict(pool="avg", class_token=False), {"global_pool": "avg", "class_token": False, "fc_norm": False}),
    (VIT, dict(prefix_positions=False), {"no_embed_class": True}),
    ("resnet18", dict(depths=(1, 1, 1, 1), zero_init_last=False), {"layers": (1, 1, 1, 1)}),
    ("swin_tiny_patch4_window7_224", dict(window=4), {"window_size": 4}),
    ("convnext_tiny", dict(widths=(8, 16, 24, 32)), {"dims": (8, 16, 24, 32)}),
    ("vgg11", dict(fc_width=8), {"num_features": 8}),
])
def test_a_network_in_timms_words(name: str, fields: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert timm_arguments(create_model(name, **fields), name) == arguments


@pytest.mark.parametrize("name, fields", [
    ("lenet5", {}), ("resnet20", {}), ("resnet9", {}), ("airbench94", {}), ("densenet40_k12", {}),
    ("resnet18", dict(stem="cifar")), ("resnet18", dict(depths=(1, 1, 1))), ("resnet18", dict(width=32)),
    ("convnext_tiny", dict(depths=(1, 1), widths=(8, 16))), (VIT, dict(activation="swiglu")),
    (VIT, dict(representation_size=8)), ("vgg11", dict(depths=(1, 1)))])
def test_what_timm_cannot_build(name: str, fields: dict[str, Any]) -> None:
    assert timm_arguments(create_model(name, **fields), name) is None


def saved(folder: Path, name: str, **fields: Any) -> tuple[Any, dict[str, Any]]:
    model = create_model(name, **fields)
    shape = (1, model.image_size, model.image_size, model.in_channels)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros(shape, np.float32))
    save_weights(variables, model, folder / "model.safetensors", preprocessing=Preprocessing((0.5,), (0.25,)))
    return variables, json.loads((folder / "config.json").read_text())


def test_a_network_of_other_fields_is_built_from_its_name_alone(tmp_path: Path) -> None:
    """Also one that timm cannot build, and whose name would be another network to it."""
    variables, config = saved(tmp_path, "resnet20", depths=(1, 1), width=4, num_classes=3, in_channels=2, image_size=8)
    assert config["cvjax"]["fields"] == {"depths": [1, 1], "width": 4, "in_channels": 2}
    assert "architecture" not in config and config["pretrained_cfg"]["mean"] == [0.5, 0.5]
    name = config["cvjax"]["name"]
    found = create_pretrained(name, tmp_path / "model.safetensors")
    assert found.model.depths == (1, 1) and found.model.width == 4
    assert jax.tree.structure(found.variables) == jax.tree.structure(variables)
    assert all(map(np.array_equal, jax.tree.leaves(found.variables), jax.tree.leaves(variables)))
    with pytest.raises(ValueError, match="config.json of .* says that the weights are of resnet110, not of resnet18"):
        create_pretrained("resnet18", tmp_path / "model.safetensors")


def test_the_file_says_what_timm_asks_for(tmp_path: Path) -> None:
    _, config = saved(tmp_path, VIT, depth=1, image_size=32, num_classes=2)
    assert config["architecture"] == VIT and config["global_pool"] == "token"
    assert config["model_args"] == {"depth": 1}
    stated = config["pretrained_cfg"]
    assert stated["input_size"] == [3, 32, 32] and stated["fixed_input_size"] is True
    assert (stated["first_conv"], stated["classifier"], stated["num_classes"]) == ("patch_embed.proj", "head", 2)


@pytest.mark.parametrize("own", [
    3, {"name": "resnet20"}, {"name": 3, "fields": {}}, {"name": "resnet20", "fields": {"depths": [10**9]}},
    {"name": "resnet20", "fields": {"image_size": 8}}, {"name": "resnet20", "fields": {"width": float("inf")}},
    {"name": "resnet20", "fields": {"depths": [1] * 1000}}])
def test_a_network_that_cannot_be_is_not_built(tmp_path: Path, own: Any) -> None:
    safetensors.numpy.save_file({"fc.weight": np.zeros((2, 3), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {}, "cvjax": own}))
    with pytest.raises(ValueError, match="config.json: cvjax is .*, which cannot be"):
        open_published(tmp_path / "model.safetensors")
