"""The package's metadata: dependencies agree wherever they are stated, and the files beside the code parse."""

import importlib
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(path: Path) -> dict[str, str]:
    """Name -> bounds of each line of a requirements file that is a requirement."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(re.fullmatch(r"([\w.\[\]-]+)(.*)", line).groups() for line in lines if line and line[0] != "-")


def test_the_models_need_three_libraries_within_the_bounds_of_the_experiments() -> None:
    models = dict(re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in PROJECT["project"]["dependencies"])
    experiments = requirements(ROOT / "requirements.txt")
    assert set(models) == {"jax", "flax", "numpy"}
    assert {name: models[name] for name in ("jax", "flax")} == {name: experiments[name] for name in ("jax", "flax")}
    compilers = [requirements(ROOT / f"benchmarks/compiled/requirements-{name}.txt") for name in ("tpu", "gpu")]
    assert compilers == [{"jax[tpu]": models["jax"]}, {"jax[cuda12-local]": models["jax"]}]


def test_extras_read_files_that_setuptools_can_read() -> None:
    """setuptools knows no `-r` inside a file."""
    extras = PROJECT["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    assert set(extras) == {"experiments", "hf", "remote", "docs", "dev", "parity", "compile-tpu", "compile-gpu",
                           "export-onnx"}
    for extra in extras.values():
        for name in extra["file"]:
            assert requirements(ROOT / name) and "\n-" not in (ROOT / name).read_text()


def test_the_command_cvjax_is_the_list_of_experiments() -> None:
    module, function = PROJECT["project"]["scripts"]["cvjax"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert "experiments*" in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]


def test_types_are_shipped() -> None:
    assert (ROOT / "cvjax" / "py.typed").is_file()
    assert PROJECT["tool"]["setuptools"]["package-data"] == {"cvjax": ["py.typed", "timm_weights.json"]}


def load(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def test_workflows_run_what_ci_runs_and_its_newest_libraries() -> None:
    jobs = load(".github/workflows/ci.yml")["jobs"]
    commands = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert ".ci/run" in commands["required"]
    assert "--upgrade" in commands["newest"] and "python -m pytest" in commands["newest"]


def test_the_citation_has_what_the_format_requires() -> None:
    """https://github.com/citation-file-format/citation-file-format/blob/main/schema-guide.md"""
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["authors"] == [{"name": "The cvjax developers"}]
    assert citation["version"] == PROJECT["project"]["version"] and citation["license"] == PROJECT["project"]["license"]


def test_issue_forms_have_what_github_requires() -> None:
    """Every field but plain text has a unique id and a label; a form without them is not shown."""
    for form in ("bug_report", "feature_request"):
        content = load(f".github/ISSUE_TEMPLATE/{form}.yml")
        assert content["name"] and content["description"]
        fields = [part for part in content["body"] if part["type"] != "markdown"]
        assert fields and all(part["attributes"]["label"] for part in fields)
        assert len({part["id"] for part in fields}) == len(fields)


def test_the_hooks_lint_with_the_linter_of_the_tests() -> None:
    hooks = [hook["id"] for repository in load(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert "ruff-check" in hooks


def test_documents_for_contributors_are_there_and_name_files_that_exist() -> None:
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", ".github/pull_request_template.md"):
        text = (ROOT / name).read_text()
        for path in re.findall(r"`((?:tests|cvjax|docs|\.ci)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{name} names {path}"
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
