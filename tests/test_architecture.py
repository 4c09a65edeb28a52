"""Who may import whom, what an import costs, and that each thing has one home."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "cvjax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# Part of the house -> the parts that it may import besides itself.
ALLOWED = {
    "ops": set(),
    "layers": {"ops"},
    "models": {"ops", "layers"},
    "losses": {"ops"},
    "data": set(),
    "tasks": {"ops", "layers", "models", "losses", "data.augment"},
    "train": set(),
    "evaluate": {"ops", "layers"},
    "visualize": {"ops", "losses"},
    "interop": {"ops", "models"},
    "experiment": {"ops", "layers", "models", "losses", "data", "tasks", "train", "evaluate", "visualize", "interop"},
    "": {"models"},  # cvjax/__init__.py
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_arrows(path):
    here = name_of(path).split(".")
    for imported in imports(path):
        package, _, rest = imported.partition(".")
        if package not in ("cvjax", "experiments", "tests"):
            continue
        assert package != "tests", f"{imported}: the code does not need its tests"
        if here[0] == "experiments":
            continue
        assert package == "cvjax", f"{imported}: experiments use cvjax, not the other way"
        part = here[1] if len(here) > 1 else ""
        allowed = ALLOWED[part] | {part}
        assert any(rest == a or rest.startswith(f"{a}.") for a in allowed if a), f"{name_of(path)} imports {imported}"


def test_every_part_of_the_house_is_known():
    assert {name_of(path).split(".")[1] for path in MODULES if name_of(path).startswith("cvjax.")} <= set(ALLOWED)


def third_parties(part: str) -> set[str]:
    paths = (ROOT / "cvjax" / part).rglob("*.py")
    return {name.split(".")[0] for path in paths for name in imports(path)}


@pytest.mark.parametrize("part", ["ops", "layers", "models", "losses"])
def test_pure_parts_need_jax_flax_and_numpy_alone(part):
    library = {"typing", "collections", "dataclasses", "functools", "math", "fnmatch", "difflib", "enum", "itertools",
               "contextlib", "re"}
    needed = third_parties(part) - library - {"cvjax"}
    assert needed <= ({"jax", "numpy"} if part in ("ops", "losses") else {"jax", "numpy", "flax"})


def test_importing_models_loads_no_heavy_library(python):
    """Flax itself imports optax and orbax; what counts is what cvjax adds to jax and flax."""
    added = python("import jax, flax.linen, numpy, sys, json; before = set(sys.modules); import cvjax.models\n"
                   "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))")
    assert set(added) <= {"cvjax", "fnmatch", "difflib"}, added


def test_importing_models_takes_less_than_one_and_a_half_seconds_beyond_jax_and_flax(python):
    code = ("import time, json, jax, flax.linen\nstart = time.perf_counter()\nimport cvjax.models\n"
            "print(json.dumps(time.perf_counter() - start))")
    assert min(python(code) for _ in range(3)) < 1.5


def test_no_module_is_called_utils():
    """A name that says nothing collects everything."""
    forbidden = {"utils", "util", "helpers", "misc", "common"}
    assert [name_of(p) for p in MODULES if set(name_of(p).split(".")) & forbidden] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text and len(text.splitlines()[0]) > 15


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_functions_and_classes_say_what_they_do(path):
    tree = ast.parse(path.read_text())
    bare = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_") and not ast.get_docstring(node)]
    assert set(bare) <= {"require"}  # its three lines are shorter than a sentence about them


def test_training_steps_are_compiled_in_one_place_each():
    """One loop, one jit site (and the pmap adapter): nobody forks them."""
    places = [name_of(path) for path in MODULES if "donate_argnums" in path.read_text()]
    assert places == ["cvjax.train.mesh", "cvjax.train.pmap"]
    assert [name_of(path) for path in MODULES if re.search(r"jax\.pmap\(", path.read_text())] == ["cvjax.train.pmap"]
    loops = [name_of(path) for path in MODULES if re.search(r"^\s*state, \w+ = step\(state", path.read_text(), re.M)]
    assert loops == ["cvjax.train.loop"]


def test_the_linter_has_nothing_to_say():
    pytest.importorskip("ruff", reason="the linter comes with requirements-dev.txt")
    checked = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT,
                             capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    if listed.returncode:  # an unpacked archive is no repository
        return [p for p in ROOT.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.parts)]
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_names_a_machine():
    """A path or a host of the machine that the code was written on helps nobody else."""
    slash = "/"
    patterns = [rf"(?<![\w.]){slash}(?:work|root|home|Users|mnt|scratch){slash}\w", r"https?://(?:localhost|127\.|10\.|192\.168\.)",
                r"(?:extra-)?index-url", r"\b(?:artifactory|nexus|registry)\.[\w.]+"]
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if path == Path(__file__):
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for pattern in patterns
                  for match in re.finditer(pattern, text)]
    assert found == []
