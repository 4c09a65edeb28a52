"""The commands of a package by their names: a line for each, near misses, and running one of them.

Nothing is imported for the list, which is read from the files' docstrings: it is there at once, and without the
libraries that the commands need.
"""

import ast
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

from cvjax.spelling import did_you_mean


def first_line(path: Path) -> str:
    """The first line of the docstring of a Python file."""
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]


def choose(package: str, kind: str, groups: Mapping[str, Mapping[str, str]], arguments: list[str]) -> None:
    """Print the list, or run the command that the first argument names, as `python -m PACKAGE.NAME` does.

    A name that is unknown, and a library that is not installed, are one line and exit with status 2.

    Args:
        package: where the commands are.
        kind: what a command is called, such as "benchmark".
        groups: heading -> name of each command -> what it does, in one line. An empty heading is not printed.
        arguments: what follows the program's name.
    """
    known = {name: line for group in groups.values() for name, line in group.items()}
    if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
        width = max(map(len, known))
        print(f"python -m {package} NAME runs one of these; NAME --help explains it.")
        for heading, group in groups.items():
            print("\n" + f"{heading}:\n" * bool(heading) + "\n".join(
                f"  {name:{width}}  {line}" for name, line in group.items()))
        return
    name = arguments[0].removeprefix(f"{package}.")
    if name not in known:
        hint = did_you_mean(name, known, f"it must be one of {', '.join(known)}")
        _refuse(f"unknown {kind} {name!r}: {hint}")
    sys.argv = [f"{package}.{name}", *arguments[1:]]
    try:
        runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "cvjax", package):
            raise
        _refuse(f'{library} is not installed: pip install "cvjax[experiments]" adds what all {kind}s need')


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
