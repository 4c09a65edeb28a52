"""The code in README, in the pages of docs/ and, with fewer steps, in the notebooks runs as it stands there."""

import importlib
import importlib.metadata
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
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/notebooks").glob("*.ipynb"))
# What the tests add to a notebook's commands, by their experiment.
FEWER = {"mae_pretrain": "--epochs 8", "dino_pretrain": "--epochs 4", "supervised": "--epochs 4",
         "detect": "--data scenes:160,16,64 --epochs 1",
         "segment": "--data scenes:160,16,64 --crop-size 64 64 --epochs 1"}
DOCUMENTS = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*")
                                  if path.suffix in (".md", ".ipynb"))]
PAGES = [page for page in DOCUMENTS if page.endswith(".md") and "```python\n" in (ROOT / page).read_text("utf-8")]


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=900,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)})
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def as_python(cell: str) -> str:
    """A cell without Jupyter, which starts commands itself, with fewer steps: the last of two equal options counts."""
    def started(command: re.Match[str]) -> str:
        words = command.group(1).split()
        experiment = words[1].removeprefix("experiments.")
        shorter = FEWER.get(experiment, "").split()
        if shorter and "--run-dir" not in words:  # otherwise the fewer steps are part of the run's name
            shorter += ["--run-dir", f"runs/{experiment}/digits"]
        return f"subprocess.run([sys.executable, *{words + shorter}], check=True)"

    return re.sub(r"^!python (.*)$", started, cell, flags=re.M)


def code_cells(notebook: str) -> list[dict]:
    return [cell for cell in json.loads((ROOT / notebook).read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def printed(output: dict) -> str:
    """What one output of a cell says, without its picture."""
    return "".join(output.get("text", ())) + "".join(output.get("data", {}).get("text/plain", ()))


def test_readme_holds_what_a_newcomer_needs_and_no_more() -> None:
    """Results and measurements have pages of their own in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_is_kept_as_it_ran(notebook: str) -> None:
    """From top to bottom in a fresh kernel, without errors, as a file that a browser shows at once."""
    cells = code_cells(notebook)
    assert len(cells) > 6 and [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell["source"] for cell in cells[:2]] == [cell["source"] for cell in code_cells(NOTEBOOKS[0])[:2]]
    for cell in cells:
        compile(as_python("".join(cell["source"])), "cell", "exec")
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    said = "\n".join(map(printed, outputs))
    assert "Traceback" not in said and not re.search("\r(?!\n)", said)  # of a progress bar the last state is kept
    assert not re.findall(r"(?<![\w.])/(?:work|root|home|tmp|content|usr|mnt|Users)\b.*", said)
    assert (ROOT / notebook).stat().st_size < 400_000


def test_the_first_cell_of_a_notebook_installs_what_is_missing_and_keeps_jax(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "cvjax-main/experiments").mkdir(parents=True)  # as an unzipped copy lies beside a notebook on Colab
    (tmp_path / "cvjax-main/experiments/mae_pretrain.py").touch()
    needs = tmp_path / "cvjax-main/requirements.txt"
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: commands.append(words))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PATH", os.environ["PATH"])
    cell = "".join(code_cells(NOTEBOOKS[0])[0]["source"])

    def installed(*lines: str) -> list[str]:
        needs.write_text("\n".join(lines))
        monkeypatch.chdir(tmp_path)
        exec(cell, {})
        assert Path.cwd() == needs.parent and sys.path[0] == str(needs.parent)
        return commands.pop()[5:] if commands else []

    real = importlib.metadata.version
    kept = [f"{name}=={real(name)}" for name in ("jax", "jaxlib", "numpy")]
    assert installed("jax>=0.1", "numpy  # any", "", "# a comment") == []
    assert installed("jax>=0.1", "no-such-package>=2  # why") == ["no-such-package>=2", *kept]
    for present, wanted in ((), "jax>=99"), (("libtpu",), "jax[tpu]>=99"):
        def version(name: str, present: tuple[str, ...] = present) -> str:
            if name in present:
                return "1"
            if name == "libtpu" or name.startswith("jax-cuda"):  # compilers that are here are not the machine's
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        assert installed("jax>=99", "numpy") == [wanted]
    monkeypatch.chdir(tmp_path / "cvjax-main/experiments")
    (tmp_path / "cvjax-main/experiments/mae_pretrain.py").unlink()
    with pytest.raises(FileNotFoundError, match="bring it"):
        exec(cell, {})


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_runs(notebook: str, tmp_path: Path) -> None:
    """Opened where it lies, in a copy of the project."""
    (tmp_path / notebook).parent.mkdir(parents=True)
    for name in ("cvjax", "experiments", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    cells = ["".join(cell["source"]) for cell in code_cells(notebook)]
    out = run("\n".join(map(as_python, cells)), (tmp_path / notebook).parent)
    told = {name: list(map(float, re.findall(r"[\d.]+(?=%)", rest)))
            for name, rest in re.findall(r"^(mae|dino|pixels) +((?: *[\d.]+%)+)$", out, re.M)}
    match Path(notebook).stem:
        case "mae" | "dino" as name:  # the last table: digits as they are, and moved by a pixel
            assert len(told[name]) == 5 and told[name][0] > 80
            assert told["pixels"][0] == 97.5 and max(told["pixels"][1:]) < 75
        case "classify":
            assert float(re.search(r"^test \{.*'top1': ([\d.]+)", out, re.M).group(1)) > 0.95  # 342 of 360 digits
            assert len(re.findall(r"_is_\d\.png: ", out)) == 6 and (tmp_path / "runs/notebook/heat.png").is_file()
        case "detect":
            assert len(list((tmp_path / "runs/notebook/found/drawn/scenes").iterdir())) == 8


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
