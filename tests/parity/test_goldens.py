"""cvjax against the numbers that the references gave, stored by make_goldens.py; torch is not needed."""

from pathlib import Path

import jax_side
import numpy as np
import pytest
from cases import CLASSIFIER_CASES, DINO_CASES, MAE_CASES, VIT_CASES, ClassifierCase, DinoCase, MaeCase, VitCase

GOLDENS = Path(__file__).parents[1] / "goldens"


def _golden(name: str) -> dict[str, np.ndarray]:
    """The reference's numbers."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", MAE_CASES, ids=lambda case: case.name)
def test_mae_outputs_and_gradients(case: MaeCase) -> None:
    numbers = _golden(case.name)
    jax_side.assert_same(jax_side.mae_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


@pytest.mark.parametrize("case", VIT_CASES, ids=lambda case: case.name)
def test_vit_outputs_and_gradients(case: VitCase) -> None:
    numbers = _golden(case.name)
    jax_side.assert_same(jax_side.vit_numbers(case, jax_side.gradient_shapes(numbers)), numbers)


# Slow here because others of the family are not; live comparisons have them all.
SIBLINGS = {"convnext_two_stages", "googlenet_lrn", "resnet_basic", "resnet_preactivation", "resnext_bottleneck",
            "swin_padded", "swin_small_maps"}


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=[pytest.mark.slow] if case.name in SIBLINGS else []) for case in CLASSIFIER_CASES],
    ids=lambda case: case.name)
def test_classifier_outputs_gradients_and_statistics(case: ClassifierCase) -> None:
    numbers = _golden(case.name)
    jax_side.assert_same(jax_side.classifier_numbers(case, jax_side.state_shapes(numbers)), numbers)


@pytest.mark.parametrize("case", DINO_CASES, ids=lambda case: case.name)
def test_dino_steps(case: DinoCase) -> None:
    numbers = _golden(case.name)
    jax_side.assert_same_dino(jax_side.dino_numbers(case, jax_side.state_shapes(numbers)), numbers)
