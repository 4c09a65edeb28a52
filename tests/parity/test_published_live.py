"""What images become for published weights, from a photo's bytes, as timm and torchvision do it: `pytest -m parity`."""

import io
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax_side
import numpy as np
import pytest
from deterministic_weights import fill
from PIL import Image

from cvjax.data.crops import EvaluationCrop
from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import Published, load_weights
from cvjax.interop.weights import adapted_to_channels
from cvjax.models import create_model, list_models
from cvjax.timm_weights import timm_weights
from cvjax.workflow.normalization import normalized

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    """The module torch_side, which needs torch, torchvision and timm."""
    pytest.importorskip("torch")
    import torch_side

    return torch_side


@pytest.fixture(scope="module")
def photo() -> bytes:
    """Waves of all lengths, which show a shift by a part of a pixel, as a PNG of 401 x 267."""
    y, x = np.mgrid[:267, :401] / 40
    pixels = np.stack([np.sin(x * x + y), np.cos(x * y), np.sin(3 * x + y * y)], axis=-1)
    file = io.BytesIO()
    Image.fromarray(np.uint8(127.5 + 127 * pixels)).save(file, "PNG")
    return file.getvalue()


def test_every_tag_of_a_registered_name_is_seen_as_timm_says(theirs: ModuleType, tmp_path: Path) -> None:
    """The settings of its validation (`resolve_data_config`, test sizes), from the config.json that timm writes."""
    import timm
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg
    from timm.models._hub import save_config_for_hf

    names, seen, unusual = set(list_models()), 0, 0
    for tag in timm.list_pretrained():
        name = tag.split(".")[0]
        if name not in names:
            continue
        stated = get_pretrained_cfg(tag)
        model = type("Model", (), {"pretrained_cfg": stated.to_dict(), "num_classes": stated.num_classes,
                                   "num_features": 1})()
        save_config_for_hf(model, tmp_path / "config.json")
        found = Published(tag, {}, json.loads((tmp_path / "config.json").read_text()))
        how, _ = found.preprocessing(name)
        expected = resolve_data_config(pretrained_cfg=stated.to_dict(), use_test_size=True)
        assert (how.mean, how.std, how.crop, how.crop_mode, how.interpolation) == tuple(
            expected[key] for key in ("mean", "std", "crop_pct", "crop_mode", "interpolation")), tag
        assert found.image_size == expected["input_size"][1] and found.num_classes == stated.num_classes, tag
        assert "says its config.json" in found.check_architecture(name)
        seen += 1
        unusual += how != Preprocessing()
    assert seen > 150 and unusual > 40, "most tags of timm, many of which are not ImageNet's usual ones"


OURS = {"vit_b_16": "vit_base_patch16_224", "vit_b_32": "vit_base_patch32_224", "vit_l_16": "vit_large_patch16_224",
        "vit_l_32": "vit_large_patch32_224", "swin_t": "swin_tiny_patch4_window7_224",
        "swin_s": "swin_small_patch4_window7_224", "swin_b": "swin_base_patch4_window7_224"}


def test_bare_files_of_torchvision_are_seen_as_it_says(theirs: ModuleType) -> None:
    """The first weights of every classifier that both have; its GoogLeNet turns its statistics into 0.5 inside."""
    import torchvision.models

    names, seen = set(list_models()), 0
    for there in torchvision.models.list_models(module=torchvision.models):
        name = OURS.get(there, there)
        weights = [each for each in torchvision.models.get_model_weights(there) if each.name == "IMAGENET1K_V1"]
        if name not in names or not weights:
            continue
        stated = weights[0].transforms()
        kind = "conv_proj.weight" if there.startswith("vit") else "features.0.0.weight"
        how, _ = Published(there, {kind: np.zeros(1)}).preprocessing(name)
        (size,), (resized,) = stated.crop_size, stated.resize_size
        assert EvaluationCrop(size, 3, how).resized.resize == resized, there
        assert how.interpolation == stated.interpolation.value, there
        if there != "googlenet":
            assert (how.mean, how.std) == (tuple(stated.mean), tuple(stated.std)), there
        seen += 1
    assert seen > 30


FILES = ("resnet", "resnetv2", "convnext", "swin_transformer", "swin_transformer_v2", "vision_transformer", "deit",
         "eva")
# timm's default weights of CLIP's are fine-tuned ones, which a bare file seldom is. Those with patches of 8 are DINO's.
FINE_TUNED = re.compile("_clip_|vit_small_patch8_224")


def test_bare_files_are_seen_as_timms_default_weights(theirs: ModuleType) -> None:
    """At the size of their training; of the others torchvision's come first, or the authors'."""
    from timm.models import get_pretrained_cfg
    from torchvision.models import list_models as torchvisions

    names = [name for name in list_models() if name in timm_weights() and timm_weights()[name].default
             and timm_weights()[name].file in FILES and name not in torchvisions() and not FINE_TUNED.search(name)]
    for name in names:
        head = {"head.weight": np.zeros(1)}  # a first ViT without one is taken for DINO's, MAE's or I-JEPA's
        stated, (how, _) = get_pretrained_cfg(name), Published(name, head).preprocessing(name)
        mean, std = (tuple(np.broadcast_to(each, 3).tolist()) for each in (how.mean, how.std))  # one for all channels
        assert (mean, std, how.crop, how.crop_mode, how.interpolation) == tuple(
            getattr(stated, key) for key in ("mean", "std", "crop_pct", "crop_mode", "interpolation")), name
    assert len(names) > 200


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size, crop", [(224, 0.9), (288, 0.95), (224, 0.875), (64, 1.0)])
def test_a_photo_is_resized_and_cropped_as_timm_does(theirs: ModuleType, photo: bytes, size: int, crop: float,
                                                     interpolation: str, crop_mode: str) -> None:
    """Within one level of 255: Pillow rounds after each of its two passes, of which this one leaves out cut rows."""
    from timm.data import create_transform

    transform: Any = create_transform((3, size, size), crop_pct=crop, interpolation=interpolation,
                                      crop_mode=crop_mode, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    expected = transform(Image.open(io.BytesIO(photo))).permute(1, 2, 0).numpy()
    how = Preprocessing(crop=crop, crop_mode=crop_mode, interpolation=interpolation)  # type: ignore[arg-type]
    found = EvaluationCrop(size, 3, how)(photo)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.01)


def test_torchvisions_googlenet_sees_other_statistics(theirs: ModuleType, photo: bytes) -> None:
    """Published with `transform_input=True`: the network undoes ImageNet's statistics and takes 0.5."""
    import torch
    from torchvision.models import get_model
    from torchvision.transforms._presets import ImageClassification

    reference = get_model("googlenet", aux_logits=True, init_weights=False, transform_input=True).eval()
    weights = fill(theirs.state_shapes(reference))
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    with torch.no_grad():
        expected = reference(ImageClassification(crop_size=224)(Image.open(io.BytesIO(photo)))[None]).numpy()
    model = create_model("googlenet")
    how, _ = Published("googlenet.pth", weights).preprocessing("googlenet")
    seen = EvaluationCrop(224, 3, how)(photo)
    logits = jax.jit(model.apply)(load_weights(model, weights), normalized(seen[None], how))
    usual = jax.jit(model.apply)(load_weights(model, weights), normalized(seen[None], Preprocessing()))
    right, wrong = (np.abs(np.asarray(found) - expected).max() / np.abs(expected).max() for found in (logits, usual))
    # Some pixels differ by one level of 255, as the test above allows.
    assert right < 0.1 * wrong, (right, wrong)
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(normalized(seen[None], Preprocessing()))).permute(0, 3, 1, 2)
        expected = reference(pixels).numpy()
    jax_side.assert_same({"logits": np.asarray(logits)}, {"logits": expected})  # of the same pixels: to rounding


def test_the_norms_of_torchvisions_detector_for_coco_add_nothing_to_the_variance(theirs: ModuleType,
                                                                                 photo: bytes) -> None:
    """`overwrite_eps(model, 0.0)`; the variances of the weights here are small enough for 1e-5 to show."""
    import torch
    from torchvision.models import resnet50
    from torchvision.models._utils import IntermediateLayerGetter

    network = resnet50().eval()
    weights = fill(theirs.state_shapes(network))
    weights |= {name: np.float32(2e-3) * array for name, array in weights.items() if name.endswith("running_var")}
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.0
    images = np.array(normalized(EvaluationCrop(64)(photo)[None], Preprocessing()))
    with torch.no_grad():
        body = IntermediateLayerGetter(network, {"layer1": "layer1"})
        expected = body(torch.from_numpy(images).permute(0, 3, 1, 2))["layer1"].permute(0, 2, 3, 1).numpy()

    def first_map(name: str) -> np.ndarray:
        backbone = create_model(name).make_backbone()
        model = create_model("resnet50", norm_epsilon=backbone.norm_epsilon)
        variables = load_weights(model, weights)
        return np.asarray(model.apply(variables, images, maps=["layer1"])["layer1"])

    jax_side.assert_same({"map": first_map("faster_rcnn_resnet50_fpn_coco")}, {"map": expected})
    other = first_map("faster_rcnn_resnet50_fpn")
    assert np.abs(other - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_weights_for_colours_are_adapted_as_timm_adapts_them(theirs: ModuleType, channels: int) -> None:
    import torch
    from timm.models._manipulate import adapt_input_conv

    kernel = fill({"conv.weight": (5, 3, 4, 2)})["conv.weight"]
    expected = adapt_input_conv(channels, torch.from_numpy(kernel)).numpy()
    np.testing.assert_allclose(adapted_to_channels(kernel, channels), expected, rtol=1e-6)


def test_default_weights_are_those_that_timm_takes_for_a_bare_name(theirs: ModuleType) -> None:
    import timm
    from timm.models import get_pretrained_cfg

    found = {name: get_pretrained_cfg(name) for name in list_models() if timm.is_model(name)}
    there = {name: cfg.tag for name, cfg in found.items()
             if cfg is not None and cfg.has_weights and (cfg.hf_hub_id or "").startswith("timm/")}
    assert there == {name: entry.default for name, entry in timm_weights().items() if name in found and entry.default}
