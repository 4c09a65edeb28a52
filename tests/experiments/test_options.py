"""Options from fields: each type's values, what a command line may look like, and names from elsewhere."""

import dataclasses
import importlib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from cvjax.errors import ConfigError
from cvjax.workflow.names_elsewhere import ALSO_CALLED, NOT_NEEDED
from cvjax.workflow.options import Positional, options_of, read_words
from experiments.__main__ import GROUPS


@dataclasses.dataclass(frozen=True)
class Config:
    """Every type that an option may have."""

    files: Annotated[tuple[Path, ...], Positional]
    text: str | None = "x"
    word: Literal["p", "q"] | None = "p"
    pair: tuple[int, int] | None = (1, 2)
    many: tuple[str, ...] = ("z",)
    number: float = 1.0
    whole_number: int = 3
    numbers: tuple[float, ...] | None = None
    words: tuple[Literal["a", "b"], ...] = ()
    on: bool = True
    place: Path = Path("here")


@pytest.mark.parametrize("line, values, loose", [
    ("", {}, []),
    ("--text None", {"text": None}, []),
    ("--text none", {"text": "none"}, []),
    ("--word q", {"word": "q"}, []),
    ("--word None", {"word": None}, []),
    ("--pair 3 4", {"pair": (3, 4)}, []),
    ("--pair=3 4", {"pair": (3, 4)}, []),
    ("--pair None", {"pair": None}, []),
    ("--many", {"many": ()}, []),
    ("--many --number 3", {"many": (), "number": 3.0}, []),
    ("--many None", {"many": ("None",)}, []),
    ("--many= --number 3", {"many": ("",), "number": 3.0}, []),
    ("--many a --many b", {"many": ("b",)}, []),
    ("--number -1e-3", {"number": -1e-3}, []),
    ("--number -inf", {"number": float("-inf")}, []),
    ("--number=2 --on", {"number": 2.0, "on": True}, []),
    ("--no-on", {"on": False}, []),
    ("--whole_number 1_000", {"whole_number": 1000}, []),
    ("--whole-number -7", {"whole_number": -7}, []),
    ("--numbers -1 2.5", {"numbers": (-1.0, 2.5)}, []),
    ("--words b a", {"words": ("b", "a")}, []),
    ("--text=--lr", {"text": "--lr"}, []),
    ("--text a=b", {"text": "a=b"}, []),
    ("--place - file", {"place": Path("-"), "files": (Path("file"),)}, []),
    ("a b --number 2 c", {"files": (Path("a"), Path("b"), Path("c")), "number": 2.0}, []),
])
def test_a_line_gives_these_values(line, values, loose):
    assert read_words(options_of(Config), line.split()) == (values, loose)


@pytest.mark.parametrize("line, message", [
    ("--number", "--number without a value: it must be a number"),
    ("--whole-number 1e3", "--whole-number 1e3: it must be a whole number"),
    ("--whole-number=", "--whole-number : it must be a whole number"),
    ("--text -x", "unknown option|--text without a value"),
    ("--pair 1 x", "--pair 1 x: it must be 2 values, each a whole number, or None"),
    ("--words a c", "--words a c: it must be any number of values, each one of a, b"),
    ("--files x", "unknown option --files"),
    ("--place s3://b/x", "--place s3://b/x: it must be a path on this machine"),
])
def test_values_that_an_option_does_not_take_are_refused(line, message):
    with pytest.raises(ConfigError, match=f"^({message})"):
        read_words(options_of(Config), line.split())


def test_the_values_of_an_instance_are_defaults():
    found = {option.name: option.default for option in options_of(Config(files=(), number=7.0))}
    assert found["number"] == 7.0 and found["pair"] == (1, 2)


def test_a_type_that_no_option_has_is_refused_by_name():
    @dataclasses.dataclass
    class Wrong:
        table: dict[str, Any] = dataclasses.field(default_factory=dict)

    with pytest.raises(TypeError, match="^table: .* is no type of an option"):
        options_of(Wrong)


def test_names_elsewhere_lead_to_fields_that_exist():
    fields = {field.name for names in GROUPS.values() for name in names
              for field in dataclasses.fields(importlib.import_module(f"experiments.{name}").Config)}
    assert set(ALSO_CALLED) <= fields
    for field, (_, names) in ALSO_CALLED.items():
        assert field.replace("_", "-") not in names.split() and len(set(names.split())) == len(names.split()), field
    assert sum(map(len, map(str.split, NOT_NEEDED))) > 50
