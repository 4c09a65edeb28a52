"""cvjax against the numbers that the references gave, stored by make_goldens.py; torch is not needed."""

from pathlib import Path

import jax_side
import numpy as np
import pytest
from cases import MAE_CASES, VIT_CASES, MaeCase, VitCase

GOLDENS = Path(__file__).parents[1] / "goldens"


def _golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """The reference's numbers, and the shapes of its parameters."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        numbers = dict(file)
    return numbers, jax_side.gradient_shapes(numbers)


@pytest.mark.parametrize("case", MAE_CASES, ids=lambda case: case.name)
def test_mae_outputs_and_gradients(case: MaeCase) -> None:
    numbers, shapes = _golden(case.name)
    jax_side.assert_same(jax_side.mae_numbers(case, shapes), numbers)


@pytest.mark.parametrize("case", VIT_CASES, ids=lambda case: case.name)
def test_vit_outputs_and_gradients(case: VitCase) -> None:
    numbers, shapes = _golden(case.name)
    jax_side.assert_same(jax_side.vit_numbers(case, shapes), numbers)
