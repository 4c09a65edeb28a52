"""Files and configurations of `transformers`: by a stored list of what it writes, without it."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import create_pretrained, load_weights, open_published, save_weights, to_state_dict
from cvjax.interop.families import family_of
from cvjax.interop.naming import model_images
from cvjax.interop.transformers_config import described, registered_name, stated_images, stated_licence
from cvjax.models import create_model
from tests.interop.transformers_names import CASES, STORED, VIT

CONFIGS = {case: stored["config"] for case, stored in STORED["networks"].items()}


def arrays_of(case: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: np.asarray(random.standard_normal(shape), np.float32)
            for name, shape in STORED["networks"][case]["shapes"].items()}


def write(folder: Path, case: str, config: Any = None, **arrays: np.ndarray) -> Path:
    """A repository: arrays of None are left out."""
    content = arrays_of(case) | {key.replace("__", "."): value for key, value in arrays.items()}
    safetensors.numpy.save_file({key: value for key, value in content.items() if value is not None},
                                folder / "model.safetensors")
    config = CONFIGS[case] if config is None else config
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_theirs(case: str) -> None:
    """All of those in their file but the ones that networks here have no use for."""
    _, _, name, fields = CASES[case]
    model: Any = create_model(name, **fields, image_size=16 if case == "swin" else 8)
    classes = {"clip": 5, "siglip": 0, "dinov2_with_registers": 0, "dinov3_vit": 0}.get(case, 3)
    model = model.clone(num_classes=classes, **({"pool": "token+avg"} if case == "dinov2" else {}))
    variables = jax.eval_shape(model.init, jax.random.key(0), *model_images(model))
    stand_in = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
    found = {key: list(array.shape) for key, array in to_state_dict(stand_in, model, "transformers").items()}
    stored = {key: shape for key, shape in STORED["networks"][case]["shapes"].items()
              if not key.endswith(("num_batches_tracked", "embeddings.mask_token"))}
    assert stored == found


@pytest.mark.parametrize("case", ["vit", "clip", "siglip", "resnet", "dinov2", "dinov3_vit"])
def test_a_repository_is_a_model_with_its_numbers(case: str, tmp_path: Path) -> None:
    _, _, name, fields = CASES[case]
    found = create_pretrained(name, write(tmp_path, case), **fields)
    there, back = arrays_of(case), to_state_dict(found.variables, found.model, "transformers")
    assert all(np.array_equal(there[key], array) for key, array in back.items())
    model: Any = found.model
    assert model.num_classes == {"clip": 5, "siglip": 0, "dinov3_vit": 0}.get(case, 3)
    assert found.class_names == (("a", "b", "c") if case in ("vit", "resnet", "dinov2") else ())
    if case != "resnet":
        assert (model.norm_epsilon, model.activation, model.pool) == {
            "vit": (1e-12, "gelu", "token"), "clip": (1e-5, "quick_gelu", "token"),
            "siglip": (1e-6, "gelu_tanh", "map"), "dinov2": (1e-6, "gelu", "token+avg"),
            "dinov3_vit": (1e-5, "gelu", "token")}[case]
        assert model.image_size == 8


def test_queries_keys_and_values_stand_in_this_order(tmp_path: Path) -> None:
    found = create_pretrained("vit_tiny_patch16_224", write(tmp_path, "vit"), **VIT)
    qkv = found.variables["params"]["blocks"]["0"]["attn"]["qkv"]["kernel"]
    for i, which in enumerate(("query", "key", "value")):
        there = arrays_of("vit")[f"vit.encoder.layer.0.attention.attention.{which}.weight"]
        np.testing.assert_array_equal(qkv[:, 12 * i:12 * (i + 1)], there.T)


# What the hub has of these, as far as it differs from what their classes have by default.
SMALL = {"hidden_size": 384, "num_attention_heads": 6}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
LARGE_MLP = LARGE | {"intermediate_size": 4096}


@pytest.mark.parametrize("config, name", [
    ({"model_type": "vit"}, "vit_base_patch16_224"),
    ({"model_type": "vit", "image_size": 384}, "vit_base_patch16_384"),
    ({"model_type": "vit", "patch_size": 32, **LARGE_MLP}, "vit_large_patch32_224"),
    ({"model_type": "vit", **SMALL, "intermediate_size": 1536, "patch_size": 8}, "vit_small_patch8_224"),
    ({"model_type": "vit_mae", **LARGE_MLP}, "vit_large_patch16_224"),
    ({"model_type": "ijepa", "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
      "intermediate_size": 5120, "patch_size": 14}, "vit_huge_patch14_gap_224"),
    ({"model_type": "deit"}, "deit_base_distilled_patch16_224"),
    ({"model_type": "dinov2", "image_size": 518, **SMALL}, "vit_small_patch14_dinov2"),
    ({"model_type": "dinov2", "image_size": 518, "hidden_size": 1536, "num_hidden_layers": 40,
      "num_attention_heads": 24, "use_swiglu_ffn": True}, "vit_giant_patch14_dinov2"),
    ({"model_type": "dinov2_with_registers", "image_size": 518, "patch_size": 14, **LARGE},
     "vit_large_patch14_reg4_dinov2"),
    ({"model_type": "dinov3_vit", "num_register_tokens": 4}, "vit_small_patch16_dinov3_qkvb"),
    ({"model_type": "dinov3_vit", "num_register_tokens": 4, "hidden_size": 1280, "num_hidden_layers": 32,
      "num_attention_heads": 20, "intermediate_size": 5120, "use_gated_mlp": True, "hidden_act": "silu",
      "query_bias": False, "value_bias": False}, "vit_huge_plus_patch16_dinov3"),
    ({"model_type": "swin"}, "swin_tiny_patch4_window7_224"),
    ({"model_type": "swin", "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12,
      "image_size": 384}, "swin_base_patch4_window12_384"),
    ({"model_type": "convnext"}, "convnext_tiny"),
    ({"model_type": "convnext", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 3, 27, 3]}, "convnext_xlarge"),
    ({"model_type": "convnextv2", "hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]}, "convnextv2_atto"),
    ({"model_type": "resnet"}, "resnet50"),
    ({"model_type": "resnet", "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
     "resnet18"),
    ({"model_type": "clip", "vision_config": {}}, "vit_base_patch32_clip_quickgelu_224"),
    ({"model_type": "clip", "vision_config": {**LARGE_MLP, "patch_size": 14, "hidden_act": "gelu"}},
     "vit_large_patch14_clip_224"),
    ({"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}}, "vit_base_patch16_siglip_224"),
    ({"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
      "num_attention_heads": 16, "patch_size": 14, "image_size": 384}, "vit_so400m_patch14_siglip_378"),
])
def test_sizes_tell_the_name(config: dict[str, Any], name: str) -> None:
    found = described(config, {}, "config.json")
    assert registered_name(found.network, found.kind) == name
    assert type(family_of(found.network)) is type(family_of(create_model(name)))


CLIP_LIKE = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224,
             "do_center_crop": True, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}


@pytest.mark.parametrize("content, size, how", [
    (CLIP_LIKE, 224, Preprocessing((0.5,) * 3, (0.2,) * 3, 1.0)),
    (CLIP_LIKE | {"size": 256, "resample": 2}, 224, Preprocessing((0.5,) * 3, (0.2,) * 3, 224 / 256, "center",
                                                                  "bilinear")),
    (CLIP_LIKE | {"image_processor_type": "ViTImageProcessor", "size": 224, "do_center_crop": False}, 224,
     Preprocessing((0.5,) * 3, (0.2,) * 3, 1.0, "squash")),
    (CLIP_LIKE | {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875}, 224,
     Preprocessing((0.5,) * 3, (0.2,) * 3, 0.875)),
    (CLIP_LIKE | {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}, 384,
     Preprocessing((0.5,) * 3, (0.2,) * 3, 1.0, "squash")),
    ({"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 224, "width": 224}, "resample": None,
      "image_mean": [0.5] * 3, "image_std": [0.2] * 3, **dict.fromkeys(
          ("crop_size", "do_center_crop", "do_normalize", "do_rescale", "do_resize", "rescale_factor"))}, 224,
     Preprocessing((0.5,) * 3, (0.2,) * 3, 1.0, "squash", "bilinear")),
    (CLIP_LIKE | {"rescale_factor": 1 / 127.5}, 224, Preprocessing((0.25,) * 3, (0.1,) * 3, 1.0)),
    (CLIP_LIKE | {"do_normalize": False, "do_rescale": False}, 224, Preprocessing((0.0,), (1 / 255,), 1.0)),
])
def test_images_become_what_the_processor_states(content: dict[str, Any], size: int, how: Preprocessing,
                                                 tmp_path: Path) -> None:
    write(tmp_path, "vit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 3} | content))
    found = open_published(tmp_path)
    stated, whose = found.preprocessing("vit_base_patch16_224")
    assert found.image_size == size and found.trained == (8, 8) and whose.startswith("preprocessor_config.json of ")
    np.testing.assert_allclose(stated.mean + stated.std, how.mean + how.std, rtol=1e-12)
    assert (stated.crop, stated.crop_mode, stated.interpolation) == (how.crop, how.crop_mode, how.interpolation)


def test_a_resize_comes_back_from_the_share_of_its_crop() -> None:
    for resized in range(224, 320):
        stated = stated_images(CLIP_LIKE | {"size": resized}, "x")
        assert int(224 / stated["crop_pct"]) == resized


def test_a_licence_is_the_readmes(tmp_path: Path) -> None:
    (write(tmp_path, "vit") / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- vision\n---\n# ViT\n")
    found = open_published(tmp_path)
    assert found.licence == "apache-2.0"
    assert found.check_architecture("vit_tiny_patch16_224", VIT).endswith("says its config.json; licence: apache-2.0")
    front = "---\nlicense: {}  # see below\nlicense_name: dinov3-license\n---\n"
    assert [stated_licence(front.format(said)) for said in ("other", "mit")] == ["dinov3-license", "mit"]
    for text in ("# ViT\nlicense: mit\n", "---\ntags: x\n---\nlicense: mit\n", "", "---\nlicense:\n- a\n---\n"):
        assert stated_licence(text) == ""


def test_a_repository_names_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "vit", "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    found = open_published(write(tmp_path, "vit", config))
    assert found.name == "vit_tiny_patch16_224"
    assert "it is of vit_tiny_patch16_224" in pytest.raises(ValueError, found.check_architecture, "resnet18"
                                                           ).value.args[0]
    with pytest.raises(ValueError, match="do not fit VisionTransformer"):  # the weights are another network's
        create_pretrained(str(tmp_path))


def fails(folder: Path, message: str, **fields: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        create_pretrained("vit_tiny_patch16_224", folder, **VIT | fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", [
    ({"model_type": "beit"}, "no network here is of model_type 'beit'; there are vit, "),
    ({"hidden_size": "12"}, "hidden_size is '12', which cannot be"), ({"hidden_size": -1}, "hidden_size is '-1'"),
    ({"hidden_size": 2**80}, "hidden_size is '1208"), ({"num_hidden_layers": True}, "num_hidden_layers is 'True'"),
    ({"layer_norm_eps": [1]}, "layer_norm_eps is"), ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ({"hidden_act": ["gelu"]}, "hidden_act is"), ({"layer_norm_eps": 10**400}, "layer_norm_eps is '1000"),
    ({"model_type": "dinov2", "mlp_ratio": 1e308}, "mlp_ratio is '1e\\+308'"),
    ({"model_type": "dinov3_vit", "rope_theta": 1e4}, "rope_theta is 10000.0; here it must be 100.0"),
    ({"model_type": "dinov3_vit", "use_gated_mlp": True}, "hidden_act is 'gelu' beside use_gated_mlp"),
    ({"id2label": ["a"]}, "id2label is"), ({"patch_size": [4, 2]}, "patch_size is"),
    ({"hidden_size": 24}, r"are not of vit_tiny_patch16_224: width 24 \(not 12\)$"),
    ({"num_hidden_layers": 3, "qkv_bias": False},
     r"vit_tiny_patch16_224: depth 3 \(not 1\), qkv_bias False \(not True\)$"),
    ({"model_type": "resnet", "hidden_sizes": [64, 64]}, "hidden_sizes is .64, 64.; here it must be .256, 512, "),
    ({"model_type": "resnet", "hidden_act": "relu"}, r"ResNet \(not VisionTransformer\); it is of resnet50$"),
])
def test_configurations_that_do_not_fit_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = CONFIGS["vit"] | change
    if change.get("model_type") == "resnet":
        config = change
    fails(write(tmp_path, "vit", config, **{"classifier__1__weight": np.zeros((3, 12), np.float32)}
                if "resnet" in str(change) else {}), message)


@pytest.mark.parametrize("change, message", [
    ({"crop_pct": 0}, "crop_pct is 0.0, which cannot be"), ({"crop_pct": 1e-320}, "crop_pct is"),
    ({"resample": 2.0}, "resample is '2.0'"), ({"resample": 6}, "resample is '6'"),
    ({"image_mean": [10**400] * 3}, "image_mean is"), ({"rescale_factor": 10**400}, "rescale_factor is '1000"),
    ({"size": None}, "states no size"),
])
def test_processors_that_cannot_be_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^x:? {message}"):
        stated_images(CLIP_LIKE | {"image_processor_type": "ConvNextImageProcessor"} | change, "x")


def test_a_classifier_of_one_number_is_named(tmp_path: Path) -> None:
    fails(write(tmp_path, "vit", classifier__weight=np.zeros((), np.float32)),
          "^classifier.weight beside .* is one number, not a matrix$")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    key = "vit.encoder.layer.0.attention.attention.key.bias"
    write(tmp_path, "vit", **{key.replace(".", "__"): None, "vit__extra": np.zeros(2, np.float32),
                              "vit__embeddings__cls_token": np.zeros((1, 2, 12), np.float32)})
    fails(tmp_path, r"missing: encoder.layer.0.attention.attention.key.bias; unexpected: extra; of another shape: "
                    r"embeddings.cls_token \(1, 2, 12\) \(the model has \(1, 1, 12\)\)$")
    fails(write(tmp_path, "vit", classifier__weight=None), "names a classifier, but the weights have no classifier.we")
    write(tmp_path, "vit", **{"layernorm__weight": np.zeros(12, np.float32)})
    fails(tmp_path, "unexpected: vit.layernorm.weight|unexpected: layernorm.weight")


def test_damaged_and_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(tmp_path, "holds neither model.safetensors nor pytorch_model.bin$")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    fails(tmp_path, "its weights lie in several files, by model.safetensors.index.json, which are not read here")
    fails(write(tmp_path, "vit", "{"), "config.json is not JSON")
    (write(tmp_path, "vit") / "preprocessor_config.json").write_text("[")
    fails(tmp_path, "preprocessor_config.json is not JSON")
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 8, "width": 9}}')
    fails(tmp_path, "images here become squares")
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="has no config.json that names its architecture: give the model's name"):
        create_pretrained(str(tmp_path))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:len(whole) // 2])
    fails(tmp_path, "cannot be read as weights")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    fails(tmp_path, "not a zip archive")


def test_another_number_of_classes_starts_fresh_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = create_pretrained("vit_tiny_patch16_224", write(tmp_path, "vit"), **VIT, num_classes=7)
    assert "fresh: classifier.bias, classifier.weight" in caplog.text and found.class_names == ()


def test_what_is_saved_in_their_names_is_read(tmp_path: Path) -> None:
    model: Any = create_model("vit_tiny_patch16_224", **VIT, image_size=8, num_classes=3)
    variables = load_weights(model, arrays_of("vit"))
    save_weights(variables, model, tmp_path / "w.safetensors", "transformers")
    stored = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert stored.keys() == arrays_of("vit").keys()
    assert all(map(np.array_equal, jax.tree.leaves(load_weights(model, tmp_path / "w.safetensors")),
                   jax.tree.leaves(variables)))
