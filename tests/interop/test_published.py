"""What is published beside weights: read as timm writes it, stated by family where it is missing, written back."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import Published, load_weights, open_published, save_weights, to_state_dict
from cvjax.interop.published import position_resize_of, resizing_as
from cvjax.models import create_model
from cvjax.ops.position import resize_positions

AUGREG = {"architecture": "vit_tiny_patch16_224", "num_classes": 1000, "pretrained_cfg": {
    "input_size": [3, 224, 224], "fixed_input_size": True, "interpolation": "bicubic", "crop_pct": 0.9,
    "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 1000}}
A1 = {"architecture": "resnet50", "pretrained_cfg": {
    "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "interpolation": "bicubic", "crop_pct": 0.95,
    "test_crop_pct": 1.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "num_classes": 1000}}


def published(config: Any = None, *names: str) -> Published:
    return Published("some.safetensors", {name: np.zeros(1) for name in names}, config or {})


def write(folder: Path, config: Any) -> Path:
    safetensors.numpy.save_file({"head.weight": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder / "model.safetensors"


def test_a_config_says_how_images_are_seen(tmp_path: Path) -> None:
    found = open_published(write(tmp_path, AUGREG))
    how, whose = found.preprocessing("vit_tiny_patch16_224")
    assert how == Preprocessing((0.5,) * 3, (0.5,) * 3, 0.9) and whose == f"config.json of {tmp_path}/model.safetensors"
    assert found.image_size == 224 and found.num_classes == 1000 and found.class_names == ()


def test_the_size_and_the_crop_are_those_of_the_test() -> None:
    found = published(A1)
    assert found.preprocessing("resnet50")[0].crop == 1 and found.image_size == 288
    squashed = {**A1["pretrained_cfg"], "crop_mode": "squash", "label_names": ["a", "b"]}
    found = published(A1 | {"pretrained_cfg": squashed | {"num_classes": 2}})
    assert found.preprocessing("resnet50")[0].crop_mode == "squash" and found.class_names == ("a", "b")


def test_what_timm_says_beside_the_weights_it_started_from_comes_first(tmp_path: Path) -> None:
    """As timm 1.0.31 writes a network of 7 classes that started from weights of 1000, with names by number."""
    names = {str(i): name for i, name in enumerate("abcdefg")}
    config = A1 | {"num_classes": 7, "label_names": names}
    found = open_published(write(tmp_path, config))
    assert found.num_classes == 7 and found.class_names == tuple("abcdefg")
    assert open_published(write(tmp_path, config | {"num_classes": 8})).class_names == ()
    assert open_published(write(tmp_path, config | {"label_names": ["a"]})).class_names == ()
    with pytest.raises(ValueError, match="label_names is .*, which cannot be"):
        open_published(write(tmp_path, config | {"label_names": {"first": "a"}}))


@pytest.mark.parametrize("name, arguments, fields", [
    ("resnet50", {"num_classes": 7, "in_chans": 3, "global_pool": "avg", "drop_path_rate": 0.1}, {}),
    ("resnet50", {"in_chans": 1}, {"in_channels": 1}), ("resnet50", None, {}),
    ("vit_tiny_patch16_224", {"global_pool": "avg", "init_values": 1e-5, "no_embed_class": True},
     {"pool": "avg", "layer_scale": 1e-5, "prefix_positions": False}),
    ("swinv2_tiny_window8_256", {"window_size": 4}, {"window": 4}),
    ("vit_base_patch16_dinov3", {"global_pool": "token"}, {"pool": "token"}),
    ("convnext_tiny", {"depths": [3, 3, 9, 3], "norm_eps": 1e-5}, {"norm_epsilon": 1e-5}),
])
def test_timms_arguments_are_fields(name: str, arguments: Any, fields: dict[str, Any]) -> None:
    found = published({"architecture": name, "model_args": arguments, "pretrained_cfg": {}})
    assert found.fields(name) == fields
    assert "says its config.json" in found.check_architecture(name)


@pytest.mark.parametrize("name, arguments, message", [
    ("resnet50", {"global_pool": "max"}, "global_pool 'max', which no ResNet here has"),
    ("vit_tiny_patch16_224", {"act_layer": "relu"}, "act_layer 'relu', which no VisionTransformer here has"),
    ("vit_tiny_patch16_224", {"depth": "3"}, "depth '3', which no VisionTransformer"),
    ("googlenet", {"aux_logits": True}, "aux_logits 'True', which no GoogLeNet"),
])
def test_arguments_of_timm_that_are_not_here_are_named(name: str, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^config.json of some.safetensors: model_args has {message}"):
        published({"architecture": name, "model_args": arguments}).check_architecture(name)


def test_positions_are_for_the_size_that_timm_made_the_network_for(tmp_path: Path) -> None:
    config = AUGREG | {"model_args": {"img_size": [96, 96]}}
    found = open_published(write(tmp_path, config))
    assert found.trained == (96, 96) and found.image_size == 96
    with pytest.raises(ValueError, match="model_args is .*, which cannot be"):
        open_published(write(tmp_path, AUGREG | {"model_args": {"img_size": "large"}}))


def test_the_licence_that_timm_states_is_said() -> None:
    stated = A1["pretrained_cfg"] | {"license": "cc-by-nc-4.0\x1b"}
    said = published(A1 | {"pretrained_cfg": stated}).check_architecture("resnet50")
    assert said.endswith("is of resnet50, says its config.json; licence: cc-by-nc-4.0\\x1b")


def test_numbers_and_notes_that_cannot_be_do_no_harm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int too large"):
        published(A1 | {"pretrained_cfg": A1["pretrained_cfg"] | {"mean": [10**400] * 3}}).preprocessing("resnet50")
    path = tmp_path / "w.safetensors"
    for note in ("224", "axb", "1x2x3", "-1x-1", "0x5", "9999999x1"):
        safetensors.numpy.save_file({"head.weight": np.zeros((2, 3), np.float32)}, path, {"image_size": note})
        assert open_published(path).trained is None


def test_what_cannot_be_done_is_an_error_that_names_the_file() -> None:
    config = A1 | {"pretrained_cfg": A1["pretrained_cfg"] | {"crop_mode": "border"}}
    with pytest.raises(ValueError, match=r"^config.json of some.safetensors: crop mode 'border'; allowed: center, sq"):
        published(config).preprocessing("resnet50")


@pytest.mark.parametrize("name, mean, crop, interpolation", [
    ("vit_base_patch16_224", 0.5, 0.9, "bicubic"), ("vit_base_patch16_384", 0.5, 1.0, "bicubic"),
    ("deit_base_patch16_224", 0.485, 0.9, "bicubic"), ("deit_base_patch16_384", 0.485, 1.0, "bicubic"),
    ("swin_tiny_patch4_window7_224", 0.485, 0.9, "bicubic"), ("swin_base_patch4_window12_384", 0.485, 1.0, "bicubic"),
    ("googlenet", 0.5, 0.875, "bilinear"), ("resnet50", 0.485, 0.875, "bilinear"), ("vgg16", 0.485, 0.875, "bilinear"),
    ("wide_resnet50_2", 0.485, 0.875, "bilinear"), ("convnext_tiny", 0.485, 0.875, "bicubic"),
    ("resnet50d", 0.485, 0.875, "bicubic"), ("resnet101d", 0.485, 0.95, "bicubic"),
    ("seresnext50_32x4d", 0.485, 0.875, "bicubic"), ("resnext101_32x4d", 0.485, 0.875, "bilinear"),
    ("swinv2_tiny_window8_256", 0.485, 0.9, "bicubic"), ("swinv2_base_window12to24_192to384", 0.485, 1.0, "bicubic"),
    ("resnetv2_34d", 0.5, 0.9, "bicubic"), ("resnetv2_50", 0.5, 0.95, "bicubic"),
    ("resnetv2_50x1_bit", 0.5, 0.875, "bicubic"), ("resnetv2_50x3_bit", 0.5, 1.0, "bilinear"),
    ("convnext_xxlarge", 0.48145466, 1.0, "bicubic"), ("vit_so400m_patch14_siglip_gap_448", 0.5, 1.0, "bicubic"),
    ("vit_so400m_patch14_siglip_384", 0.5, 0.9, "bicubic"), ("vit_medium_patch16_gap_384", 0.5, 0.95, "bicubic"),
    ("vit_so150m2_patch16_reg1_gap_256", 0.5, 1.0, "bicubic"),
])
def test_a_bare_file_is_seen_as_its_family_states(name: str, mean: float, crop: float, interpolation: str) -> None:
    how, whose = published(None, "head.weight").preprocessing(name)
    assert (how.mean[0], how.crop, how.interpolation) == (mean, crop, interpolation)
    assert whose.startswith("no config.json: as the publishers of ")


def test_self_supervised_vits_have_no_head_and_imagenets_statistics() -> None:
    assert published(None, "blocks.0.norm1.weight").preprocessing("vit_small_patch8_224")[0] == Preprocessing(crop=0.9)


@pytest.mark.parametrize("given, name", [
    ("resnet50", "resnet50"), ("resnet50.a1_in1k", "resnet50"), ("vit_base_patch16_384", "vit_base_patch16_224"),
    ("deit_small_patch16_224", "vit_small_patch16_224"),
    ("vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224")])
def test_the_same_architecture_by_another_size_or_name_is_taken(given: str, name: str) -> None:
    assert "says its config.json" in published(A1 | {"architecture": given}).check_architecture(name)


@pytest.mark.parametrize("given", ["resnetaa50", "resnet101", "vit_base_patch16_224"])
def test_another_architecture_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=f"says that the weights are of {given}, not of resnet50"):
        published(A1 | {"architecture": given}).check_architecture("resnet50")
    with pytest.raises(ValueError, match="of vit_base_patch16_clip_quickgelu_224, not of vit_base_patch16_clip_224"):
        published(A1 | {"architecture": "vit_base_patch16_clip_quickgelu_224"}).check_architecture(
            "vit_base_patch16_clip_224")
    assert "only names and shapes were compared" in published().check_architecture("resnet50")


def test_a_runs_options_are_not_taken_for_it(tmp_path: Path) -> None:
    found = open_published(write(tmp_path, {"data": "digits", "mean": None, "std": None}))
    assert found.config == {}
    with pytest.raises(ValueError, match="is not JSON"):
        open_published(write(tmp_path, "{"))


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    model = create_model("resnet20", depths=(1, 1, 1), num_classes=2)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    how = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.7, "squash", "bilinear")
    save_weights(variables, model, tmp_path / "w.safetensors", preprocessing=how, class_names=("cat", "dog"))
    found = open_published(tmp_path / "w.safetensors")
    assert found.preprocessing("resnet20")[0] == how and found.class_names == ("cat", "dog")
    assert found.image_size == 32 and found.num_classes == 2
    assert "architecture" not in found.config, "a network of other depths than any that has a name"
    named, folder = create_model("resnet20", num_classes=2), tmp_path / "named"
    folder.mkdir()
    variables = named.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    save_weights(variables, named, folder / "w.safetensors", preprocessing=how)
    assert "is of resnet20, says its" in open_published(folder / "w.safetensors").check_architecture("resnet20")
    (tmp_path / "config.json").write_text('{"data": "digits"}')  # a run's
    with pytest.raises(ValueError, match="save them in another folder"):
        save_weights(variables, named, tmp_path / "w.safetensors", preprocessing=how)


@pytest.mark.parametrize("values, message", [
    (dict(mean=(0.5,) * 3, std=(0.5,)), "3 means and 1 deviations"), (dict(mean=(), std=()), "0 means"),
    (dict(std=(0.0, 1.0, 1.0)), "std positive"), (dict(mean=(float("nan"), 0, 0)), "must be finite"),
    (dict(crop=0.0), r"crop 0.0: it must be in \(0, 1\]"), (dict(crop=1.1), "crop 1.1"),
    (dict(interpolation="cubic"), "interpolation 'cubic'; allowed: nearest")])
def test_impossible_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


VIT = dict(width=8, depth=1, heads=2, patch_size=4, image_size=8, num_classes=0)


@pytest.mark.parametrize("names, place, how", [
    (("cls_token", "norm.weight"), "", "dino"),
    (("backbone.cls_token", "head.mlp.0.weight", "head.last_layer.weight_v"), "teacher", "dino"),
    (("cls_token", "norm.weight"), "model", "deit"),
    (("cls_token", "head.weight"), "model", "deit"),
    (("cls_token", "mask_token", "decoder_embed.weight"), "", "deit"),
    (("cls_token", "head.weight"), "", "timm"),
    (("cls_token", "head.weight"), "state_dict", "timm"),
    (("cls_token", "mask_token", "blocks.0.ls1.gamma"), "", "dino"),
    (("cls_token", "reg_token", "blocks.0.ls1.gamma"), "", "timm"),
    (("norm.weight",), "", "timm"),
    (("class_token", "conv_proj.weight"), "", "torchvision"),
])
def test_positions_are_resized_as_the_publisher_of_a_bare_file_does(names: tuple[str, ...], place: str,
                                                                    how: str) -> None:
    arrays = {name: np.zeros(1) for name in names} | {"pos_embed": np.ones((1, 5, 8))}
    assert position_resize_of(arrays, place) == how


def test_fixed_positions_are_an_maes() -> None:
    model = create_model("vit_tiny_patch16_224", **VIT, position="sincos2d")
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    assert position_resize_of(to_state_dict(variables, model)) == "deit"


def test_a_file_says_how_its_positions_are_resized(tmp_path: Path) -> None:
    """A config.json is timm's; our own files note it; a model's own field comes first."""
    assert open_published(write(tmp_path, AUGREG)).position_resize == "timm"
    model = create_model("vit_tiny_patch16_224", **VIT)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    for own, how in ((None, "timm"), ("dino", "dino")):
        path = tmp_path / f"{how}.safetensors"
        save_weights(variables, model.clone(position_resize=own), path)
        (tmp_path / "config.json").unlink(missing_ok=True)
        assert open_published(path).position_resize == how
    assert resizing_as(model, "dino").position_resize == "dino"
    assert resizing_as(model.clone(position_resize="deit"), "dino").position_resize == "deit"
    convnet = create_model("resnet18")
    assert resizing_as(convnet, "dino") is convnet
    safetensors.numpy.save_file(to_state_dict(variables, model), tmp_path / "bare.safetensors")
    larger = load_weights(model.clone(image_size=16), tmp_path / "bare.safetensors")["params"]["pos_embed"][0, 1:]
    stored = variables["params"]["pos_embed"][0, 1:]
    np.testing.assert_array_equal(larger, resize_positions(stored, (2, 2), (4, 4), "dino"))
