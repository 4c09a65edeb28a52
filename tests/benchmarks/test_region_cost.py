"""The table of what regions cost."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.program_cost import program_cost
from benchmarks.region_cost.detectors import RegionCost, markdown


def test_flops_time_and_memory_of_a_product():
    a, b = jnp.ones((64, 32)), jnp.ones((32, 16))
    cost = program_cost(lambda a, b: jnp.tanh(a) @ b, a, b, repeats=2)
    assert 2 * 64 * 32 * 16 <= cost.flops <= 2.2 * 64 * 32 * 16
    assert cost.seconds > 0 and 4 * 64 * 16 <= cost.work_bytes <= 4 * (64 * 16 + 2 * 64 * 32)


def test_the_table_says_what_was_multiplied():
    costs = [RegionCost("R-CNN", 2000, 3e12, 0, 9, 16.4, 2**27, 50),
             RegionCost("Faster R-CNN", 300, 4e10, 1e10, 1, 0.25, 2**26, 300)]
    assert markdown(costs, 1.5).splitlines()[2:] == [
        "| R-CNN | 2,000 | 3,000.0 | 0.0 | 16.40 (40 times that of 50) | 1.50 | 128 |",
        "| Faster R-CNN | 300 | 40.0 | 10.0 | 0.25 | in the network | 64 |"]


@pytest.mark.slow
def test_a_run_writes_a_table_and_a_picture(benchmark, tmp_path):
    arguments = ("--image-size", 128, "--regions", 40, "--own-regions", 40, "--measured", 4, "--fc-width", 256,
                 "--repeats", 1, "--run-dir", tmp_path / "run")
    done = benchmark("region_cost", *arguments, "--dry-run")
    assert done.status == 0 and "alexnet for 40 regions of 128x128" in done.out and not (tmp_path / "run").exists()
    done = benchmark("region_cost", *arguments)
    assert done.status == 0, done.err
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    gflops = {method: metrics[f"gflops/{method}/40"] for method in ("R-CNN", "SPP-net", "Fast R-CNN", "Faster R-CNN")}
    # AlexNet's convolutions at 224 pixels are 656 million products, and there are fc6 and fc7 of 256. XLA leaves out
    # those with padding, a twelfth.
    products = 655_566_528 + 9216 * 256 + 256 * 256
    assert gflops["R-CNN"] == pytest.approx(40 * 2e-9 * products, rel=0.1)
    heads = 40 * 2e-9 * np.array([50 * 256 * 256, 9216 * 256])
    for method, head in zip(("SPP-net", "Fast R-CNN"), heads):
        assert gflops[method] - metrics[f"map_gflops/{method}/40"] == pytest.approx(head, rel=0.3)
    assert gflops["Fast R-CNN"] < gflops["Faster R-CNN"] < gflops["R-CNN"] / 10
    table = (tmp_path / "run" / "region_cost.md").read_text()
    assert table in done.out and len(table.splitlines()) == 6
    assert (tmp_path / "run" / "figures" / "region_cost.png").stat().st_size > 10_000


@pytest.mark.parametrize("arguments, message", [
    (("--measured", 0), "--measured 0: it must be in [1, --regions 2000]"),
    (("--image-size", 32), "--image-size 32: it must be at least 64"),
    (("--own-regions", 0), "--own-regions (0,): it must be numbers of at least 1"),
])
def test_an_impossible_request_is_one_line(benchmark, tmp_path, arguments, message):
    assert message in benchmark("region_cost", *arguments, "--run-dir", tmp_path / "run").complaint
