"""The imports that are allowed, the cost of an import, and one home for each thing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("cvjax", "experiments", "benchmarks") for path in (ROOT / package).rglob("*.py"))


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
    "errors": set(),
    "spelling": set(),
    "storage": {"errors"},
    "text": {"errors", "storage"},
    "durable": {"text"},
    "waiting": {"durable"},
    "ops": set(),
    "layers": {"ops"},
    "timm_weights": {"spelling"},
    "models": {"ops", "layers", "spelling", "timm_weights"},
    "losses": {"ops"},
    "data": {"durable", "errors", "spelling", "storage", "text"},
    "tasks": {"ops", "layers", "models", "losses", "data.augment"},
    "train": {"durable", "errors", "storage", "text", "waiting"},
    "evaluate": {"ops", "layers", "waiting"},
    "visualize": {"ops", "losses", "text", "evaluate.shares"},
    "interop": {"errors", "ops", "models", "data.preprocessing", "durable", "spelling", "storage", "text",
                "timm_weights"},
    "workflow": {"durable", "errors", "spelling", "storage", "text", "waiting", "ops", "layers", "models", "losses",
                 "data", "tasks", "train", "evaluate", "visualize", "interop"},
    "": {"models"},  # cvjax/__init__.py
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_arrows(path):
    here = name_of(path).split(".")
    for imported in imports(path):
        package, _, rest = imported.partition(".")
        if package not in ("cvjax", "experiments", "benchmarks", "tests"):
            continue
        assert package != "tests", f"{imported}: the code does not need its tests"
        if here[0] == "benchmarks":
            continue
        assert package != "benchmarks", f"{imported}: benchmarks use the rest, not the other way"
        if here[0] == "experiments":
            continue
        assert package == "cvjax", f"{imported}: experiments use cvjax, not the other way"
        part = here[1] if len(here) > 1 else ""
        allowed = ALLOWED[part] | {part}
        assert any(rest == a or rest.startswith(f"{a}.") for a in allowed if a), f"{name_of(path)} imports {imported}"


# Files that still import each other in a circle; this list only shrinks.
CIRCLES: set[str] = set()


def test_no_files_import_each_other_in_a_circle():
    """Neither at the top nor inside functions: a file can be read after all files that it needs."""
    files = {name_of(path): path for path in MODULES}

    def file_of(imported: str) -> str | None:
        return next((name for name in (imported, imported.rpartition(".")[0]) if name in files), None)

    needed = {name: {file_of(i) for i in imports(path)} - {None, name} for name, path in files.items()}
    while ready := {name for name, others in needed.items() if not others & needed.keys()}:
        needed = {name: others for name, others in needed.items() if name not in ready}
    # What is left is in a circle or needs a file that is; the former are also needed by what is left.
    while ends := needed.keys() - set().union(*needed.values()):
        needed = {name: others for name, others in needed.items() if name not in ends}
    assert set(needed) == CIRCLES


def test_every_part_of_the_house_is_known():
    assert {name_of(path).split(".")[1] for path in MODULES if name_of(path).startswith("cvjax.")} <= set(ALLOWED)


def test_torch_is_imported_in_one_file():
    """The library and its experiments never need it; the benchmark beside it has one file for its side."""
    users = [name_of(path) for path in MODULES
             if {name.split(".")[0] for name in imports(path)} & {"torch", "torchvision", "timm"}]
    assert users == ["benchmarks.steps.torch_side"]


def third_parties(part: str) -> set[str]:
    paths = (ROOT / "cvjax" / part).rglob("*.py")
    return {name.split(".")[0] for path in paths for name in imports(path)}


@pytest.mark.parametrize("part", ["ops", "layers", "models", "losses"])
def test_pure_parts_need_jax_flax_and_numpy_alone(part):
    library = {"typing", "collections", "dataclasses", "functools", "math", "fnmatch", "difflib", "enum", "itertools",
               "contextlib", "re", "importlib", "pkgutil"}
    needed = third_parties(part) - library - {"cvjax"}
    assert needed <= ({"jax", "numpy"} if part in ("ops", "losses") else {"jax", "numpy", "flax"})


def test_importing_models_loads_no_heavy_library(python):
    """Flax itself imports optax and orbax; what counts is what cvjax adds to jax and flax."""
    added = python("import jax, flax.linen, numpy, sys, json; before = set(sys.modules); import cvjax.models\n"
                   "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))")
    # Of jax, `jax.extend`, where primitives are made.
    assert set(added) <= {"cvjax", "jax", "fnmatch", "difflib"}, added


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


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens a text file with the locale's encoding, or with one that it names itself."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in ("read_text", "write_text", "fdopen"):
        return isinstance(function, ast.Attribute)  # as functions they are those of `cvjax.text`
    modes = [value.value for value in [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
             if isinstance(value, ast.Constant) and re.fullmatch(r"[rwax]?[bt+]*", str(value.value))]
    if name != "open" or any("b" in mode for mode in modes):
        return False
    return isinstance(function, ast.Name) or bool(modes)  # others are Image.open and the like


def test_text_files_are_opened_in_one_place():
    """So that all are UTF-8, whatever the locale."""
    assert [opens_text(call) for code in ("open(p)", "open(p, 'w')", "p.open('a')", "p.read_text()", "open(p, 'rb')",
                                          "Image.open(p)", "read_text(p)", "tarfile.open(p, 'r:')")
            for call in [ast.parse(code).body[0].value]] == [True] * 4 + [False] * 4
    found = {f"{name_of(path)}:{node.lineno}" for path in MODULES if name_of(path) != "cvjax.text"
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and opens_text(node)}
    assert found == set()


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
    """A path or a host of the machine that the code was written on is useless elsewhere."""
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


def test_test_files_have_names_of_their_own() -> None:
    """Without packages pytest knows a file by its name alone: of two that are alike it would run one."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
