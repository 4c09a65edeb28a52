"""The benchmark's steps for torch do cvjax's work: as many parameters, as many operations, losses of the same kind.

`pytest -m parity tests/benchmarks` where torch is.
"""

import dataclasses
import json
from types import ModuleType

import numpy as np
import pytest

from benchmarks.steps.config import Config
from benchmarks.steps.cvjax_side import CvjaxSteps
from benchmarks.steps.measure import count, describe
from benchmarks.steps.workload import Workload

pytestmark = pytest.mark.parity


def work(name: str, *, training: bool = True) -> Workload:
    return describe(name, Config(batch_size=2, image_size=64, prototypes=32, local_crops=2, local_size=32),
                    training=training)


@pytest.fixture(scope="module")
def steps() -> ModuleType:
    """The module torch_side."""
    pytest.importorskip("torch")
    from benchmarks.steps import torch_side

    return torch_side


def flops(function) -> float:
    """As torch counts them, two for a multiply-add; attention written out, so that it is counted on every device."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    assert torch.is_grad_enabled()
    return counter.get_total_flops()


WORKS = ["resnet18", "vgg11_bn", "densenet121", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
         "mae_vit_tiny_patch16", "dino:vit_tiny_patch16_224", "dino:resnet18"]


@pytest.mark.parametrize("name", WORKS)
def test_torch_does_as_many_operations_on_as_many_parameters(name: str, steps: ModuleType) -> None:
    done = work(name)
    theirs, ours = steps.TorchSteps(done, "eager", "cpu"), count(done)
    assert theirs.parameters == ours.parameters
    # The first layer's gradient by the pixels is not computed: 2.2 % of the work of a ResNet-18, less of the others.
    assert 0.975 < flops(lambda: theirs.run(1)) / (ours.flops_per_image * done.batch_size) <= 1
    theirs.run(3)
    assert np.isfinite(theirs.loss)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "mae_vit_tiny_patch16",
                                  "dino:vit_tiny_patch16_224"])
def test_inference_is_of_whole_images_without_what_training_alone_needs(name: str, steps: ModuleType) -> None:
    done = work(name, training=False)
    theirs, ours = steps.TorchSteps(done, "eager+channels-last", "cpu"), count(done)
    assert theirs.parameters == ours.parameters and theirs.loss is None
    assert flops(lambda: theirs.run(1)) == ours.flops_per_image * done.batch_size


@pytest.mark.parametrize("name, expected", [("mae_vit_tiny_patch16", 1.0), ("dino:vit_tiny_patch16_224", np.log(32)),
                                            ("resnet18", np.log(1000))])
@pytest.mark.parametrize("side", ["torch", pytest.param("cvjax", marks=pytest.mark.slow)])
def test_first_losses_are_those_of_an_untrained_network(name: str, expected: float, side: str,
                                                        steps: ModuleType) -> None:
    """MAE knows nothing of targets of variance 1, DINO's student and a classifier no answer from another.

    Not exactly: an untrained network's outputs are not nothing, and DINO's are divided by temperatures.
    """
    done = steps.TorchSteps(work(name), "eager", "cpu") if side == "torch" else CvjaxSteps(work(name))
    done.start()
    assert expected * 0.5 < done.loss < expected * 2.5


def test_the_losses_are_cvjaxs(steps: ModuleType) -> None:
    """DINO's on the same logits, MAE's target on the same patches."""
    import torch

    from cvjax.losses.dino import dino_loss
    from cvjax.losses.mae import pixel_target

    rng = np.random.default_rng(0)
    student, answers = rng.normal(size=(3, 5, 7)).astype(np.float32), rng.dirichlet(np.ones(7), (3, 2))
    theirs = steps.dino_loss(torch.from_numpy(student), torch.from_numpy(answers.astype(np.float32)))
    # Sums of 7 x 24 float32 products.
    assert float(theirs) == pytest.approx(float(dino_loss(student, answers).mean()), rel=1e-5)
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    network = steps.MaskedAutoencoder(32, 3, **work("mae_vit_tiny_patch16").fields)
    patches = network.patches(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_array_equal(patches, pixel_target(images, 16, normalize=False))


def test_positions_of_the_masked_autoencoder_are_cvjaxs(steps: ModuleType) -> None:
    from cvjax.ops.position import sincos_2d

    np.testing.assert_allclose(steps._sines_and_cosines(16, 3)[0].numpy(), sincos_2d(16, (3, 3)), atol=1e-6)


def test_what_torch_cannot_do_is_one_line(steps: ModuleType) -> None:
    with pytest.raises(ValueError, match="neither torchvision nor timm has a resnet9"):
        steps.TorchSteps(work("resnet9"), "eager", "cpu")
    with pytest.raises(ValueError, match="JAX runs on tpu, this torch cannot"):
        steps.TorchSteps(work("resnet18"), "eager", "tpu")
    with pytest.raises(ValueError, match="torchvision's vgg11 without its head is not known here"):
        steps.TorchSteps(work("dino:vgg11"), "eager", "cpu")


def test_autocast_computes_in_bfloat16(steps: ModuleType) -> None:
    import torch

    half = steps.TorchSteps(dataclasses.replace(work("vit_tiny_patch16_224"), dtype="bfloat16"), "eager", "cpu")
    seen = []
    half._network.blocks[0].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    half.run(1)
    assert seen == [torch.bfloat16] and np.isfinite(half.loss)


@pytest.mark.slow
def test_compiled_steps_run(steps: ModuleType) -> None:
    """On a CPU torch builds a program of C++ for each kernel: those of a transformer's step take many minutes."""
    theirs = steps.TorchSteps(work("resnet18"), "compile+channels-last", "cpu")
    theirs.run(3)
    assert np.isfinite(theirs.loss)


def test_the_command_compares(benchmark, steps: ModuleType, tmp_path) -> None:
    done = benchmark("steps", "resnet18", "--image-size", 32, "--batch-size", 2, "--steps", 2, "--torch-variants",
                   "eager", "eager+channels-last", "--output", tmp_path / "b")
    assert done.status == 0, done.err
    cells = json.loads((tmp_path / "b" / "benchmark.json").read_text())["rows"][0]["cells"]
    assert list(cells) == ["cvjax", "torch eager", "torch eager+channels-last"]
    assert all(len(cell["wall"]) == 2 for cell in cells.values())
    assert "| resnet18 train |" in (tmp_path / "b" / "benchmark.md").read_text()
