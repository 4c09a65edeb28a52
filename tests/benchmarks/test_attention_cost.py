"""The benchmark of attention: what it writes, and how it refuses."""

import json

import pytest

from benchmarks.program_cost import forward_cost
from cvjax.models.vit import VisionTransformer


def test_flops_are_those_of_the_matrix_products():
    model = VisionTransformer(image_size=32, patch_size=8, width=64, depth=1, heads=2, num_classes=10)
    tokens = 17
    macs = 16 * 192 * 64 + tokens * 64 * (3 + 1 + 4 + 4) * 64 + 2 * tokens**2 * 64 + 64 * 10
    cost = forward_cost(model, 32)
    assert 2 * macs < cost.flops < 2.4 * macs and cost.seconds > 0


def test_a_run_writes_a_table_and_a_picture(benchmark, tmp_path):
    arguments = ("--models", "vit_tiny_patch16_224", "--image-sizes", 16, 32, "--run-dir", tmp_path / "run")
    done = benchmark("attention_cost", *arguments, "--dry-run")
    assert done.status == 0 and "vit_tiny_patch16_224 at 16, 32 pixels" in done.out and not (tmp_path / "run").exists()
    done = benchmark("attention_cost", *arguments)
    assert done.status == 0, done.err
    assert [line.split()[:2] for line in done.out.splitlines() if line.startswith("vit_tiny")] == [
        ["vit_tiny_patch16_224", "16"], ["vit_tiny_patch16_224", "32"]]
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert metrics["gflops/vit_tiny_patch16_224/32"] > metrics["gflops/vit_tiny_patch16_224/16"] > 0
    assert (tmp_path / "run" / "figures" / "attention_cost.png").stat().st_size > 10_000
    assert "is complete" in benchmark("attention_cost", *arguments).out


@pytest.mark.parametrize("arguments, message", [
    (("--models", "swin_tiny"), "swin_tiny at 224 pixels: unknown model 'swin_tiny': did you mean"),
    (("--models", "vit_tiny_patch16_224", "--image-sizes", 20), "20x20 pixels cannot be cut into patches of 16"),
    (("--image-sizes", 0), "--image-sizes (0,): it must be one or more numbers of at least 1"),
    (("--repeats", 0), "--repeats 0: it must be at least 1"),
])
def test_an_impossible_request_is_one_line(benchmark, tmp_path, arguments, message):
    assert message in benchmark("attention_cost", *arguments, "--run-dir", tmp_path / "run").complaint
