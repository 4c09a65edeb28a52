"""Write tests/goldens/ from the references: `PYTHONPATH=. python tests/parity/make_goldens.py`, with torch and timm."""

import argparse
import contextlib
from collections import OrderedDict
from collections.abc import Iterator
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
    DinoCase,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
# float32 rounds by 6e-8; a sum of 1,000 products in whatever order is off by some ten times as much.
ROUNDING, ROUNDINGS = 1e-6, 8


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


def certain_dino_numbers(case: DinoCase) -> dict[str, np.ndarray]:
    """The reference's numbers on images that they are certain for (see `DinoCase`)."""
    numbers_of = torch_side.dino_numbers
    numbers = numbers_of(case)
    zero = 1e-2  # see `jax_side.assert_same_dino`
    certain = {name: distance <= 5e-5 for name, distance in
               jax_side.distances(numbers, numbers_of(case, torch.float64), zero).items()}
    for seed in range(ROUNDINGS):
        with other_rounding(seed):
            other = numbers_of(case, torch.float64)
        for name, distance in jax_side.distances(numbers, other, zero).items():
            certain[name] &= distance <= 2e-4  # one ReLU that switches moves some gradient by 1e-3 or more
    if not all(certain.values()):
        raise SystemExit(f"{case.name}: hangs on rounding, give another `draw`: "
                         f"{', '.join(name for name, sure in certain.items() if not sure)}")
    return numbers


@contextlib.contextmanager
def other_rounding(seed: int) -> Iterator[None]:
    """Every layer's output is off by up to `ROUNDING` of itself, as another processor or order of sums may have it."""
    generator = torch.Generator().manual_seed(seed)

    def off(layer: torch.nn.Module, inputs: object, output: object) -> object:
        if next(layer.children(), None) is not None or not isinstance(output, torch.Tensor):
            return output
        return output * (1 + ROUNDING * (2 * torch.rand(output.shape, generator=generator, dtype=output.dtype) - 1))

    handle = torch.nn.modules.module.register_module_forward_hook(off)
    try:
        yield
    finally:
        handle.remove()


def certain_detector() -> dict[str, np.ndarray]:
    """Faster R-CNN's numbers: no choice of a box may hang on rounding."""
    numbers, exact = faster_rcnn_reference.numbers(), faster_rcnn_reference.numbers(torch.float64)
    jax_side.assert_same(numbers, exact)
    return numbers


def main() -> None:
    numbers = {case.name: torch_side.mae_numbers(case) for case in MAE_CASES}
    numbers |= {case.name: torch_side.vit_numbers(case) for case in VIT_CASES}
    numbers |= {case.name: torch_side.classifier_numbers(case) for case in CLASSIFIER_CASES}
    numbers |= {case.name: certain_dino_numbers(case) for case in DINO_CASES}
    numbers["faster_rcnn"] = certain_detector()
    GOLDENS.mkdir(exist_ok=True)
    for name, arrays in numbers.items():
        kept = {key: array.astype(np.float32) if array.dtype == np.float64 else array for key, array in arrays.items()}
        np.savez_compressed(GOLDENS / f"{name}.npz", **kept)
    torch.save(checkpoint(), GOLDENS / "checkpoint.pth")
    torch.save(dino_checkpoint(), GOLDENS / "dino_checkpoint.pth")


if __name__ == "__main__":
    main()
