"""What docs/api.md shows of a docstring: a line that explains a parameter, `name: text`, begins a paragraph.

Markdown would run such lines into one. See `extensions` in mkdocs.yml.
"""

import re
from typing import Any

import griffe


class ParametersOnLines(griffe.Extension):
    """Sets blank lines into the docstrings of functions and classes, in memory."""

    def on_function(self, *, func: griffe.Function, **others: Any) -> None:
        _part(func, {parameter.name for parameter in func.parameters})

    def on_class_members(self, *, cls: griffe.Class, **others: Any) -> None:
        _part(cls, set(cls.attributes))


def _part(item: griffe.Object, names: set[str]) -> None:
    if item.docstring and names:
        line = re.compile(rf"^((?:{'|'.join(map(re.escape, sorted(names)))})(?:, \w+)*): ", re.M)
        item.docstring.value = line.sub(r"\n`\1`: ", item.docstring.value)
