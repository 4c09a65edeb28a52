"""What the papers state of the recipes that presets follow: one module per experiment, with a table RECIPES by preset.

A test compares each preset with its table: a value that differs from the source's needs a reason, and so does a field
that the source does not state. docs/recipes.md shows the tables.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

# Fields that say where and how a run computes, and not what: no source states them.
PRACTICAL = frozenset((
    "attention", "checkpoint_every", "data_cache", "dtype", "eval_every", "log_every", "max_skipped", "remat",
    "resident", "scan", "steps_per_dispatch", "workers"))


class Recipe(NamedTuple):
    """What one preset's source states, in the names and units of the preset's fields."""

    source: str
    """The paper with its section or table, or the authors' file; with a link."""
    states: Mapping[str, Any]
    """Every field that the source decides, with its value there."""
    differs: Mapping[str, str] = {}
    """For fields whose value is another here, and for those that the source does not state: why."""
    lacks: tuple[str, ...] = ()
    """What the source does and no field can say, one sentence each."""
    reached: str = "not stated"
    """The result that the source reports, with its data."""
    run: str = "not run"
    """What was run here, and what it reached."""
