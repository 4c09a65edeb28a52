"""The page docs/recipes.md, made from the presets and the tables beside them."""

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.recipes import PRACTICAL, Recipe

HEAD = """# Recipes

What each preset follows, what its source reached, and what was run here. The tables below compare every field that a
source decides; where a preset differs, they say why. This page is written by `python -m experiments.recipes`, from the
presets in `experiments/` and the tables in `experiments/recipes/`, and a test compares all three. Fields that only say
where and how a run computes (such as `workers`, `dtype` and `checkpoint_every`) are left out.
"""


def experiments() -> Iterator[tuple[str, Any, dict[str, Recipe]]]:
    """Name, module and table of each experiment that has recipes of others."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "__main__", "page"):
            module = importlib.import_module(f"experiments.{path.stem}")
            yield path.stem, module, importlib.import_module(f"experiments.recipes.{path.stem}").RECIPES


def rows(config: Any, recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Field, its value in the source, its value here, and why it is another."""
    decided = [*recipe.states, *(name for name in recipe.differs if name not in recipe.states)]
    return [(name, shown(recipe.states[name]) if name in recipe.states else "not stated", shown(getattr(config, name)),
             recipe.differs.get(name, "")) for name in decided]


def shown(value: Any) -> str:
    """A value as one would type it, with as many digits as one reads."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "default" if value is None else str(value)


def page() -> str:
    """The whole page as Markdown."""
    summary = ["| experiment | preset | source | reached there | run here |", "| --- | --- | --- | --- | --- |"]
    tables = []
    for name, module, recipes in experiments():
        tables.append(f"## experiments.{name}\n")
        for preset, fields in module.PRESETS.items():
            if preset not in recipes:
                summary.append(f"| {name} | `{preset}` | our own | | [results](results.md) |")
                continue
            recipe = recipes[preset]
            summary.append(f"| {name} | `{preset}` | {recipe.source} | {recipe.reached} | {recipe.run} |")
            tables += [f"### {preset}\n", "| field | source | here | why |", "| --- | --- | --- | --- |"]
            tables += [f"| {' | '.join(row)} |" for row in rows(module.Config(**fields), recipe)]
            tables += ["", *(f"- {sentence}" for sentence in recipe.lacks), *([""] if recipe.lacks else [])]
    return "\n".join([HEAD, *summary, "", *tables]).rstrip("\n") + "\n"


def contradictions(module: Any, recipes: dict[str, Recipe]) -> list[str]:
    """What the presets of an experiment and their tables do not agree on, one line each."""
    found = [f"there is no preset {name}" for name in recipes.keys() - module.PRESETS.keys()]
    for name in recipes.keys() & module.PRESETS.keys():
        fields, recipe = module.PRESETS[name], recipes[name]
        config = module.Config(**fields)
        known = {field.name for field in dataclasses.fields(config)}
        for field in sorted(known & {*recipe.states, *recipe.differs}):
            here, states = getattr(config, field), field in recipe.states
            same = states and here == recipe.states[field]
            if states and not same and field not in recipe.differs:
                found.append(f"{name}: {field} is {here}, the source has {recipe.states[field]}, and no reason is "
                             "given")
            if same and field in recipe.differs:
                found.append(f"{name}: {field} is the source's {here}, but a reason for another value is given")
        found += [f"{name}: there is no field {field}" for field in sorted({*recipe.states, *recipe.differs} - known)]
        unexplained = sorted(fields.keys() - {*recipe.states, *recipe.differs} - PRACTICAL)
        found += [f"{name}: {field} is set, and the table says nothing of it" for field in unexplained]
    return found
