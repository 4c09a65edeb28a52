"""cvjax against timm and the torch MAE, side by side: `pytest -m parity tests/parity` where torch is.

Full sizes are marked slow as well: `pytest -m "parity and slow"`.
"""

from pathlib import Path
from types import ModuleType

import jax
import jax_side
import numpy as np
import pytest
from cases import MAE_CASES, VIT_CASES, MaeCase, VitCase
from deterministic_weights import fill

from cvjax.interop import load_weights, save_weights, to_state_dict
from cvjax.models import create_model, list_models

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def theirs(torch: ModuleType) -> ModuleType:
    """The module torch_side, which needs torch, torchvision and timm."""
    import torch_side

    return torch_side


@pytest.fixture(scope="module")
def timm(theirs: ModuleType) -> ModuleType:
    import timm

    return timm


@pytest.mark.parametrize("case", MAE_CASES, ids=lambda case: case.name)
def test_mae_outputs_and_gradients(case: MaeCase, theirs: ModuleType) -> None:
    numbers = theirs.mae_numbers(case)
    jax_side.assert_same(jax_side.mae_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


@pytest.mark.parametrize("case", VIT_CASES, ids=lambda case: case.name)
def test_vit_outputs_and_gradients(case: VitCase, theirs: ModuleType) -> None:
    numbers = theirs.vit_numbers(case)
    jax_side.assert_same(jax_side.vit_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


@pytest.mark.slow
def test_mae_vit_base_patch16_outputs_and_gradients(theirs: ModuleType) -> None:
    case = MaeCase("mae_vit_base_patch16", image_size=(224, 224), patch_size=16, width=768, depth=12, heads=12,
                   decoder_width=512, decoder_depth=8, decoder_heads=16)
    numbers = theirs.mae_numbers(case)
    jax_side.assert_same(jax_side.mae_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch32_224"])
def test_full_size_vit_forward(name: str, torch: ModuleType, timm: ModuleType, theirs: ModuleType) -> None:
    reference = timm.create_model(name, num_classes=1000).eval()
    weights = fill(theirs.parameter_shapes(reference))
    reference.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    images = VitCase(name, image_size=(224, 224)).inputs()["images"]
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    model = create_model(name)
    logits = jax.jit(model.apply)(load_weights(model, weights), images)
    jax_side.assert_same({"logits": np.asarray(logits)}, {"logits": expected})


@pytest.mark.parametrize("name", list_models("vit_*"))
def test_vit_parameter_shapes_are_those_of_timm(name: str, torch: ModuleType, timm: ModuleType,
                                                theirs: ModuleType) -> None:
    with torch.device("meta"):
        expected = theirs.parameter_shapes(timm.create_model(name, num_classes=1000))
    model = create_model(name)
    images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    ours = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes), model)
    assert {key: value.shape for key, value in ours.items()} == expected


@pytest.mark.parametrize("kind", ["mae", "vit"])
def test_saved_weights_load_in_torch_with_nothing_left_over(kind: str, theirs: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    if kind == "mae":
        reference, model = theirs.torch_mae(MAE_CASES[0]), jax_side.mae_model(MAE_CASES[0])
    else:
        reference, model = theirs.timm_vit(VIT_CASES[0]), jax_side.vit_model(VIT_CASES[0])
    weights = fill(theirs.parameter_shapes(reference))
    save_weights(load_weights(model, weights), model, tmp_path / "w.safetensors")
    reference.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    loaded = reference.state_dict()
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name].numpy(), array)
