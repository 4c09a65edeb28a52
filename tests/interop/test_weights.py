"""Published names and layouts into a model's variables, and back."""

import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, save_weights, to_state_dict
from cvjax.interop.families.registry import family_of, register
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.vit import VisionTransformer
from cvjax.ops.position import resize_positions

TINY = dict(image_size=8, patch_size=4, width=8, depth=1, heads=2)
MAE = MaskedAutoencoder(**TINY, decoder_width=4, decoder_depth=1, decoder_heads=2)


def vit(**fields: Any) -> VisionTransformer:
    return VisionTransformer(**dict(TINY, num_classes=3) | fields)


def variables_of(model: nn.Module) -> Any:
    """Random numbers in the place of every parameter."""
    images = jnp.zeros((1, 8, 8, 3))
    inputs = (images, jnp.zeros((1, 4))) if isinstance(model, MaskedAutoencoder) else (images,)
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), variables)


@pytest.fixture(scope="module")
def mae_variables() -> Any:
    return variables_of(MAE)


@pytest.fixture(scope="module")
def vit_variables() -> Any:
    return variables_of(vit())


def assert_equal(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("model", [
    MAE, vit(), vit(pool="avg", qk_norm=True, layer_scale=0.1), vit(num_classes=0, position="sincos2d"),
], ids=["mae", "vit", "vit_average", "vit_fixed_positions"])
def test_out_and_in_is_bit_exact(model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    variables = variables_of(model)
    save_weights(variables, model, tmp_path / "w.safetensors")
    assert_equal(load_weights(model, tmp_path / "w.safetensors"), variables)
    assert not caplog.records


def test_names_and_layouts_are_the_authors(mae_variables: Any) -> None:
    weights = to_state_dict(mae_variables, MAE)
    shapes = {name: array.shape for name, array in weights.items() if "blocks" not in name}
    assert shapes == {
        "cls_token": (1, 1, 8), "pos_embed": (1, 5, 8), "patch_embed.proj.weight": (8, 3, 4, 4),
        "patch_embed.proj.bias": (8,), "norm.weight": (8,), "norm.bias": (8,), "decoder_embed.weight": (4, 8),
        "decoder_embed.bias": (4,), "mask_token": (1, 1, 4), "decoder_pos_embed": (1, 5, 4),
        "decoder_norm.weight": (4,), "decoder_norm.bias": (4,), "decoder_pred.weight": (48, 4),
        "decoder_pred.bias": (48,),
    }
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert set(weights) - set(shapes) == {f"{stack}.0.{layer}.{leaf}" for stack in ("blocks", "decoder_blocks")
                                          for layer in layers for leaf in ("weight", "bias")}
    kernel = mae_variables["params"]["encoder"]["patch_embed"]["proj"]["kernel"]
    row, column, channel = 1, 2, 0
    np.testing.assert_array_equal(weights["patch_embed.proj.weight"][:, channel, row, column],
                                  kernel[(row * 4 + column) * 3 + channel])


def test_an_encoder_takes_an_mae_file(mae_variables: Any, caplog: pytest.LogCaptureFixture) -> None:
    weights = to_state_dict(mae_variables, MAE)
    variables = load_weights(vit(), weights)
    encoder = mae_variables["params"]["encoder"]
    np.testing.assert_array_equal(variables["params"].pop("pos_embed"), weights["pos_embed"])
    assert variables["params"].pop("head")["kernel"].shape == (8, 3)
    assert_equal(variables["params"], encoder)
    fresh, ignored = caplog.records[-1].message.removeprefix("weights of VisionTransformer: ").split("; ")
    assert fresh == "fresh: head.bias, head.weight"
    assert set(ignored.removeprefix("ignored: ").split(", ")) == {
        name for name in weights if name.startswith("decoder_") or name == "mask_token"}

    assert_equal(load_weights(MAE.vit(), weights)["params"], encoder)
    average = load_weights(vit(pool="avg"), weights)["params"]
    assert_equal(average["blocks"], encoder["blocks"])
    np.testing.assert_array_equal(average["fc_norm"]["scale"], np.ones(8))


def test_a_name_in_a_file_steers_no_terminal(mae_variables: Any, caplog: pytest.LogCaptureFixture) -> None:
    load_weights(vit(), to_state_dict(mae_variables, MAE) | {"decoder_\x1b[31mred": np.zeros(1)})
    assert r"decoder_\x1b[31mred" in caplog.records[-1].message


def test_half_precision_weights_become_float32(mae_variables: Any) -> None:
    weights = {name: array.astype(jnp.bfloat16) for name, array in to_state_dict(mae_variables, MAE).items()}
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), mae_variables)
    assert_equal(load_weights(MAE, weights), rounded)


def test_a_head_of_other_classes_starts_fresh(vit_variables: Any, caplog: pytest.LogCaptureFixture) -> None:
    weights = to_state_dict(vit_variables, vit())
    model = vit(num_classes=7)
    first, second = (load_weights(model, weights, rng=jax.random.key(seed))["params"] for seed in (0, 1))
    assert "fresh: head.bias, head.weight" in caplog.records[-1].message
    heads = [params.pop("head") for params in (first, second)]
    assert heads[0]["kernel"].shape == (8, 7)
    assert not np.array_equal(heads[0]["kernel"], heads[1]["kernel"])
    assert_equal(first, second)
    assert "head" not in load_weights(vit(num_classes=0), weights)["params"]
    assert "ignored: head.bias, head.weight" in caplog.records[-1].message


def test_positions_of_another_grid_are_resized(vit_variables: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_weights(vit(image_size=(8, 12)), to_state_dict(vit_variables, vit()))
    positions, stored = loaded["params"]["pos_embed"], vit_variables["params"]["pos_embed"]
    np.testing.assert_array_equal(positions[:, :1], stored[:, :1])
    np.testing.assert_array_equal(positions[0, 1:], resize_positions(stored[0, 1:], (2, 2), (2, 3)))
    assert "resized: pos_embed" in caplog.records[-1].message


def test_all_that_does_not_fit_is_said_at_once(vit_variables: Any) -> None:
    weights = to_state_dict(vit_variables, vit())
    del weights["norm.weight"], weights["blocks.0.mlp.fc1.bias"]
    weights |= {"blocks.1.norm1.bias": np.zeros(8), "extra": np.zeros(1), "cls_token": np.zeros((1, 1, 9)),
                "pos_embed": np.zeros((1, 4, 8))}
    with pytest.raises(ValueError) as error:
        load_weights(vit(), weights)
    message = str(error.value)
    assert "\n" not in message and message.startswith("the weights do not fit VisionTransformer: ")
    lists = dict(re.findall(r"(missing|unexpected|of another shape): (.*?)(?:; |$)", message))
    assert set(lists["missing"].split(", ")) == {"norm.weight", "blocks.0.mlp.fc1.bias"}
    assert set(lists["unexpected"].split(", ")) == {"blocks.1.norm1.bias", "extra"}
    assert "cls_token (1, 1, 9) (the model has (1, 1, 8))" in lists["of another shape"]
    assert "pos_embed (1, 4, 8) (the model has (1, 5, 8))" in lists["of another shape"]


def test_an_mae_needs_its_decoder_and_knows_no_head(mae_variables: Any) -> None:
    weights = {name: array for name, array in to_state_dict(mae_variables, MAE).items() if name != "mask_token"}
    with pytest.raises(ValueError, match="missing: mask_token; unexpected: head.weight$"):
        load_weights(MAE, weights | {"head.weight": np.zeros((3, 8))})


@pytest.mark.parametrize("model", [MAE, MAE.vit()], ids=["mae", "encoder"])
def test_fixed_positions_must_be_the_same(mae_variables: Any, model: nn.Module) -> None:
    weights = to_state_dict(mae_variables, MAE)
    weights["pos_embed"] = weights["pos_embed"][:, [0, 1, 3, 2, 4]]  # rows and columns in the other order
    with pytest.raises(ValueError, match="of other values than the model computes: pos_embed$"):
        load_weights(model, weights)
    with pytest.raises(ValueError, match=r"pos_embed \(1, 10, 8\) \(the model has \(1, 5, 8\)\)$"):
        load_weights(model, weights | {"pos_embed": np.zeros((1, 10, 8))})


def test_what_cannot_be_done_is_refused(vit_variables: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weight table for Dense; there are tables for .*VisionTransformer"):
        load_weights(nn.Dense(3), {})
    with pytest.raises(ValueError, match="can be saved as .safetensors, not as '.pth'"):
        save_weights(vit_variables, vit(), tmp_path / "w.pth")


def test_a_kind_of_model_has_one_table() -> None:
    with pytest.raises(ValueError, match="^VisionTransformer is registered twice: each kind of model must have one"):
        register(VisionTransformer, family_of(MAE))
