"""Other publishers' names of ViT and Swin, and tables of another window or another grid."""

import logging
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, save_weights, to_state_dict
from cvjax.models.images import as_pair
from cvjax.models.swin import SwinTransformer
from cvjax.models.vit import VisionTransformer
from cvjax.ops.position import resize_positions
from cvjax.ops.windows import relative_position_index, resize_relative_positions

VIT = VisionTransformer(image_size=8, patch_size=4, width=8, depth=1, heads=2, num_classes=3)
SWIN = SwinTransformer(image_size=32, width=4, depths=(1, 2, 1), heads=(1, 2, 2), window=3, num_classes=3)
TABLE = "relative_position_bias_table"


def variables_of(model: nn.Module) -> Any:
    """Random numbers in the place of every parameter."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *as_pair(model.image_size), 3)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


def assert_equal(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert all(map(np.array_equal, jax.tree.leaves(left), jax.tree.leaves(right)))


@pytest.mark.parametrize("model, layout", [
    (VIT, "timm"), (VIT, "torchvision"), (VIT, "torchvision-0.13"),
    (VIT.clone(position="sincos2d", num_classes=0), "torchvision"), (VIT.clone(distilled=True), "timm"),
    (VIT.clone(class_token=False, pool="map", registers=2, prefix_positions=False, pre_norm=True), "timm"),
    (SWIN, "timm"), (SWIN, "torchvision"), (SWIN, "official"),
])
def test_out_and_in_is_bit_exact(model: nn.Module, layout: str, tmp_path: Path,
                                 caplog: pytest.LogCaptureFixture) -> None:
    variables = variables_of(model)
    save_weights(variables, model, tmp_path / "w.safetensors", layout)
    assert_equal(load_weights(model, tmp_path / "w.safetensors"), variables)
    assert not caplog.records


def test_torchvisions_names_of_a_vit() -> None:
    assert {name: array.shape for name, array in to_state_dict(variables_of(VIT), VIT, "torchvision").items()} == {
        "class_token": (1, 1, 8), "conv_proj.weight": (8, 3, 4, 4), "conv_proj.bias": (8,),
        "encoder.pos_embedding": (1, 5, 8), "encoder.ln.weight": (8,), "encoder.ln.bias": (8,),
        "heads.head.weight": (3, 8), "heads.head.bias": (3,),
    } | {f"encoder.layers.encoder_layer_0.{name}": shape for name, shape in {
        "ln_1.weight": (8,), "ln_1.bias": (8,), "self_attention.in_proj_weight": (24, 8),
        "self_attention.in_proj_bias": (24,), "self_attention.out_proj.weight": (8, 8),
        "self_attention.out_proj.bias": (8,), "ln_2.weight": (8,), "ln_2.bias": (8,), "mlp.0.weight": (32, 8),
        "mlp.0.bias": (32,), "mlp.3.weight": (8, 32), "mlp.3.bias": (8,)}.items()}
    old = to_state_dict(variables_of(VIT), VIT, "torchvision-0.13")
    assert old["encoder.layers.encoder_layer_0.mlp.linear_2.bias"].shape == (8,)


def test_the_authors_of_swin_merge_at_the_end_of_a_stage() -> None:
    timm, official, torchvision = (to_state_dict(variables_of(SWIN), SWIN, layout)
                                   for layout in ("timm", "official", "torchvision"))
    for stage in (0, 1):
        merge = official[f"layers.{stage}.downsample.reduction.weight"]
        np.testing.assert_array_equal(merge, timm[f"layers.{stage + 1}.downsample.reduction.weight"])
        np.testing.assert_array_equal(merge, torchvision[f"features.{2 * stage + 2}.reduction.weight"])
    np.testing.assert_array_equal(official["head.weight"], timm["head.fc.weight"])
    assert len(timm) == len(torchvision) - 4 == len(official) - 5, "four index tables, and the authors' mask"
    index = torchvision["features.3.1.attn.relative_position_index"]
    np.testing.assert_array_equal(index, relative_position_index((3, 3)).reshape(-1))


def test_a_swin_for_other_images_and_classes_takes_the_weights(caplog: pytest.LogCaptureFixture) -> None:
    """Its tables are resized, its head is new, and the tables of indices and masks in a file are of no use."""
    variables = variables_of(SWIN)
    other = SWIN.clone(image_size=(64, 16), window=5, num_classes=7)  # windows of 5x4, 5x2 and 4x1
    for layout in ("torchvision", "official"):
        weights = to_state_dict(variables, SWIN, layout)
        if layout == "official":
            weights |= {"layers.0.blocks.0.attn.relative_position_index": np.zeros((9, 9), np.int64),
                        "layers.1.blocks.1.attn_mask": np.zeros((4, 9, 9))}
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            loaded = load_weights(other, weights)["params"]
        assert loaded.pop("head")["kernel"].shape == (16, 7)
        message = caplog.records[-1].message
        assert message.count(TABLE) == 4 and "fresh: head.bias, head.weight" in message
        assert "relative_position_index" in message.split("resized")[0]
        for stage, window in enumerate(other.windows):
            for name, block in loaded["layers"][str(stage)]["blocks"].items():
                before = variables["params"]["layers"][str(stage)]["blocks"][name]["attn"]
                resized = resize_relative_positions(np.asarray(before[TABLE]), SWIN.windows[stage], window)
                np.testing.assert_array_equal(block["attn"][TABLE], resized)
                np.testing.assert_array_equal(block["attn"]["qkv"]["kernel"], before["qkv"]["kernel"])
        np.testing.assert_array_equal(loaded["norm"]["scale"], variables["params"]["norm"]["scale"])


def test_what_cannot_be_resized_is_said() -> None:
    weights = to_state_dict(variables_of(SWIN), SWIN)
    name = f"layers.0.blocks.0.attn.{TABLE}"
    for rows, heads in ((15, 1), (49, 3)):  # of a window of 2x3; of another number of heads
        with pytest.raises(ValueError, match=rf"shape: {name} \({rows}, {heads}\) \(the model has \(25, 1\)\)$"):
            load_weights(SWIN, weights | {name: np.zeros((rows, heads))})


def test_torchvisions_positions_are_resized_and_its_head_is_known(caplog: pytest.LogCaptureFixture) -> None:
    variables = variables_of(VIT)
    loaded = load_weights(VIT.clone(image_size=(8, 12), num_classes=5), to_state_dict(variables, VIT, "torchvision"))
    stored = variables["params"]["pos_embed"]
    expected = resize_positions(stored[0, 1:], (2, 2), (2, 3), "torchvision")
    np.testing.assert_array_equal(loaded["params"]["pos_embed"][0, 1:], expected)
    assert "fresh: heads.head.bias, heads.head.weight; resized: encoder.pos_embedding" in caplog.records[-1].message
    average = load_weights(VIT.clone(pool="avg", num_classes=0), to_state_dict(variables, VIT, "torchvision"))
    assert_equal(average["params"]["blocks"], variables["params"]["blocks"])


def test_positions_know_the_grid_they_were_learnt_on(tmp_path: Path) -> None:
    """6x10 positions are as many as 10x6: a file of one for the other is resized, not read row by row."""
    wide, high = VIT.clone(image_size=(24, 40)), VIT.clone(image_size=(40, 24))
    variables = variables_of(wide)
    grid = np.random.default_rng(0).standard_normal((6, 10, 8)).astype(np.float32)
    pos = variables["params"]["pos_embed"]
    variables["params"]["pos_embed"] = pos.at[0, 1:].set(grid.reshape(60, 8))
    expected = resize_positions(jnp.asarray(grid.reshape(60, 8)), (6, 10), (10, 6))
    save_weights(variables, wide, tmp_path / "w.safetensors")
    found = load_weights(high, tmp_path / "w.safetensors")["params"]["pos_embed"]
    np.testing.assert_array_equal(found[0, 1:], expected)
    arrays = to_state_dict(variables, wide)
    np.testing.assert_array_equal(load_weights(high, arrays, trained=(24, 40))["params"]["pos_embed"], found)
    assert_equal(load_weights(wide, tmp_path / "w.safetensors"), variables)
    square = load_weights(VIT.clone(image_size=16), tmp_path / "w.safetensors")["params"]["pos_embed"]
    np.testing.assert_array_equal(
        square[0, 1:], resize_positions(jnp.asarray(grid.reshape(60, 8)), (6, 10), (4, 4)))


def test_positions_of_patches_alone_are_resized_without_a_class_token_among_them() -> None:
    model = VIT.clone(registers=2, prefix_positions=False)
    variables = variables_of(model)
    loaded = load_weights(model.clone(image_size=(8, 12)), to_state_dict(variables, model))["params"]
    stored = variables["params"]["pos_embed"][0]
    np.testing.assert_array_equal(loaded["pos_embed"][0], resize_positions(stored, (2, 2), (2, 3)))
    np.testing.assert_array_equal(loaded["reg_token"], variables["params"]["reg_token"])


def test_both_heads_of_other_classes_start_fresh_and_an_unused_pool_is_ignored(
        caplog: pytest.LogCaptureFixture) -> None:
    model = VIT.clone(distilled=True)
    loaded = load_weights(model.clone(num_classes=5), to_state_dict(variables_of(model), model))["params"]
    assert loaded["head_dist"]["kernel"].shape == (8, 5)
    assert "fresh: head.bias, head.weight, head_dist.bias, head_dist.weight" in caplog.records[-1].message
    model = VIT.clone(class_token=False, pool="map")
    load_weights(model.clone(pool="avg"), to_state_dict(variables_of(model), model))
    assert "ignored: attn_pool." in caplog.records[-1].message


def test_torchvision_has_no_names_for_what_came_later() -> None:
    model = VIT.clone(registers=2)
    with pytest.raises(ValueError, match="no layout 'torchvision' for VisionTransformer: there is timm$"):
        to_state_dict(variables_of(model), model, "torchvision")


def test_a_tree_of_gradients_has_no_fixed_tables() -> None:
    model = VIT.clone(position="sincos2d")
    gradients = jax.tree.map(jnp.zeros_like, variables_of(model))
    assert "pos_embed" in to_state_dict(gradients, model)
    names = to_state_dict(gradients, model, constants=False)
    assert "pos_embed" not in names and all(not array.any() for array in names.values())


def test_the_authors_of_swin_get_the_buffers_that_their_strict_load_wants() -> None:
    """Figure 4: windows of 2 on a map of 4, shifted by 1, whose last window holds four parts of the image."""
    model = SwinTransformer(image_size=16, patch_size=4, width=4, depths=(2, 2), heads=(1, 1), window=2, num_classes=3)
    buffers = {name: array for name, array in to_state_dict(variables_of(model), model, "official").items()
               if name.endswith(("attn_mask", "relative_position_index"))}
    indices = {f"layers.{i}.blocks.{j}.attn.relative_position_index" for i in (0, 1) for j in (0, 1)}
    assert set(buffers) == indices | {"layers.0.blocks.1.attn_mask"}
    mask = buffers["layers.0.blocks.1.attn_mask"]
    np.testing.assert_array_equal(mask[0], np.zeros((4, 4)))  # in the middle of the image
    np.testing.assert_array_equal(mask[3], np.float32(-100) * (1 - np.eye(4)))
    np.testing.assert_array_equal(buffers["layers.0.blocks.0.attn.relative_position_index"],
                                  [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]])
