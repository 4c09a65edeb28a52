"""The code in README, the pages in docs/ and the notebook runs as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.experiments.written_runs import write_run

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
PAGES = ("README.md", "docs/guide.md", "docs/extending.md")  # those with Python code


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


@pytest.mark.parametrize("page", ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in
                                                      (ROOT / "docs").rglob("*.*"))])
def test_a_page_names_commands_and_pages_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for module in set(re.findall(r"python -m ((?:experiments|benchmarks)[.\w]*)", text)):
        path = ROOT / module.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for link in re.findall(r"\]\(([^):#]+)\)", text):
        assert (ROOT / page).parent.joinpath(link).is_file(), link


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    write_run(tmp_path / "runs" / "supervised" / "digits")
    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(tmp_path / "photo.jpg")
    for block in blocks:
        run(block, tmp_path)


def test_the_rules_of_readers_name_tests_that_exist() -> None:
    known = {path.name: set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
             for path in (ROOT / "tests").rglob("test_*.py")}
    known[""] = set().union(*known.values())
    named = re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", (ROOT / "docs/data.md").read_text(encoding="utf-8"))
    assert len(named) > 30 and not [f"{file}::{name}" for file, name in named if name not in known[file]]
