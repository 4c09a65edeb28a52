"""Repositories that `transformers` writes, tiny ones with random weights, read here: `pytest -m parity`.

Logits and features agree to 1e-4 and gradients to 1e-3 of their largest magnitude: both sides are in float32, with sums
in another order and some norms' epsilon of 1e-12 in the place of 1e-6.
"""

import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from cvjax.data.crops import EvaluationCrop
from cvjax.data.preprocessing import Preprocessing
from cvjax.interop import create_pretrained, open_published, read_state_dict, to_state_dict
from cvjax.workflow.normalization import normalized
from tests.interop.transformers_names import STORED

pytestmark = pytest.mark.parity

TOWER = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, image_size=16,
             patch_size=4)
DINO = {key: value for key, value in TOWER.items() if key != "intermediate_size"}
TEXT = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9,
            bos_token_id=0, eos_token_id=1)
CONVNEXT = dict(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2, image_size=32)
SWIN = dict(embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=2, image_size=32, patch_size=4)
RESNET = dict(embedding_size=8, depths=[2, 1])

VIT = dict(width=12, depth=2, heads=3, mlp_ratio=20.5 / 12, patch_size=4)
OUR_SWIN = dict(width=8, depths=(2, 2), heads=(2, 4), window=2)
OUR_CONVNEXT = dict(widths=(8, 12), depths=(1, 2))

# Their class, its configuration, a registered name here and what makes it so small. What is not compared is in a file
# but of no use here: poolers, mask tokens, another tower.
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", TOWER, "vit_tiny_patch16_224", VIT),
    "vit_alone": ("ViTModel", TOWER, "vit_tiny_patch16_224", VIT),
    "vit_without_bias": ("ViTForImageClassification", TOWER | dict(qkv_bias=False, hidden_act="gelu_new"),
                         "vit_base_patch16_224_miil", VIT),
    "vit_mae": ("ViTMAEModel", TOWER | dict(mask_ratio=0.0), "vit_base_patch16_224", VIT),
    "vit_msn": ("ViTMSNForImageClassification", TOWER, "vit_small_patch16_224", VIT),
    "ijepa": ("IJepaForImageClassification", TOWER, "vit_huge_patch14_gap_224", VIT),
    "deit": ("DeiTForImageClassificationWithTeacher", TOWER, "deit_tiny_distilled_patch16_224", VIT),
    "dinov2": ("Dinov2Model", DINO, "vit_small_patch14_dinov2", VIT | dict(mlp_ratio=4)),
    "dinov2_gated": ("Dinov2Model", DINO | dict(use_swiglu_ffn=True), "vit_giant_patch14_dinov2",
                     VIT | dict(mlp_ratio=64.5 / 12)),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", DINO, "vit_small_patch14_reg4_dinov2",
                              VIT | dict(mlp_ratio=4)),
    "dinov2_classifier": ("Dinov2ForImageClassification", DINO, "vit_small_patch14_dinov2", VIT | dict(mlp_ratio=4)),
    "dinov2_with_registers_classifier": ("Dinov2WithRegistersForImageClassification", DINO,
                                         "vit_small_patch14_reg4_dinov2", VIT | dict(mlp_ratio=4)),
    "dinov3": ("DINOv3ViTModel", TOWER | dict(num_register_tokens=4), "vit_small_patch16_dinov3_qkvb", VIT),
    "dinov3_gated": ("DINOv3ViTModel", TOWER | dict(num_register_tokens=4, use_gated_mlp=True, hidden_act="silu",
                                                    query_bias=False, value_bias=False),
                     "vit_huge_plus_patch16_dinov3", VIT),
    "swin": ("SwinForImageClassification", SWIN, "swin_tiny_patch4_window7_224", OUR_SWIN),
    "convnext": ("ConvNextForImageClassification", CONVNEXT, "convnext_tiny", OUR_CONVNEXT),
    "convnextv2": ("ConvNextV2ForImageClassification", CONVNEXT, "convnextv2_atto", OUR_CONVNEXT),
    "resnet_basic": ("ResNetForImageClassification", RESNET | dict(hidden_sizes=[8, 16], layer_type="basic"),
                     "resnet18", dict(depths=(2, 1), width=8, image_size=32)),
    "resnet_bottleneck": ("ResNetForImageClassification", RESNET | dict(hidden_sizes=[32, 64]), "resnet50",
                          dict(depths=(2, 1), width=8, image_size=32)),
    "clip": ("CLIPVisionModelWithProjection", TOWER | dict(projection_dim=5), "vit_base_patch32_clip_quickgelu_224",
             VIT),
    "siglip": ("SiglipVisionModel", TOWER, "vit_base_patch16_siglip_224", VIT),
    "siglip_classifier": ("SiglipForImageClassification", dict(vision_config=TOWER, text_config=TEXT),
                          "vit_base_patch16_siglip_gap_224", VIT),
}
UNUSED = r"pooler\.|mask_token|text_model\.|logit_|vision_model\.head\."


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    """transformers, after what torchvision needs before it."""
    pytest.importorskip("torch")
    import torchvision_operators  # noqa: F401  # isort: skip
    return pytest.importorskip("transformers")


def network(transformers: ModuleType, name: str, config: dict[str, Any]) -> Any:
    """One of their networks, every parameter and statistic random."""
    import torch

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    labels = {} if "Classification" not in name else {"num_labels": 5}
    model = kind(kind.config_class(**config, **labels)).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn_like(tensor) * 0.3
                tensor.add_(noise.abs() if key.endswith(("running_var", "norm.weight")) else noise)
    return model


def answer(model: Any, pixels: Any) -> Any:
    """Logits, what CLIP shares with texts, or the features that a classifier would see."""
    given = {"noise": None} if "MAE" in type(model).__name__ else {}
    out = model(pixel_values=pixels, **given)
    for name in ("logits", "image_embeds", "pooler_output"):
        if getattr(out, name, None) is not None and not (name == "pooler_output" and "ViT" in type(model).__name__):
            return getattr(out, name)
    return out.last_hidden_state[:, 0]


def gradients(model: Any, folder: Path) -> dict[str, np.ndarray]:
    """Those of the parameters by the names of files: they are saved in the parameters' place."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model.save_pretrained(folder)
    return safetensors.numpy.load_file(folder / "model.safetensors")


def assert_close(found: Any, expected: Any, tolerance: float, name: str = "", like: Any = None) -> None:
    """like: whose largest magnitude the distance is relative to, in the place of `expected`."""
    scale = np.abs(expected if like is None else like).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_theirs(case: str, transformers: ModuleType, tmp_path: Path) -> None:
    import torch

    kind, config, name, fields = CASES[case]
    theirs = network(transformers, kind, config)
    theirs.save_pretrained(tmp_path)
    size = getattr(theirs.config, "image_size", None) or getattr(
        getattr(theirs.config, "vision_config", None), "image_size", 32)
    pixels = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    expected = answer(theirs, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    direction = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    (expected * torch.from_numpy(direction)).sum().backward()

    found = create_pretrained(name, tmp_path, **fields)
    assert found.model.num_classes == (expected.shape[1] if "Classification" in kind or case == "clip" else 0)
    assert found.model.image_size == size or case.startswith("resnet")
    if case == "dinov2_with_registers":  # they would have antialiased what is only copied
        assert open_published(tmp_path).position_resize == "timm"

    @jax.jit
    def both(params: Any) -> Any:
        def projected(params: Any) -> Any:
            out = found.model.apply({**found.variables, "params": params}, pixels)
            return jnp.vdot(out, direction), out

        return jax.grad(projected, has_aux=True)(params)

    grads, out = both(found.variables["params"])
    assert_close(out, expected.detach().numpy(), 1e-4)

    layout = "transformers_ijepa" if case == "ijepa" else "transformers"
    ours = found.model.clone(num_classes=0) if case == "clip" else found.model  # its head has a bias here
    if case == "clip":
        grads = {key: value for key, value in grads.items() if key != "head"}
    reached = to_state_dict({"params": grads}, ours, layout)
    there = gradients(theirs, tmp_path / "gradients")
    base = re.compile(r"^(vision_model|vit|dinov2(_with_registers)?)\.")
    plain, reached = ({base.sub("", key): value for key, value in arrays.items()} for arrays in (there, reached))
    if case.startswith("dinov2_with_registers"):  # the class token's position is part of the token here
        plain["embeddings.position_embeddings"][:, 0] = 0
    if case == "vit_mae":  # there they are fixed, and stored
        del reached["embeddings.position_embeddings"], plain["embeddings.position_embeddings"]
    for key, value in reached.items():
        # Softmax does not see a bias of the keys: its gradient is rounding alone, and is judged as the queries' is.
        query = re.sub(r"\.key\.bias$", ".query.bias", key).replace(".k_proj.bias", ".q_proj.bias")
        assert_close(value, plain[key], 1e-3, key, like=plain[query])
    named = set(reached)
    rest = {key for key in plain if key not in named and not re.search("running_|num_batches", key)}
    assert all(re.search(UNUSED, f"vision_model.{key}") or key == "visual_projection.weight" for key in rest), rest


def test_a_whole_clip_and_older_files_are_read(transformers: ModuleType, tmp_path: Path) -> None:
    """Its image tower alone, and the same from a pickle in the place of safetensors."""
    import torch

    theirs = network(transformers, "CLIPModel", dict(vision_config=TOWER, text_config=TEXT, projection_dim=5))
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.vision_model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).pooler_output
        expected = theirs.visual_projection(expected).numpy()
    state = {name: torch.from_numpy(np.array(array))
             for name, array in read_state_dict(tmp_path / "model.safetensors").items()}
    found = create_pretrained("vit_base_patch32_clip_quickgelu_224", tmp_path, **VIT)
    assert_close(found.model.apply(found.variables, pixels), expected, 1e-4)
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    again = create_pretrained("vit_base_patch32_clip_quickgelu_224", tmp_path, **VIT)
    assert all(map(np.array_equal, jax.tree.leaves(again.variables), jax.tree.leaves(found.variables)))


@pytest.mark.parametrize("kind, config, name, size", [
    ("ViTModel", TOWER, "vit_tiny_patch16_224", 24), ("Dinov2Model", DINO, "vit_small_patch14_dinov2", 24),
    ("Dinov2WithRegistersModel", DINO, "vit_small_patch14_reg4_dinov2", 24),
    ("Dinov2WithRegistersModel", DINO, "vit_small_patch14_reg4_dinov2", 8)])
def test_images_of_another_size_are_seen_as_they_see_them(kind: str, config: dict[str, Any], name: str, size: int,
                                                          transformers: ModuleType, tmp_path: Path) -> None:
    import torch

    theirs = network(transformers, kind, config)
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).standard_normal((1, size, size, 3)).astype(np.float32)
    given = {"interpolate_pos_encoding": True} if kind == "ViTModel" else {}
    with torch.no_grad():
        expected = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2), **given).last_hidden_state[:, 0].numpy()
    fields = VIT if kind == "ViTModel" else VIT | dict(mlp_ratio=4)
    found = create_pretrained(name, tmp_path, **fields, image_size=size)
    assert_close(found.model.apply(found.variables, pixels), expected, 1e-4)


@pytest.mark.parametrize("kind, options", [
    ("ViT", {}), ("DeiT", {}), ("Bit", dict(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})),
    ("ConvNext", dict(size={"shortest_edge": 224}, crop_pct=0.9)), ("ConvNext", {}), ("CLIP", {}), ("Siglip", {}),
    ("ViT", dict(do_normalize=False, do_rescale=False))])
def test_a_photo_becomes_what_their_processor_makes(kind: str, options: dict[str, Any], transformers: ModuleType,
                                                    tmp_path: Path) -> None:
    """By Pillow on both sides, within one level of 255, which both round to."""
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    processor.save_pretrained(tmp_path)
    transformers.ViTConfig().save_pretrained(tmp_path)
    safetensors.numpy.save_file({"layernorm.weight": np.ones(768, np.float32)}, tmp_path / "model.safetensors")
    y, x = np.mgrid[:267, :401] / 40
    photo = np.stack([np.sin(x * x + y), np.cos(x * y), np.sin(3 * x + y * y)], axis=-1)
    photo = Image.fromarray(np.uint8(127.5 + 127 * photo))
    expected = processor(photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    published = open_published(tmp_path)
    how, whose = published.preprocessing("vit_base_patch16_224")
    assert whose.startswith("preprocessor_config.json of ") and published.image_size == len(expected)
    file = io.BytesIO()
    photo.save(file, "PNG")
    seen = EvaluationCrop(len(expected), 3, how)(file.getvalue())
    found = np.asarray(normalized(seen[None], how))[0]
    level = np.float32(1.01 / 255) / np.asarray(how.std, np.float32)
    assert np.all(np.abs(found - expected) <= level), np.abs(found - expected).max()
    usual = np.asarray(normalized(seen[None], Preprocessing((0.4,), (0.3,))))[0]
    assert np.abs(usual - expected).max() > 3 * level.max()


def test_what_is_stored_is_what_they_write(transformers: ModuleType) -> None:
    import make_transformers_names

    assert make_transformers_names.content() == STORED


def test_the_guides_example_for_those_who_come_from_flax(
        transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a repository of a ViT-Ti of two blocks in the place of that on the hub."""
    import torch

    from cvjax.models.registry import _MODELS
    from cvjax.models.vit import TINY, VisionTransformer

    monkeypatch.setitem(_MODELS, "vit_docs_patch16_224", (VisionTransformer, TINY | dict(depth=2)))
    guide = (Path(__file__).parents[2] / "docs/guides/weights.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```py\n(.*?)```", guide, re.S)
    theirs = network(transformers, "ViTForImageClassification", dict(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768))
    theirs.save_pretrained(tmp_path)
    assert "hf-hub:google/vit-base-patch16-224" in block and "np.zeros(" in block
    block = block.replace("hf-hub:google/vit-base-patch16-224", str(tmp_path)).replace("np.zeros(", "np.ones(")
    place: dict[str, Any] = {}
    exec(compile(block, "guide", "exec"), place)
    with torch.no_grad():
        expected = theirs(torch.ones(1, 3, 224, 224))
        last = theirs.vit(torch.ones(1, 3, 224, 224)).last_hidden_state
    assert_close(place["logits"], expected.logits.numpy(), 1e-4)
    assert_close(place["tokens"], last.numpy(), 1e-4)
