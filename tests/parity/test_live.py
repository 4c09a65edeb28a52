"""cvjax against timm and the torch MAE, side by side: `pytest -m parity tests/parity` where torch is.

Full sizes are marked slow as well: `pytest -m "parity and slow"`.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax_side
import numpy as np
import pytest
from cases import (
    CLASSIFIER_CASES,
    DINO_CASES,
    MAE_CASES,
    TIMM_CASES,
    VIT_CASES,
    VIT_FORMS,
    ClassifierCase,
    DinoCase,
    MaeCase,
    VitCase,
)
from deterministic_weights import fill
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.interop import load_weights, save_weights, to_state_dict
from cvjax.interop.families import family_of
from cvjax.interop.naming import model_images
from cvjax.models import create_model, list_models
from cvjax.models.images import as_pair
from cvjax.tasks.lora import adapted_kernels, merged
from cvjax.timm_weights import timm_weights

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def theirs(torch: ModuleType) -> ModuleType:
    """The module torch_side, which needs torch, torchvision and timm."""
    import torch_side

    return torch_side


@pytest.mark.parametrize("case", MAE_CASES, ids=lambda case: case.name)
def test_mae_outputs_and_gradients(case: MaeCase, theirs: ModuleType) -> None:
    numbers = theirs.mae_numbers(case)
    jax_side.assert_same(jax_side.mae_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


@pytest.mark.parametrize("case", VIT_CASES + VIT_FORMS, ids=lambda case: case.name)
def test_vit_outputs_and_gradients(case: VitCase, theirs: ModuleType) -> None:
    numbers = theirs.vit_numbers(case)
    jax_side.assert_same(jax_side.vit_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


@pytest.mark.slow
def test_mae_vit_base_patch16_outputs_and_gradients(theirs: ModuleType) -> None:
    case = MaeCase("mae_vit_base_patch16", image_size=(224, 224), patch_size=16, width=768, depth=12, heads=12,
                   decoder_width=512, decoder_depth=8, decoder_heads=16)
    numbers = theirs.mae_numbers(case)
    jax_side.assert_same(jax_side.mae_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


@pytest.mark.parametrize("case", CLASSIFIER_CASES + TIMM_CASES, ids=lambda case: case.name)
def test_classifier_outputs_gradients_and_statistics(case: ClassifierCase, theirs: ModuleType) -> None:
    numbers = theirs.classifier_numbers(case)
    jax_side.assert_same(jax_side.classifier_numbers(case, jax_side.state_shapes(numbers)), numbers)


@pytest.mark.parametrize("case", DINO_CASES, ids=lambda case: case.name)
def test_dino_steps(case: DinoCase, theirs: ModuleType) -> None:
    numbers = theirs.dino_numbers(case)
    jax_side.assert_same_dino(jax_side.dino_numbers(case, jax_side.state_shapes(numbers)), numbers)


# timm's networks are compared with its list (tests/interop/test_coverage.py), and that with timm. An MAE's reference is
# the authors' code; the baselines, LeNet, and the FCN and the probe of any backbone have none; detectors have outputs
# of their own kinds (see test_faster_rcnn_live.py).
PUBLISHED = [name for name in list_models()
             if name not in ("fcn", "dense_probe") and name not in timm_weights() and "yolo" not in name
             and not name.startswith(("mae_", "linear", "mlp", "lenet", "faster_rcnn", "fast_rcnn", "rcnn", "sppnet"))]


# Each structure once. The other published models differ from these only in depth, width and size, and their parameters'
# names and shapes are compared below.
FULL_SIZE = ("airbench94", "airbench96", "alexnet", "alexnet_grouped", "convnext_tiny", "convnextv2_atto",
             "deit_tiny_patch16_224", "densenet121", "densenet_bc100_k12", "fcn8s_vgg16", "fcn32s_vgg16",
             "fcn_resnet50", "googlenet", "googlenet_lrn", "resnet9", "resnet18", "resnet50", "resnet110",
             "resnetblur18", "resnetv2_50x1_bit", "resnext50_32x4d", "seresnext26t_32x4d",
             "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vgg16", "vgg16_bn",
             "vit_base_patch16_gap_224", "vit_small_patch16_384", "wide_resnet50_2")


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_forward(name: str, torch: ModuleType, theirs: ModuleType) -> None:
    """Within 1e-4 of the largest logit: float32 rounding over up to two hundred layers, measured at 1e-6 to 1e-5."""
    reference = theirs.published(name).eval()
    weights = fill(theirs.state_shapes(reference))
    reference.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, strict=False)
    model = create_model(name)
    images = VitCase(name, image_size=as_pair(model.image_size)).inputs()["images"]
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    logits = jax.jit(model.apply)(load_weights(model, weights), images)
    jax_side.assert_same({"logits": np.asarray(logits)}, {"logits": expected}, forward=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_have_the_published_names_and_shapes(name: str, torch: ModuleType, theirs: ModuleType) -> None:
    with torch.device("meta"):
        expected = theirs.state_shapes(theirs.published(name))
    model = create_model(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model_images(model))
    stand_in = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    layouts = [{key: value.shape for key, value in to_state_dict(stand_in, model, layout).items()
                if key not in naming.constants(model)} for layout, naming in family_of(model).namings.items()]
    assert expected in layouts


@pytest.mark.slow
def test_the_stored_lists_are_timms(theirs: ModuleType) -> None:
    """Names, tags, parameters; and of the ViTs that are here the arguments and what images become."""
    import make_timm_weights
    import timm_vits

    assert make_timm_weights.PATH.read_text(encoding="utf-8") == make_timm_weights.text()
    assert timm_vits.STORED.read_text(encoding="utf-8") == timm_vits.text()


@pytest.mark.parametrize("kind", ["mae", VIT_CASES[0], VIT_CASES[-1], *CLASSIFIER_CASES, *TIMM_CASES, *DINO_CASES],
                         ids=lambda kind: getattr(kind, "name", kind))
def test_saved_weights_load_in_torch_with_nothing_left_over(kind: Any, theirs: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    if isinstance(kind, DinoCase):
        reference, model = theirs.torch_dino(kind), jax_side.dino_model(kind)
    elif kind == "mae":
        reference, model = theirs.torch_mae(MAE_CASES[0]), jax_side.mae_model(MAE_CASES[0])
    elif isinstance(kind, VitCase):
        reference, model = theirs.timm_vit(kind), jax_side.vit_model(kind)
    else:
        reference, model = theirs.CLASSIFIERS[kind.name](), create_model(kind.model, **kind.fields)
    weights = fill(theirs.state_shapes(reference))
    variables = load_weights(model, weights)
    save_weights(variables, model, tmp_path / "w.safetensors", getattr(kind, "layout", None))
    reference.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    loaded = reference.state_dict()
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name].numpy(), array)
    again = load_weights(model, tmp_path / "w.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(variables)))


def test_low_rank_updates_load_in_timm_once_they_are_merged(torch: ModuleType, theirs: ModuleType, tmp_path: Path
                                                            ) -> None:
    """With `strict=True`, as W + alpha / r A B in float64 and as the outputs of it, to float32's rounding."""
    from safetensors.torch import load_file

    reference, model = theirs.timm_vit(VIT_CASES[0]).eval(), jax_side.vit_model(VIT_CASES[0])
    whole = flatten_dict(load_weights(model, fill(theirs.state_shapes(reference)))["params"])
    draw, updates, rank, alpha = np.random.default_rng(0), {}, 2, 3.0
    for path, kernel in adapted_kernels(unflatten_dict(whole), "all").items():
        inputs, outputs = kernel.shape
        updates[(*path[:-1], "lora_a")] = draw.normal(0, 0.3, (inputs, rank)).astype(np.float32)
        updates[(*path[:-1], "lora_b")] = draw.normal(0, 0.3, (rank, outputs)).astype(np.float32)
    variables = merged({"params": unflatten_dict(updates), "frozen": {"params": unflatten_dict(whole)}}, alpha)
    save_weights(variables, model, tmp_path / "merged.safetensors", layout="timm")
    reference.load_state_dict(load_file(tmp_path / "merged.safetensors"), strict=True)
    name = ("blocks", "0", "mlp", "fc1")
    a, b = (updates[(*name, end)].astype(np.float64) for end in ("lora_a", "lora_b"))
    np.testing.assert_allclose(reference.blocks[0].mlp.fc1.weight.detach().numpy().T,
                               whole[(*name, "kernel")] + alpha / rank * a @ b, atol=1e-6)
    images = draw.normal(size=(2, *as_pair(model.image_size), 3)).astype(np.float32)
    with torch.no_grad():
        theirs_out = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    ours = np.asarray(jax.jit(model.apply)(variables, images))
    np.testing.assert_allclose(ours, theirs_out, atol=1e-5 * np.abs(theirs_out).max())
