"""docs/models.md beside the code: names, files, parameters, publishers, commands, and the results that are stated."""

import importlib
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from cvjax.interop.families import family_of
from cvjax.interop.pretrained import default_weights
from cvjax.models import create_model, list_models
from cvjax.timm_weights import timm_version, timm_weights
from cvjax.workflow.command import parse
from cvjax.workflow.options import options_of, read_words
from tests.models.test_registry import COUNTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/models.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^### (.+)\n((?:(?!##).*\n)*)", PAGE, re.M))
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| \[(.+)\]\(#.+\) \| (.+) \| (.+) \|$", PAGE, re.M)}
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("python ")]
# Whose a table of names is, by how its layout's name begins; other layouts are the project's own.
PUBLISHERS = {"timm": "timm", "torchvision": "torchvision", "official": "authors", "caffe": "Caffe",
              "transformers": "transformers"}


def item(entry: str, label: str) -> str:
    """What an entry's list says under a label, in one line."""
    return re.search(rf"^- {label}: ((?:.*\n)(?:  .*\n)*)", entry, re.M).group(1).replace("\n  ", " ").strip()


def names(entry: str) -> list[str]:
    """The names that an entry is for: a folded list, or a line."""
    folded = re.search(r"<details markdown>\n<summary>(\d+) names</summary>\n(.*)</details>", entry, re.S)
    found = re.findall(r"`(\w+)`", folded.group(2) if folded else item(entry, "Names"))
    assert not folded or int(folded.group(1)) == len(found)
    return found


def classes(entry: str) -> set[type]:
    """The classes that an entry names, each from its file."""
    listed, path = re.search(r"^((?:`\w+`(?:, | and )?)+) in `(cvjax/models/\w+\.py)`", entry, re.M).groups()
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    found = {getattr(module, name) for name in re.findall(r"\w+", listed.replace(" and ", " "))}
    assert all(each.__module__ == module.__name__ for each in found)
    return found


def publishers(name: str) -> set[str]:
    try:
        layouts = family_of(create_model(name)).namings
    except ValueError:  # no table of names
        return set()
    return {PUBLISHERS[word] for layout in layouts if (word := re.split("[-_]", layout)[0]) in PUBLISHERS}


def test_every_family_has_a_row_and_an_entry() -> None:
    assert list(ENTRIES) == list(ROWS) and len(ROWS) > 20


def test_every_registered_name_occurs_once() -> None:
    listed = Counter(name for entry in ENTRIES.values() for name in names(entry))
    assert listed == Counter(list_models())


@pytest.mark.parametrize("family", ENTRIES)
def test_a_family_is_what_its_row_and_entry_say(family: str) -> None:
    entry, (parameters, weights) = ENTRIES[family], ROWS[family]
    given, named = classes(entry), names(entry)
    if not named:  # a network around another model
        return
    assert {type(create_model(name)) for name in named} == given
    counts = [COUNTS[name] for name in named]
    assert [int(number.replace(",", "")) for number in parameters.split(" to ")] == sorted({min(counts), max(counts)})
    known = set().union(*map(publishers, named))
    assert set(weights.split(", ")) == known if known else weights in ("none", "a classifier's", "its backbone's")
    defaults = re.search(r"defaults for (\d+) of (\d+) names", item(entry, "Weights"))
    stated = tuple(map(int, defaults.groups())) if defaults else (0, len(named))
    defaults = [name for name in named if name in timm_weights() and timm_weights()[name].default]
    assert stated == (len(defaults), len(named))


def test_so_many_of_timms_weights_load() -> None:
    """Those of the names that are here, all of which tests/interop/test_coverage.py compares by names and shapes."""
    files: dict[str, list[int]] = {}
    for name, entry in timm_weights().items():
        counts = files.setdefault(entry.file, [0, 0])
        counts[0] += len(entry.tags)
        counts[1] += len(entry.tags) * (name in list_models())
    stated = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|$", PAGE, re.M)
    assert {file: [int(every), int(here)] for file, every, here in stated} == {
        file: counts for file, counts in files.items() if counts[1]}
    every, here = (sum(counts[i] for counts in files.values()) for i in (0, 1))
    assert re.search(rf"timm {re.escape(timm_version())} lists {every:,} weights, of which {here:,}\s+load here", PAGE)


@pytest.mark.parametrize("family", ENTRIES)
def test_a_result_is_one_of_the_page_of_results(family: str) -> None:
    """Numbers are those with a point or a comma in them."""
    result = item(ENTRIES[family], "Result")
    numbers = re.findall(r"\d+[.,]\d+", result)
    assert numbers or "not trained here" in result or "](re" in result
    assert all(re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d)", RESULTS) for number in numbers), numbers
    assert not numbers or "](results.md#" in result


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split(" ", 2)[2])
def test_a_command_is_understood(command: str) -> None:
    _, _, module, *words = shlex.split(command)
    options = importlib.import_module(module)
    if hasattr(options, "PRESETS"):
        config, _ = parse(module, options.Config, options.PRESETS, "", words)
    else:
        given, loose = read_words(options_of(options.Config), words)
        assert not loose
        config = options.Config(**given)
    model, weights = getattr(config, "model", None), getattr(config, "weights", None) or ""
    assert model is None or model in list_models()
    if weights.startswith("hf-hub:"):
        assert weights == default_weights(model)


@pytest.mark.parametrize("family", ENTRIES)
def test_an_entry_has_a_paper_and_a_command(family: str) -> None:
    first, *_ = ENTRIES[family].strip().split("\n\n")
    assert re.search(r"\[[^]]+ \d{4}\]\(https?://[^)]+\)", first.replace("\n", " "))
    assert "\n```\npython -m experiments." in ENTRIES[family]
