"""Models by name: what they are called, how many parameters they have, and what importing them costs."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from cvjax.models import create_model, list_models
from cvjax.models.mae import MaskedAutoencoder

# ViT: what timm's models of these names have (1000 classes). MAE: the authors' models without their two fixed
# position tables; `tiny` and `small` are not theirs.
COUNTS = {
    "mae_vit_base_patch16": 111_655_680,
    "mae_vit_huge_patch14": 656_613_964,
    "mae_vit_large_patch16": 329_239_296,
    "mae_vit_small_patch16": 47_401_728,
    "mae_vit_tiny_patch16": 31_200_000,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_384": 86_859_496,
    "vit_base_patch32_224": 88_224_232,
    "vit_base_patch32_384": 88_297_192,
    "vit_base_patch8_224": 86_576_872,
    "vit_huge_patch14_224": 632_045_800,
    "vit_large_patch14_224": 304_203_752,
    "vit_large_patch16_224": 304_326_632,
    "vit_large_patch16_384": 304_715_752,
    "vit_large_patch32_224": 306_535_400,
    "vit_large_patch32_384": 306_632_680,
    "vit_small_patch16_224": 22_050_664,
    "vit_small_patch16_384": 22_196_584,
    "vit_small_patch32_224": 22_878_952,
    "vit_small_patch32_384": 22_915_432,
    "vit_small_patch8_224": 22_055_272,
    "vit_tiny_patch16_224": 5_717_416,
    "vit_tiny_patch16_384": 5_790_376,
}


def test_every_name_has_a_count() -> None:
    assert list_models() == sorted(COUNTS)


@pytest.mark.parametrize("name", list_models())
def test_parameter_count(name: str) -> None:
    model = create_model(name)
    inputs = [jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)]
    if isinstance(model, MaskedAutoencoder):
        inputs.append(jax.ShapeDtypeStruct((1, math.prod(model.grid)), jnp.float32))
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == COUNTS[name]
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


def test_patterns() -> None:
    assert list_models("mae_*") == [name for name in sorted(COUNTS) if name.startswith("mae_")]
    assert list_models("vit_tiny*224") == ["vit_tiny_patch16_224"]
    assert list_models("nothing*") == []


def test_fields_are_replaced() -> None:
    model = create_model("vit_tiny_patch16_224", num_classes=7, image_size=(32, 48))
    assert (model.num_classes, model.image_size, model.width, model.patch_size) == (7, (32, 48), 192, 16)


def test_an_unknown_name_is_met_with_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown model 'vit_smal_patch16': did you mean vit_small_patch16_"):
        create_model("vit_smal_patch16")
    with pytest.raises(ValueError, match=r"unknown model 'qqq': list_models\(\) names all"):
        create_model("qqq")


def test_an_unknown_field_is_met_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 has no field classes, parent; it has .*num_classes"):
        create_model("vit_tiny_patch16_224", classes=10, parent=None)


def test_models_need_jax_flax_and_numpy_alone() -> None:
    heavy = ("tensorflow", "torch", "matplotlib", "sklearn", "grain", "orbax.checkpoint", "optax", "PIL",
             "cvjax.data", "cvjax.train", "cvjax.losses", "cvjax.interop")
    program = f"import sys, cvjax.models; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
