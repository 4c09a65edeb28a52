"""Write tests/goldens/ from the references, with torch and timm: `python tests/parity/make_goldens.py`."""

import argparse
from collections import OrderedDict
from pathlib import Path

import jax_side
import numpy as np
import torch
import torch_side
from cases import CLASSIFIER_CASES, MAE_CASES, VIT_CASES, ClassifierCase

GOLDENS = Path(__file__).parents[1] / "goldens"


def checkpoint() -> dict:
    """What a training script saves, with tensors of every kind, for tests/interop/test_read_state_dict.py."""
    numbers = torch.arange(24.0)
    weights = OrderedDict(
        plain=numbers.reshape(2, 3, 4),
        transposed=numbers.reshape(4, 6).T, part=numbers.reshape(4, 6)[1:3, 2:5],
        expanded=torch.tensor([[1.0], [2.0]]).expand(2, 3), scalar=torch.tensor(7), empty=torch.zeros(0, 3),
        half=numbers.half(), bfloat16=numbers.bfloat16(), double=numbers.double(), flags=numbers > 20,
        parameter=torch.nn.Parameter(numbers[:2]))
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"betas": (0.9, 0.95)}]}
    options = argparse.Namespace(blr=1e-3, output_dir="./out")
    return {"model": weights, "optimizer": optimizer, "epoch": 3, "args": options}


def classifier_numbers(case: ClassifierCase) -> dict[str, np.ndarray]:
    """The reference's numbers on images that they are certain for (see `ClassifierCase`)."""
    numbers = torch_side.classifier_numbers(case)
    distances = jax_side.distances(numbers, torch_side.classifier_numbers(case, torch.float64))
    uncertain = {name: distance for name, distance in distances.items() if distance > 5e-5}
    if uncertain:
        raise SystemExit(f"{case.name}: float32 differs from float64, give another `draw`: {uncertain}")
    return numbers


def main() -> None:
    numbers = {case.name: torch_side.mae_numbers(case) for case in MAE_CASES}
    numbers |= {case.name: torch_side.vit_numbers(case) for case in VIT_CASES}
    numbers |= {case.name: classifier_numbers(case) for case in CLASSIFIER_CASES}
    GOLDENS.mkdir(exist_ok=True)
    for name, arrays in numbers.items():
        np.savez_compressed(GOLDENS / f"{name}.npz", **arrays)
    torch.save(checkpoint(), GOLDENS / "checkpoint.pth")


if __name__ == "__main__":
    main()
