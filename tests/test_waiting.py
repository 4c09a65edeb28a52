"""What a person sees while nothing else happens."""

import io
import sys
import time
from pathlib import Path

import pytest

from cvjax import waiting as module
from cvjax.waiting import Durations, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come after 10 ms and every 10 ms."""
    monkeypatch.setattr(module, "DELAY", {True: 0.01, False: 0.01})
    monkeypatch.setattr(module, "EVERY", {True: 0.01, False: 0.01})


def test_a_terminal_has_one_line_that_moves_and_goes(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with waiting("compiling the step", last=31.4):
        time.sleep(0.1)
    shown = screen.getvalue()
    assert "\n" not in shown and shown.startswith("\rcompiling the step: 0 s (31 s the last time)")
    assert shown.count("compiling") > 1 and shown.endswith(f"\r{' ' * 44}\r"), "it is wiped out at the end"


def test_elsewhere_each_text_is_a_line(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with waiting("kNN of mae"):
        time.sleep(0.1)
    lines = log.getvalue().splitlines()
    assert len(lines) > 1 and set(lines) == {"kNN of mae: 0 s"} and "\r" not in log.getvalue()


def test_what_is_quick_shows_nothing_and_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with pytest.raises(KeyError), waiting("nothing"):
        raise KeyError
    assert screen.getvalue() == ""


def test_durations_are_remembered_and_a_damaged_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    known = Durations(tmp_path / "cache" / "durations.json")
    assert known.last("a") is None
    for key, seconds in (("a", 1.0), ("b", 2.0), ("a", 3.0), ("c", 4.0)):
        known.note(key, seconds)
    assert [known.last(key) for key in "abc"] == [3.0, None, 4.0], "the oldest went"
    (tmp_path / "cache" / "durations.json").write_text("[1, 2")
    assert known.last("a") is None
    known.note("a", 5.0)
    assert known.last("a") == 5.0
    Durations(tmp_path / "cache" / "durations.json" / "below").note("a", 1.0)  # a folder that cannot be made
