"""Promises of all benchmarks: they are listed, help comes at once, and no setting is without help or use."""

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import benchmarks, main
from cvjax.workflow.options import options_of

ROOT = Path(__file__).parents[2]
NAMES = list(benchmarks())
NOISE = 2.5  # other processes may use the cores: see tests/experiments/test_command_line.py


def test_the_list_has_a_line_for_each(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert {"attention_cost", "compiled", "input_speed", "region_cost", "steps"} <= set(NAMES)
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    assert listed == benchmarks() and all(20 < len(text) < 100 for text in listed.values())


@pytest.mark.parametrize("name, hint", [("step", "did you mean steps?"), ("region_costs", "did you mean region_cost"),
                                        ("x", "it must be one of attention_cost, compiled, input_speed, region_cost, "
                                              "steps")])
def test_a_wrong_name_is_one_line_that_says_what_is_there(capsys, name, hint):
    with pytest.raises(SystemExit) as stop:
        main([name])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: unknown benchmark '{name}': ") and hint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_help_comes_at_once_and_names_every_field(name, environment):
    """By `python -m benchmarks.NAME`, and one of them by `python -m benchmarks NAME`."""
    command = ["benchmarks", name] if name == "steps" else [f"benchmarks.{name}"]
    seconds = []
    for _ in range(3):  # the best of three
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *command, "--help-all"], cwd=ROOT, env=environment(),
                              capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        if seconds[-1] < 3:
            break
    assert min(seconds) < 3 * NOISE
    assert f"usage: python -m {' '.join([*command, ''])}" in done.stdout
    for option in options_of(config_of(name).Config):
        assert (option.metavar if option.mark.positional else option.flag) in done.stdout


def test_help_imports_nothing_heavy(python):
    modules = ", ".join(["benchmarks.__main__", *(f"benchmarks.{name}.__main__" for name in NAMES)])
    loaded = python(f"import sys, json, {modules}; print(json.dumps(sorted(sys.modules)))")
    assert not {"jax", "flax", "orbax", "grain", "sklearn", "matplotlib", "torch"} & set(loaded)


def config_of(name: str):
    """The module with a benchmark's settings."""
    return importlib.import_module(f"benchmarks.{name}.config")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_constructs(name):
    for preset in getattr(config_of(name), "PRESETS", {}).values():
        config_of(name).Config(**preset)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_help_and_is_read(name):
    folder = ROOT / "benchmarks" / name
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    body = next(node.body for node in ast.parse((folder / "config.py").read_text()).body
                if isinstance(node, ast.ClassDef))
    for node, after in zip(body, body[1:]):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(node.target)
    fields = {field.name for field in dataclasses.fields(config_of(name).Config)}
    read_by_folder = {"run_dir", "overwrite", "dry_run"}  # by cvjax.workflow.folder
    assert fields - read_by_folder <= set(re.findall(r"\bconfig\.(\w+)", code))
