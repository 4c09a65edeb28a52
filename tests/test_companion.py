"""The lecture companion and the Korean pages: what they name exists, and both languages say the same."""

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cvjax.models import create_model
from cvjax.workflow.classification.model import parse_fields
from cvjax.workflow.command import parse
from cvjax.workflow.options import options_of, read_words
from experiments.plan import split_arguments

ROOT = Path(__file__).parents[1]
COMPANIONS = ("docs/companion.md", "docs/ko/companion.md")
READMES = ("README.md", "README.ko.md")
PAGES = (*COMPANIONS, "README.ko.md")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """What stands between fences, each with the language that its fence names."""
    return re.findall(r"^```(.*?)^```$", text, re.S | re.M)


def commands(text: str) -> list[str]:
    """All commands of a page, in their order: those in blocks, and those within a sentence."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    found = re.findall(r"^(?:.*&& \S*)?(python -m .*)$|`(python\s+-m\s[^`]+)`", joined, re.M)
    return [shlex.join(shlex.split(line or inline, comments=True)[2:]) for line, inline in found]


def configuration(module: str, words: list[str]) -> Any:
    """What a command line asks for; ConfigError if an option or a value is wrong."""
    config = importlib.import_module(f"{module}.config" if module.startswith("benchmarks.") else module)
    if hasattr(config, "PRESETS"):
        return parse(module, config.Config, config.PRESETS, "", words)[0]
    given, loose = read_words(options_of(config.Config), words)
    assert not loose, loose
    return config.Config(**given)


def named_code(page: str) -> list[tuple[str, str]]:
    """Name and file, from the project's root, of each function or class that a page links to."""
    links = re.findall(r"\[`([\w.]+)`\]\(([^)]+\.py)\)", text_of(page))
    return [(name, (ROOT / page).parent.joinpath(file).resolve().relative_to(ROOT).as_posix()) for name, file in links]


def defines(file: str, name: str) -> bool:
    """Whether a file defines a function, a class, or `Class.method` at its top."""
    nodes = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part]
        if not found:
            return False
        nodes = found[0].body
    return True


@pytest.mark.parametrize("page", COMPANIONS)
def test_each_name_stands_beside_the_file_that_defines_it(page: str) -> None:
    code = named_code(page)
    assert len(code) > 80 and not [link for link in code if not defines(link[1], link[0])]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_anchors(page: str) -> None:
    text = text_of(page)
    anchors = re.findall(r'<a id="([^"]+)"></a>', text)
    assert len(set(anchors)) == len(anchors)
    for link in re.findall(r"\]\(([^):]+)\)", text):
        file, _, anchor = link.partition("#")
        assert (ROOT / page).parent.joinpath(file).exists(), link
        assert not anchor or anchor in anchors, link


@pytest.mark.parametrize("page", PAGES)
def test_each_command_is_understood(page: str) -> None:
    """Options, values and presets are known, and so are models and their fields."""
    found = commands(text_of(page))
    assert len(found) > 10
    for command in found:
        module, *words = shlex.split(command)
        if module in ("experiments", "benchmarks", "pytest"):  # these list, or run, all there is
            assert not words
            continue
        if module == "experiments.plan":
            words, training = split_arguments(words)
            configuration(f"experiments.{training[0]}", training[1:])
        config = configuration(module, words)
        name = getattr(config, "name" if module == "experiments.inspect" else "model", None)
        if name is not None:
            create_model(name, **parse_fields(getattr(config, "model_fields", ())))


@pytest.mark.parametrize("page", COMPANIONS)
def test_each_picture_is_one_that_the_code_draws(page: str) -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for package in ("cvjax/workflow", "experiments")
                     for path in (ROOT / package).rglob("*.py"))
    drawn = set(re.findall(r"\"(\w+\.(?:png|txt))\"", code)) | {"rcnn.png", "sppnet.png"}  # named by their methods
    named = set(re.findall(r"figures/(\w+\.\w+)", text_of(page)))
    assert len(named) > 10 and named <= drawn


def sections(text: str) -> list[tuple[str, list[str], int]]:
    """Of each section its anchor, what stands in backticks, sorted, and the number of formulas and questions."""
    parts = re.split(r'^<a id="([^"]+)"></a>$', re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), flags=re.M)
    return [(anchor, sorted(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", part)),
             len(re.findall(r"^(?:- (?:Formula|수식): |\*\*(?:Question|질문)\.\*\* )", part, re.M)))
            for anchor, part in zip(parts[1::2], parts[2::2], strict=True)]


def test_the_companion_is_the_same_in_both_languages() -> None:
    english, korean = map(text_of, COMPANIONS)
    for pattern in (r"^#+ |^<a .*", r"\]\((https?://[^)]+|#[^)]+)\)", r"figures/\w+\.\w+"):
        assert re.findall(pattern, english, re.M) == re.findall(pattern, korean, re.M), pattern
    assert blocks(english) == blocks(korean)
    assert commands(english) == commands(korean)
    assert named_code(COMPANIONS[0]) == named_code(COMPANIONS[1])
    for here, there in zip(sections(english), sections(korean), strict=True):
        assert here == there


def test_the_readme_is_the_same_in_both_languages() -> None:
    english, korean = map(text_of, READMES)

    def plain(text: str) -> list[str]:
        return [re.sub(r" +#.*", "", block) for block in blocks(text)]

    assert plain(english) == plain(korean) and len(plain(english)) > 7
    assert re.findall(r"^(#+) ", english, re.M) == re.findall(r"^(#+) ", korean, re.M)
    links = [re.findall(r"\]\(([^)]+)\)", text.replace("docs/ko/", "docs/"))[1:] for text in (english, korean)]
    assert links[0] == links[1]  # but for the first, which leads to the other language
    assert re.findall(r"^\| `(\w+(?:/\w+)?)` \|", english, re.M) == re.findall(r"^\| `(\w+(?:/\w+)?)` \|", korean, re.M)
    assert max(map(len, korean.splitlines())) <= 120
