"""Writes docs/recipes.md: `python -m experiments.recipes`."""

from pathlib import Path

from cvjax.text import write_text
from experiments.recipes.page import page

write_text(Path(__file__).parents[2] / "docs" / "recipes.md", page())
