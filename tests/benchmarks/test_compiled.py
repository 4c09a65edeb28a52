"""The reader of compiled programs, on a text whose bytes and runs are known, and the benchmark around it."""

import importlib.util
import re
from typing import Any

import jax
import pytest

from benchmarks.compiled import config, measure
from benchmarks.compiled.costs import ATTENTION, MOVED, PRODUCTS, Cost, costs, short
from benchmarks.compiled.hlo import parse, sizes
from benchmarks.compiled.report import Row, differences, markdown, text
from benchmarks.compiled.worker import Facts
from cvjax.errors import ConfigError
from cvjax.workflow.absent_devices import Target, compile_for_absent, missing_compiler, parse_target

ABBREVIATED = """HloModule jit_step, is_scheduled=true

%fused (p.1: f32[8,128], p.2: f32[128]) -> f32[8,128] {
  %p.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %p.2 = f32[128]{0:T(128)} parameter(1)
  %b = f32[8,128]{1,0:T(8,128)} broadcast(%p.2), dimensions={1}
  ROOT %a = f32[8,128]{1,0:T(8,128)} add(%p.1, %b)
}

%sliced (p.3: f32[64,128]) -> f32[8,128] {
  %p.3 = f32[64,128]{1,0:T(8,128)} parameter(0)
  ROOT %s = f32[8,128]{1,0:T(8,128)} slice(%p.3), slice={[0:8], [0:128]}
}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %v = f32[128]{0:T(128)S(1)} constant({...})
  %bias = f32[8,128]{1,0:T(8,128)} fusion(%x, %v), kind=kLoop, calls=%fused, NAME(jit(step)/blocks_3/fc1/add) CYCLES(30)
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %bias)
}

ENTRY %main (a: f32[64,128], w: f32[128,100]) -> f32[8,100] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %w = f32[128,100]{1,0:T(8,128)} parameter(1)
  %first = f32[8,128]{1,0:T(8,128)} fusion(%a), kind=kLoop, calls=%sliced, NAME(jit(step)/first)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, %first)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%start), condition=%cond, body=%body, TRIPS(5)
  %last = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %dot = f32[8,100]{1,0:T(8,128)} dot(%last, %w), rhs_contracting_dims={0}, NAME(jit(step)/head) CYCLES(100)
}
"""
PROGRAM = ABBREVIATED
for mark, meant in (
        (r"NAME\((\S*)\)", r'metadata={op_name="\1"}'), (r"TRIPS\((\d+)\)", r'known_trip_count":{"n":"\1"}'),
        (r"CYCLES\((\d+)\)", r'"estimated_cycles":"\1"')):
    PROGRAM = re.sub(mark, meant, PROGRAM)


def test_sizes_are_of_tiles_and_of_main_memory():
    assert sizes("f32[8,128]{1,0:T(8,128)}") == (4096, 4096)
    assert sizes("bf16[3,100]{1,0:T(8,128)(2,1)}") == (600, 8 * 128 * 2)
    assert sizes("bf16[100,3]{0,1:T(8,128)(2,1)}") == (600, 8 * 128 * 2), "the layout puts 100 innermost"
    assert sizes("(f32[2]{0}, pred[3]{0}, s4[4]{0})") == (8 + 3 + 2, 8 + 3 + 2)
    assert sizes("f32[8,128]{1,0:T(8,128)S(1)}") == (0, 0), "on-chip memory"


def test_costs_are_the_hand_worked():
    kinds, names = costs(parse(PROGRAM))
    array, vector = 4 * 8 * 128, 0  # the vector lies on the chip
    assert kinds["elementwise"] == Cost(5, 5 * (array + vector), 5 * array, 0, 5 * 30), "five turns"
    assert kinds[MOVED] == Cost(1, array, array, 0, 0), "of the operand, what the fusion takes"
    padded = 4 * 8 * 128
    assert kinds[PRODUCTS] == Cost(1, array + 4 * 128 * 128, padded, padded - 4 * 8 * 100, 100)
    assert set(kinds) == {"elementwise", MOVED, PRODUCTS}
    assert names["elementwise", "blocksN/fc1/add"].count == 5


def test_equal_layers_have_one_name():
    assert short("jit(step)/jvp(ViT)/blocks_3/attn/qkv/dot_general") == "jvp(ViT)/blocksN/attn/qkv/dot_general"
    assert short("jit(step)/blocks/11/mlp/add") == "blocks/N/mlp/add"
    assert short("jit(f)/layer2_0/conv1/conv") == short("jit(f)/layer2_1/conv1/conv")


def row(**changes):
    kinds, names = costs(parse(PROGRAM))
    v5e = Target("tpu_v5e", 1, "tpu")
    facts = Facts(v5e, None, 2 * 10**9, 10**9, 3 * 10**9, 1e12, 2e12, 64, "bfloat16", 10, 1.5, {"jax": "1"})
    return Row("supervised tiny", v5e, facts, kinds, names)._replace(**changes)


def test_time_is_cycles_on_a_tpu_and_bytes_and_flops_on_a_card():
    tpu = row()
    assert tpu.seconds == pytest.approx(250 / 1.5e9) and tpu.peak == 197e12
    card = row(target=Target("h200", 1, "cuda"))
    assert card.outside == 6 * 2 * 4096
    assert card.seconds == pytest.approx(card.outside / 4800e9 + 1e12 / 989e12)
    fused = row(target=card.target, kinds={**card.kinds, ATTENTION: Cost(1, 1e9, 0, 0, 0)})
    assert fused.outside == card.outside and fused.bytes == card.bytes + 1e9


def test_the_report_says_what_was_found():
    assert "2.00 of 16 GB" in text(row(), 3) and "2.00 times" in text(row(), 3) and "head" in text(row(), 3)
    failed = row(facts=row().facts._replace(error="RuntimeError: RESOURCE_EXHAUSTED: 20G of 15.75G"))
    assert "does not compile: RuntimeError" in text(failed, 3) and "RESOURCE_EXHAUSTED" in markdown([failed])
    less = row(kinds={**row().kinds, "elementwise": Cost(5, 0, 0, 0, 0)})
    assert "-0.00 ms" not in differences(row(), row(), 3)
    assert "memory 2.00 -> 2.00 GB" in differences(row(), less, 3)


@pytest.mark.parametrize("name, target", [
    ("v5e:4", Target("tpu_v5e", 4, "tpu")), ("tpu_v6e:1", Target("tpu_v6e", 1, "tpu")),
    ("v2:8", Target("tpu_v2", 8, "tpu")), ("h100", Target("h100", 1, "cuda")), ("a100:8", Target("a100", 8, "cuda"))])
def test_targets_have_the_fields_names(name, target):
    assert parse_target(name) == target


@pytest.mark.parametrize("name", ["v5e:3", "v7", "h100:0", "h100:x", "cpu", ""])
def test_other_targets_are_refused(name):
    with pytest.raises(ConfigError, match="it must be one of v2:8"):
        parse_target(name)


def test_an_unknown_training_and_no_checkout_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "missing_compiler", lambda target: None)
    with pytest.raises(ConfigError, match="it must begin with one of supervised"):
        measure.run(config.Config(programs=("train digits",), output=tmp_path / "out"))
    with pytest.raises(ConfigError, match="there is no checkout"):
        measure.run(config.Config(against=tmp_path, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_compiler_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="compile-gpu"):
        measure.run(config.Config(output=tmp_path))
    with pytest.raises(ConfigError, match="compile-tpu"):
        measure.run(config.Config(target=("v5e:1",), output=tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", ["h100", "v2:8"])
def test_a_step_compiles_for_a_device_that_is_not_here(name, tmp_path, capsys):
    if missing := missing_compiler(parse_target(name)):
        pytest.skip(f"no compiler for {name}: {missing}")
    program = "supervised digits --model vit_tiny_patch16_224 --model-fields width=64 depth=2 patch_size=4 heads=2"
    wanted = config.Config(programs=(program,), target=(name,), output=tmp_path, cache=tmp_path / "cache")
    measure.run(wanted)
    first = capsys.readouterr().out
    assert "ms estimated" in first and "products" in first and "costliest" in first
    stored = list((tmp_path / "cache").iterdir())
    measure.run(wanted)
    assert sorted(stored) == sorted((tmp_path / "cache").iterdir()), "compiled once"


def test_a_program_for_which_triton_finds_no_tiles_is_compiled_without_it() -> None:
    asked: list[Any] = []

    class Lowered:
        def __init__(self, problem: str) -> None:
            self.problem = problem

        def compile(self, compiler_options: dict[str, Any] | None = None) -> str:
            asked.append(compiler_options)
            if compiler_options is None:
                raise jax.errors.JaxRuntimeError(self.problem)
            return "compiled"

    assert compile_for_absent(Lowered("INTERNAL: Couldn't find output tile sizes that satisfy hlo")) == "compiled"
    assert asked == [None, {"xla_gpu_enable_triton_gemm": False}]
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_for_absent(Lowered("RESOURCE_EXHAUSTED: out of memory"))
