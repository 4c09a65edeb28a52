"""The benchmark beside torch: its statistics on hand-made samples, workers that are lost, and cvjax's side itself."""

import importlib.util
import json
import os
import time

import numpy as np
import pytest

from benchmarks.steps import measure, report, worker_processes, workload
from benchmarks.steps.config import Config
from benchmarks.steps.cvjax_side import Arithmetic, CvjaxSteps
from benchmarks.steps.worker_processes import (
    Taken,
    Worker,
    WorkerError,
    closing,
    highest_rates,
    host_peak,
    one_line,
    take_turns,
)
from benchmarks.steps.workload import synthetic_batch
from cvjax.errors import ConfigError

VARIANTS = Config.torch_variants
PRETENDED = "tests.benchmarks.pretended_steps"


def work(name: str, *, training: bool = True, **options):
    config = Config(**dict(batch_size=2, prototypes=16, local_crops=3) | options)
    return measure.describe(name, config, training=training)


# Statistics, by hand: cvjax takes 4 s in the median, eager 4, compile 5; by the processor's clock compile is the best.
ROW = {"label": "resnet18 train", "batch_size": 8, "image_size": 224, "dtype": "float32", "optimizer": "momentum",
       "parameters": 1234, "flops_per_image": 3e9, "device": "cpu", "cells": {
           "cvjax": {"wall": [2.0, 4.0, 6.0], "cpu": [3.0, 3.0, 3.0], "matmul_peak": {"wall": 1e10, "cpu": 1e10},
                     "start_seconds": 7.25, "peak_memory_bytes": 2_500_000_000, "device_kind": "cpu",
                     "precision": "default"},
           "torch eager": {"wall": [4.0, 8.0, 4.0], "cpu": [8.0, 8.0, 8.0], "matmul_peak": {"wall": 2e10, "cpu": 3e10},
                           "start_seconds": 0.5, "peak_memory_bytes": 1_000_000, "device_kind": "cpu",
                           "precision": "float32"},
           "torch compile": {"wall": [5.0, 5.0, 5.0], "cpu": [6.0, 6.0, 6.0], "start_seconds": 60.0,
                             "peak_memory_bytes": 1_000_000, "device_kind": "cpu", "precision": "float32"},
           "torch eager+channels-last": {"error": "killed | out of memory"}}}


def test_quartiles_interpolate():
    assert report.spread([4, 1, 3, 2]) == (1.75, 2.5, 3.25)
    assert report.spread([7.0]) == (7.0, 7.0, 7.0)


def test_the_ratio_is_of_medians_to_the_quickest_torch_with_the_quartiles_of_the_turns():
    # By turns 2/4, 4/8 and 6/4: sorted 0.5, 0.5, 1.5, whose quartiles are 0.5 and half way to 1.5.
    assert report.ratio(ROW, "wall") == (1.0, 0.5, 1.0, "torch eager")
    assert report.ratio(ROW, "cpu") == (0.5, 0.5, 0.5, "torch compile")


@pytest.mark.parametrize("missing", [("cvjax",), ("torch eager", "torch compile")])
def test_without_either_side_there_is_no_ratio(missing):
    row = ROW | {"cells": {side: {"error": "gone"} if side in missing else cell for side, cell in ROW["cells"].items()}}
    assert report.ratio(row, "wall") is None


def test_figures_are_rates_of_the_median_and_the_peak_is_the_best_that_any_worker_measured():
    # 8 images in 4 s are 2 a second; at 3 GFLOPs an image 6 GFLOP/s, of 20 by the wall's clock.
    found = report.figures(ROW, "cvjax", "wall")
    assert found == ((3.0, 4.0, 5.0), 2.0, 6e9, 0.3)
    assert report.figures(ROW, "torch compile", "wall").share_of_peak == pytest.approx(8 / 5 * 3 / 20)
    assert report.figures(ROW, "cvjax", "cpu").share_of_peak == pytest.approx(8 / 3 * 3 / 30)
    assert report.figures(ROW, "torch eager+channels-last", "wall") is None
    bare = ROW | {"cells": {"torch compile": ROW["cells"]["torch compile"]}}
    assert report.figures(bare, "torch compile", "wall").share_of_peak is None


@pytest.mark.parametrize("cores, device, clock", [(1, "cpu", "cpu"), (2, "cpu", "wall"), (None, "cpu", "wall"),
                                                  (1, "cuda", "wall")])
def test_the_processors_clock_is_that_of_one_core(cores, device, clock):
    assert report.clock_of(cores, device) == clock


def test_tables_have_a_line_for_each_side_and_a_reason_for_each_that_is_lost():
    lines = {line[0]: line for line in report.table(ROW, "wall")}
    assert lines["cvjax"] == ("cvjax", "4,000", "3,000 to 5,000", "3,000", "2.00", "6.00", "30 %", "10.0",
                              "7.2", "2,500", "1.00 (eager)")
    assert lines["torch compile"][6:8] == ("24 %", "")
    assert lines["torch eager+channels-last"] == ("torch eager+channels-last", "killed | out of memory")
    text = report.text_table(ROW, "wall").splitlines()
    assert text[0].startswith("resnet18 train: 8 images of 224x224, float32, momentum; 1,234 parameters, 3 GFLOPs")
    assert len(text) == 2 + 4 and text[1].split()[:3] == ["side", "ms", "quartiles"]
    assert text[2].index("4,000") + 5 == text[1].index(" ms") + 3, "columns stand under their names"


def test_the_report_in_markdown_has_both_clocks_and_what_was_measured_where():
    measured = {"date": "2030-01-02", "clock": "wall", "rows": [ROW], "config": {"steps": 3, "chain": 2},
              "load_before": (0.25, 0, 0), "load_after": None,
              "machine": {"processor": "Z80", "cores": 2, "cores_used": 1, "versions": {"jax": "0.9", "numpy": "1"}}}
    text = report.markdown(measured)
    assert "| resnet18 train | 1.00 (0.50 to 1.00) of eager | 0.50 (0.50 to 0.50) of compile |" in text
    assert "| torch eager+channels-last | killed \\| out of memory |" in text
    assert "2030-01-02, Z80, 1 of 2 cores; jax 0.9. Medians of 3 turns of 2 steps in wall-clock time" in text
    assert "before and after: 0.2 and unknown. cvjax: default; torch: float32." in text
    counts = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("|")}
    assert counts == {4, len(report.COLUMNS) + 1}
    assert "time over that" not in report.markdown(measured | {"rows": [
        ROW | {"cells": {"cvjax": ROW["cells"]["cvjax"]}}]})


def test_bars_say_who_is_compared_with_whom():
    title, bars = report.panel(ROW, "wall")
    assert title == "resnet18 train, 8 images of 224 pixels, float32"
    assert [(bar.side, bar.role) for bar in bars] == [
        ("cvjax", "ours"), ("torch eager", "best"), ("torch compile", "other"), ("torch eager+channels-last", "other")]
    assert bars[0].note == "2.00 images/s; 1.00 x the time of torch eager" and bars[0].seconds == (3.0, 4.0, 5.0)
    assert bars[3].seconds is None and bars[3].note == "killed | out of memory"


# Turns and workers.

class Recorded:
    """In place of a worker: 6 s for a turn, lost at the call that is named."""

    def __init__(self, name, calls, lost_at=99):
        self.name, self.calls, self.lost_at, self.count = name, calls, lost_at, 0

    def ask(self, request, chain):
        self.calls.append(self.name)
        self.count += 1
        if self.count == self.lost_at:
            raise WorkerError("gone")
        return Taken(6.0, 3.0 * self.count)


def test_turns_begin_with_another_worker_each_time_and_go_on_without_the_lost():
    calls = []
    workers = {name: Recorded(name, calls, 2 if name == "b" else 99) for name in "abc"}
    times, lost = take_turns(workers, 4, 3)
    assert "".join(calls) == "abc" "bca" "ac" "ca" and lost == {"b": "gone"}
    assert times == {name: [(2.0, 1.0), (2.0, 2.0), (2.0, 3.0), (2.0, 4.0)] for name in "ac"}
    assert take_turns({"b": Recorded("b", [], 1)}, 2, 1) == ({}, {"b": "gone"})


@pytest.fixture
def start():
    """`start(*arguments)`: a worker on pretended steps; a failing test leaves none behind, which would keep pytest."""
    with closing({}) as workers:
        yield lambda *arguments, **options: workers.setdefault(
            "only", Worker(f"{PRETENDED}:PretendedSteps", arguments, **options))


def test_a_worker_answers_with_facts_times_memory_and_ends_when_it_is_closed(start):
    worker = start(0.02, cores=1)
    assert worker.facts.pop("start_seconds") < 1
    assert worker.facts == {"trace_seconds": 0.5, "device": "cpu", "device_kind": "1 cores", "precision": "exact",
                            "parameters": 10}
    taken = worker.ask("run", 2)
    assert taken.wall >= 0.04 > taken.cpu, "who sleeps takes no processor's time"
    # A bare Python process holds some ten megabytes; this one, which has loaded JAX, more than a hundred.
    finished = worker.ask("finish")
    assert finished["loss"] == 1.5 and 3e6 < finished["peak_memory_bytes"] < 1e8 < host_peak()
    worker.close()
    assert worker._process.exitcode == 0


@pytest.mark.parametrize("fate, message", [("die", "killed (SIGKILL): out of memory, most likely"),
                                           ("fail", "RuntimeError: no memory | for this!!!")])
def test_a_lost_worker_says_why_in_one_line(start, fate, message):
    worker = start(0.0, fate, "run")
    with pytest.raises(WorkerError) as error:
        worker.ask("run", 1)
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 240
    with pytest.raises(WorkerError):
        worker.ask("run", 1)


def test_a_worker_that_does_not_answer_is_given_up(start):
    begin = time.perf_counter()
    with pytest.raises(WorkerError, match="no answer within 0.2 s"):
        start(0.0, "hang", timeout=0.2)
    assert time.perf_counter() - begin < 5, "it is killed, nobody waits for its end"


def test_one_line_of_an_exception_names_its_kind_where_the_message_does_not_suffice():
    assert one_line(ValueError("a\n b")) == "a b" and one_line(KeyError("x")) == "KeyError: 'x'"


def test_rates_are_those_of_the_best_product_and_sides_grow_until_one_takes_long_enough(monkeypatch):
    # The first call of each side compiles. A product of 8 times the work takes 4, then 8 times as long; then 9 times.
    seconds = {512: iter([99, 1, 2, 3, 4, 5]), 1024: iter([99, 9, 9, 9, 4, 9]), 2048: iter([99, *[32] * 5]),
               4096: iter([99, *[288] * 5])}
    monkeypatch.setattr(worker_processes, "timed", lambda multiply: Taken(multiply(), 0.0))
    best = {"wall": 2 * 1024**3 / 4, "cpu": 0.0}
    assert highest_rates(lambda side: lambda: next(seconds[side]), enough=33.0) == best
    assert [len(list(rest)) for rest in seconds.values()] == [0, 0, 0, 0], "32 is too short to end with"
    seconds = {512: iter([99, 1, 2, 3, 4, 5]), 1024: iter([99, 9, 9, 9, 4, 9]), 2048: iter([99, *[31] * 5])}
    assert highest_rates(lambda side: lambda: next(seconds[side]), enough=0.5) == {"wall": 2 * 2048**3 / 31, "cpu": 0.0}


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "together"])
def test_a_row_goes_on_without_what_fails(monkeypatch, together):
    monkeypatch.setattr(measure, "CVJAX_SIDE", f"{PRETENDED}:ours")
    monkeypatch.setattr(measure, "TORCH_SIDE", f"{PRETENDED}:theirs")
    config = Config(steps=2, chain=3, timeout=60.0, together=together)
    row = measure.measure_row(work("lenet5"), Arithmetic(10, 1e9), config, VARIANTS)
    cells = row["cells"]
    assert list(cells) == ["cvjax", *(f"torch {name}" for name in VARIANTS)]
    assert len(cells["cvjax"]["wall"]) == len(cells["torch eager"]["cpu"]) == 2
    assert min(cells["cvjax"]["wall"]) >= 2e-3 and cells["cvjax"]["matmul_peak"]["wall"] > 0
    assert "matmul_peak" not in cells["torch eager"], "its products fail, its times stand"
    assert "not the same work: 11 parameters, cvjax has 10" in cells["torch eager+channels-last"]["error"]
    assert "SIGKILL" in cells["torch compile"]["error"]
    assert "RuntimeError: no memory" in cells["torch compile+channels-last"]["error"]
    assert report.succeeded(row) == ["cvjax", "torch eager"] and row["device"] == "cpu"
    json.dumps(row)
    attention = measure.measure_row(work("vit_tiny_patch16_224"), Arithmetic(10, 1e9),
                                    Config(torch="only", steps=1, timeout=60.0), VARIANTS[1::2])
    assert attention["cells"] == {}, "there is nothing to lay out otherwise"


# What is to be done.

def test_words_of_the_command_line_name_the_work():
    mae, dino, inference = work("mae_vit_tiny_patch16"), work("dino:resnet50"), work("lenet5", training=False)
    assert (mae.task, mae.optimizer, mae.label, mae.fields["decoder_width"]) == (
        "mae", "adamw", "mae_vit_tiny_patch16 train", 512)
    assert (dino.task, dino.model, dino.optimizer, dino.image_size, dino.local_size, dino.label) == (
        "dino", "resnet50", "momentum", 224, 96, "dino:resnet50 train")
    assert (inference.label, inference.image_size, inference.num_classes) == ("lenet5 inference", 32, 10)
    assert work("swin_tiny_patch4_window7_224").optimizer == work("vit_tiny_patch16_224").optimizer == "adamw"


def test_batches_are_pixels_labels_and_ready_made_views():
    batch = synthetic_batch(work("dino:resnet50", image_size=64))
    assert {name: x.shape for name, x in batch.items()} == {
        "image": (2, 64, 64, 3), "label": (2,), "index": (2,), "globals": (2, 2, 64, 64, 3),
        "locals": (2, 3, 27, 27, 3)}
    assert batch["image"].dtype == np.uint8 and batch["image"].min() < 5 and batch["image"].max() > 250
    assert "locals" not in synthetic_batch(work("dino:resnet50", local_crops=0))
    assert "globals" not in synthetic_batch(work("dino:resnet50", training=False))
    assert synthetic_batch(work("lenet5", batch_size=200))["label"].max() == 9


def test_arithmetic_by_hand():
    linear = 32 * 32 * 3 * 10  # multiply-adds of one image, and weights
    assert measure.count(work("linear", training=False)) == (linear + 10, 2 * linear)
    assert measure.count(work("linear")) == (linear + 10, 3 * 2 * linear)
    # The backbone gives the pixels; two layers of 2048 and a bottleneck of 256 before 16 prototypes.
    head = 3072 * 2048 + 2048 * 2048 + 2048 * 256 + 256 * 16
    # Three times two global and three local views of the student, two global ones of the teacher.
    counted = measure.count(work("dino:linear", local_size=32))
    assert counted == (head + 2048 + 2048 + 256, 2 * head * (3 * (2 + 3) + 2))


def test_arithmetic_of_an_mae_by_hand():
    # Four patches of 768 pixels, one of them visible beside the class token; a block takes 12 T D^2 + 2 T^2 D.
    encoder = 768 * 192 + 12 * (12 * 2 * 192**2 + 2 * 2**2 * 192)
    decoder = 2 * 192 * 512 + 8 * (12 * 5 * 512**2 + 2 * 5**2 * 512) + 5 * 512 * 768
    counted = measure.count(work("mae_vit_tiny_patch16", image_size=32))
    assert counted.flops_per_image == 3 * 2 * (encoder + decoder)


# cvjax's side.

@pytest.mark.parametrize("name, options", [
    ("linear", dict()), ("dino:linear", dict(local_size=32, prototypes=16)),
    pytest.param("mae_vit_tiny_patch16", dict(image_size=32), marks=pytest.mark.slow),
    pytest.param("lenet5", dict(dtype="bfloat16"), marks=pytest.mark.slow),
    pytest.param("resnet9", dict(), marks=pytest.mark.slow)])
def test_training_steps_learn_and_are_the_counted_work(monkeypatch, name, options):
    monkeypatch.setattr(workload, "HEAD_HIDDEN", 32)  # DINO's head, for time's sake

    done = work(name, batch_size=3, **options)
    steps, counted = CvjaxSteps(done), measure.count(done)
    facts = steps.start()
    first = steps.loss
    steps.run(8)
    assert steps.parameters == counted.parameters and np.isfinite(steps.loss)
    assert steps.loss < first or name.startswith("dino"), "eight steps on one batch"
    # XLA counts element-wise operations too, and leaves out the gradient by the pixels.
    assert 0.6 < facts["xla_flops"] / (3 * counted.flops_per_image) < 2
    assert facts["compile_seconds"] > 0 and facts["trace_seconds"] > 0


def test_inference_gives_a_classifiers_logits(monkeypatch):
    steps = CvjaxSteps(work("linear", training=False))
    steps.start()
    outputs = steps._function(steps._carried, steps._batch)
    kernel, bias = (np.asarray(steps._carried["params"]["fc"][key]) for key in ("kernel", "bias"))
    pixels = synthetic_batch(work("linear"))["image"] / 255
    normalised = (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    # 3072 products of order 0.03 in float32.
    np.testing.assert_allclose(outputs, normalised.reshape(2, -1) @ kernel + bias, atol=1e-4)
    assert steps.loss is None
    steps.product(64)()


# The command.

@pytest.mark.slow
def test_the_command_measures_prints_and_writes(benchmark, tmp_path, monkeypatch):
    done = benchmark("steps", "lenet5", "--steps", 2, "--batch-size", 2, "--torch", "no", "--output",
                   tmp_path / "new" / "b")
    assert done.status == 0, done.err
    assert "[1/1] lenet5 train ..." in done.out and "61,706 parameters" in done.out
    report = json.loads((tmp_path / "new" / "b" / "benchmark.json").read_text())
    cell = report["rows"][0]["cells"]["cvjax"]
    assert len(cell["wall"]) == len(cell["cpu"]) == 2 and min(cell["wall"]) > 0 and np.isfinite(cell["loss"])
    assert report["clock"] == "wall" and cell["matmul_peak"]["wall"] > 0 and cell["trace_seconds"] > 0
    assert report["machine"]["versions"]["jax"] and report["config"]["models"] == ["lenet5"]
    assert (tmp_path / "new" / "b" / "benchmark.md").read_text().startswith("# Benchmark\n")
    assert (tmp_path / "new" / "b" / "benchmark.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("arguments, message", [
    (("resnet5",), "unknown model 'resnet5': did you mean resnet56"),
    (("moco:resnet50",), "moco:resnet50: it must be NAME, or dino:NAME for DINO on that backbone"),
    (("dino:mae_vit_tiny_patch16",), "a DINO backbone must be a classifier, such as vit_tiny_patch16_224"),
    (("lenet5", "--image-size", 8), "lenet5 train at 8 pixels: "),
    (("lenet5", "--batch-size", 0), "--batch-size 0: it must be at least 1"),
    (("lenet5", "--steps", 0), "--steps 0: it must be at least 1"),
    (("lenet5", "--chain", 0), "--chain 0: it must be at least 1"),
    (("lenet5", "--prototypes", 1), "--prototypes 1: it must be at least 2"),
    (("lenet5", "--local-crops", -1), "--local-crops -1: it must be 0 or more"),
    (("lenet5", "--timeout", 0), "--timeout 0.0: it must be at least 1"),
    (("lenet5", "--cores", 9999), f"--cores 9999: it must be at most {len(os.sched_getaffinity(0))}"),
    (("lenet5", "--torch", "only"), "--torch only: torch is not installed"),
    (("lenet5", "--output", "file"), "--output file is a file"),
])
def test_an_impossible_benchmark_is_one_line(benchmark, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "torch_is_installed", lambda: False)
    (tmp_path / "file").write_text("text")
    assert message in benchmark("steps", *arguments).complaint
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_nothing_can_be_measured_the_command_fails_after_it_wrote_why(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "torch_is_installed", lambda: False)
    monkeypatch.setattr(measure, "Worker", _lost)
    done = benchmark("steps", "lenet5", "--output", tmp_path / "b")
    assert "nothing could be measured" in done.complaint
    assert "torch is not installed: only cvjax is measured" in done.out
    assert "out of memory" in (tmp_path / "b" / "benchmark.md").read_text()


def _lost(*arguments, **options):
    raise WorkerError("out of memory")


def test_only_the_file_for_torch_imports_it():
    assert measure.torch_is_installed() == (importlib.util.find_spec("torch") is not None)
    with pytest.raises(ConfigError):
        work("nope")


def test_the_benchmark_loads_no_torch_and_its_workers_no_jax_before_they_are_told(python):
    """When a worker chooses its cores, the libraries must not have counted them yet."""
    code = "import sys, json, benchmarks.steps.{}; print(json.dumps(sorted(sys.modules)))"
    assert "torch" not in python(code.format("measure"))
    loaded = python(code.format("worker_processes, benchmarks.steps.workload"))
    assert not {"jax", "flax", "torch", "matplotlib"} & set(loaded)
