"""Reads `config.json` and `summary.json` of a run, and says in one line what is wrong with one that is damaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvjax.errors import ConfigError, DataError
from cvjax.storage import read_bytes
from cvjax.text import decode_text
from cvjax.workflow.config import FREE

CONFIG, SUMMARY = "config.json", "summary.json"
PIECES = "pieces"  # a folder of parts of a result that is not whole yet


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run: its experiment, all fields and `started`, how it was started (see `RunFolder`);
    ConfigError names the file and what is wrong."""
    content = _read_object(folder / CONFIG)
    if not isinstance(content.get("experiment"), str):
        raise ConfigError(f"{folder / CONFIG} is not the configuration of a run: it names no experiment")
    return content


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run, whose `metrics` are numbers; ConfigError names the file and what is wrong."""
    content = _read_object(folder / SUMMARY)
    metrics = content.get("metrics")
    if not isinstance(metrics, dict) or not all(isinstance(value, int | float) for value in metrics.values()):
        raise ConfigError(f"{folder / SUMMARY} is not the summary of a run: it has no metrics with numbers")
    return content


def _read_object(path: Path) -> dict[str, Any]:
    content = read_bytes(path)
    if not content.strip(b"\0 \t\r\n"):  # zeros are what some file systems leave of a file after a power cut
        raise ConfigError(f"{path} is empty")
    try:
        found = json.loads(decode_text(content, path.name))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is cut off or not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
                          ) from None
    except (DataError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return found


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], place: str) -> None:
    """ConfigError unless both are the configuration of one run, up to fields that may change when it is resumed.

    before: as in the run's folder. now: as asked for. place: the folder, for the message.
    """
    way_out = "give another --run-dir, or --overwrite to delete it"
    unknown = sorted(before.keys() - now.keys() - set(FREE))
    if unknown and before["experiment"] == now["experiment"]:
        raise ConfigError(f"{place}/{CONFIG} has fields that this version does not know ({', '.join(unknown)}): a "
                          f"newer one wrote them, or somebody did by hand; resume with that version, {way_out}")
    changed = [f"{name} was {repr(before[name]) if name in before else 'not there'}, is now {now.get(name)!r}"
               for name in sorted({*before, *now}) if name not in FREE and before.get(name) != now.get(name)]
    if changed:
        raise ConfigError(f"{place} holds a run of another configuration ({'; '.join(changed)}): {way_out}")
