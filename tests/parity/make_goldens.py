"""Write tests/goldens/ from the references, with torch and timm: `python tests/parity/make_goldens.py`."""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import faster_rcnn_reference
import jax_side
import numpy as np
import torch
import torch_side
from cases import (
    CLASSIFIER_CASES,
    DINO_CASES,
    DINO_CHECKPOINT,
    MAE_CASES,
    VIT_CASES,
    ClassifierCase,
    DinoCase,
)

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


def dino_checkpoint() -> dict:
    """What the authors' script saves, for tests/interop/test_dino_names.py."""
    case = DINO_CHECKPOINT
    student, teacher = (torch_side.torch_dino(case, role) for role in ("student", "teacher"))
    parallel = torch.nn.ModuleDict({"module": student})  # the prefix of data-parallel training
    optimizer = torch.optim.AdamW(p for p in student.parameters() if p.requires_grad)
    student([torch.zeros(2, 2, 3, 8, 8)]).sum().backward()
    optimizer.step()  # for its moments
    student.load_state_dict(torch_side.torch_dino(case).state_dict())
    return {"student": parallel.state_dict(), "teacher": teacher.state_dict(), "optimizer": optimizer.state_dict(),
            "epoch": 3, "args": argparse.Namespace(arch="vit_tiny", out_dim=case.out_dim),
            "dino_loss": OrderedDict(center=torch.from_numpy(case.center())[None])}


def certain_numbers(case: ClassifierCase | DinoCase, numbers_of: Callable[..., dict[str, np.ndarray]],
                    ) -> dict[str, np.ndarray]:
    """The reference's numbers on images that they are certain for (see `ClassifierCase`)."""
    numbers = numbers_of(case)
    zero = 1e-2 if isinstance(case, DinoCase) else 1e-3  # see `jax_side.assert_same_dino`
    distances = jax_side.distances(numbers, numbers_of(case, torch.float64), zero)
    uncertain = {name: distance for name, distance in distances.items() if distance > 5e-5}
    if uncertain:
        raise SystemExit(f"{case.name}: float32 differs from float64, give another `draw`: {uncertain}")
    return numbers


def certain_detector() -> dict[str, np.ndarray]:
    """Faster R-CNN's numbers: no choice of a box may hang on rounding."""
    numbers, exact = faster_rcnn_reference.numbers(), faster_rcnn_reference.numbers(torch.float64)
    jax_side.assert_same(numbers, exact)
    return numbers


def main() -> None:
    numbers = {case.name: torch_side.mae_numbers(case) for case in MAE_CASES}
    numbers |= {case.name: torch_side.vit_numbers(case) for case in VIT_CASES}
    numbers |= {case.name: certain_numbers(case, torch_side.classifier_numbers) for case in CLASSIFIER_CASES}
    numbers |= {case.name: certain_numbers(case, torch_side.dino_numbers) for case in DINO_CASES}
    numbers["faster_rcnn"] = certain_detector()
    GOLDENS.mkdir(exist_ok=True)
    for name, arrays in numbers.items():
        np.savez_compressed(GOLDENS / f"{name}.npz", **arrays)
    torch.save(checkpoint(), GOLDENS / "checkpoint.pth")
    torch.save(dino_checkpoint(), GOLDENS / "dino_checkpoint.pth")


if __name__ == "__main__":
    main()
