"""The code in README, the pages in docs/ and the notebook runs as it stands there."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cvjax.workflow.options import options_of
from tests.experiments.written_runs import write_run

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
DOCUMENTS = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*")
                                  if path.suffix in (".md", ".ipynb"))]
PAGES = [page for page in DOCUMENTS if page.endswith(".md") and "```python\n" in (ROOT / page).read_text("utf-8")]


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=900,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)})
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def as_python(cell: str) -> str:
    """A cell without Jupyter: installs nothing, and starts commands itself."""
    started = r"import subprocess, sys; subprocess.run([sys.executable, *'\1'.split()], check=True)"
    return "\n".join(re.sub(r"^!python (.*)", started, line) for line in cell.splitlines()
                     if not line.startswith("%pip "))


def test_readme_holds_what_a_newcomer_needs_and_no_more() -> None:
    """Results and measurements have pages of their own in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_the_notebook_is_kept_without_outputs_and_its_code_is_python() -> None:
    """Outputs would be of one machine, on one day, and nobody could review them."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(codes) > 5 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in codes)
    for cell in codes:
        compile(as_python("".join(cell["source"])), "cell", "exec")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    out = run("\n".join(as_python("".join(cell["source"])) for cell in cells), tmp_path)
    assert float(re.search(r"test .*'top1': ([\d.]+)", out).group(1)) > 0.95, out  # 342 of 360 digits
    features = {name: float(number) for name, number in re.findall(r"^(\S+) +(\d\.\d{4})$", out, re.M)}
    assert features["knn/mae"] > features["knn/random"] + 0.1
    assert {path.name for path in (tmp_path / "tour").glob("*.png")} == {"heat.png", "neighbours.png"}


@pytest.mark.parametrize("page", DOCUMENTS)
def test_a_page_names_commands_and_pages_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m ((?:experiments|benchmarks)[.\w]*)", text)):
        path = ROOT / module.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text) + re.findall(r"^\[[^]]+\]: ([^:#\s]+)", text, re.M)
    for link in links:
        target = (ROOT / page).parent.joinpath(link).resolve()
        assert target.is_file(), link
        known = target.is_relative_to(ROOT / "docs") or re.match(r"(\.\./)+(cvjax|experiments|benchmarks|README)", link)
        assert page == "README.md" or known, f"{link} is no page of the site, and the site does not name it"


def flags_of(experiment: str) -> set[str]:
    options = options_of(importlib.import_module(f"experiments.{experiment}").Config)
    return {flag for option in options for flag in (option.flag, option.opposite) if flag}


@pytest.mark.parametrize("page", DOCUMENTS)
def test_a_page_names_options_that_exist(page: str) -> None:
    """Also after the experiment that `plan` is given, and on lines that end in a backslash."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for experiment, rest in re.findall(r"python -m experiments\.(\w+)((?: [^`#|\n]+)?)", text):
        given = {flag.partition("=")[0] for flag in re.findall(r"(?<=\s)--[\w=-]+", rest)} - {"--help", "--help-all"}
        planned = rest.split() if experiment == "plan" else []
        asked = [experiment, *(word for word in planned if (ROOT / f"experiments/{word}.py").is_file())]
        known = set().union(*map(flags_of, asked)) if given else set()
        assert given <= known, f"{experiment}: {given - known}"


def test_the_site_lists_every_page_and_no_other() -> None:
    def pages(entry: object) -> list[str]:
        inside = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else []
        return [entry] if isinstance(entry, str) else [page for each in inside for page in pages(each)]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(f"docs/{page}" for page in listed) == [page for page in DOCUMENTS[1:] if page.endswith(".md")]


def test_the_error_lines_that_a_page_explains_are_those_of_the_code() -> None:
    """A code span on a line of its own is one; `...` stands for what differs.

    Its other words stand in this order in one line of code, once strings that go on in the next line are put together.
    `with_flags` makes --clip-norm of clip_norm.
    """
    def plain(text: str) -> str:
        return text.replace("--", "").replace("-", "_")

    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    files = [plain(path.read_text(encoding="utf-8")) for folder in ("cvjax", "experiments")
             for path in (ROOT / folder).rglob("*.py")]
    code = [line for text in files for line in re.sub(r'"\s*\n\s*f?"', "", text).splitlines() if '"' in line]

    def occurs(quoted: str) -> bool:
        parts = plain(quoted).split("...")
        words = re.compile(".*".join(map(re.escape, parts)))
        return any(words.search(line) for line in code if max(parts, key=len) in line)

    lines = re.findall(r"^`([^`\n]+)`$", page, re.M)
    assert len(lines) >= 25 and not [line for line in lines if not occurs(line)]


def test_the_glossary_names_files_that_exist() -> None:
    rows = re.findall(r"^\| .* \| `([\w/.]+)` \|$", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) > 50 and not [path for path in rows if not (ROOT / path).is_file()]


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    write_run(tmp_path / "runs" / "supervised" / "digits", names=tuple("0123456789"))
    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(tmp_path / "photo.jpg")
    for block in blocks:
        run(block, tmp_path)


def test_the_rules_of_readers_name_tests_that_exist() -> None:
    known = {path.name: set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
             for path in (ROOT / "tests").rglob("test_*.py")}
    known[""] = set().union(*known.values())
    named = re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", (ROOT / "docs/data.md").read_text(encoding="utf-8"))
    assert len(named) > 30 and not [f"{file}::{name}" for file, name in named if name not in known[file]]
