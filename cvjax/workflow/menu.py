"""The commands of a package by their names: a line for each, near misses, and running one of them.

Nothing is imported for the list, which is read from the files' docstrings: it is there at once, and without the
libraries that the commands need.
"""

import ast
import importlib.util
import os
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

from cvjax.spelling import did_you_mean

LIBRARIES = ("jax", "flax", "optax", "orbax", "grain", "fsspec")

_called: dict[str, str] = {}  # module of a command -> how a person has called it by its name


def first_line(path: Path) -> str:
    """The first line of the docstring of a Python file."""
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]


def choose(program: str, package: str, kind: str, groups: Mapping[str, Mapping[str, str]],
           arguments: list[str]) -> None:
    """Print the list, or run the command that the first argument names, as `python -m PACKAGE.NAME` does.

    A name that is unknown, and a library that is not installed, are one line and exit with status 2.

    Args:
        program: how a person calls the package, such as `python -m experiments`.
        package: where the commands are.
        kind: what a command is called, such as "benchmark".
        groups: heading -> name of each command -> what it does, in one line. An empty heading is not printed.
        arguments: what follows the program's name.
    """
    known = {name: line for group in groups.values() for name, line in group.items()}
    if not arguments or arguments[0] in ("-h", "--help", "--help-all"):
        width = max(map(len, known))
        listed = ["\n".join([f"{heading}:"] * bool(heading) + [f"  {name:{width}}  {line}"
                                                              for name, line in group.items()])
                  for heading, group in groups.items()]
        show("\n\n".join([f"{program} NAME runs one of these; NAME --help explains it.", *listed]))
        return
    name = arguments[0].removeprefix(f"{package}.")
    if name not in known:
        hint = did_you_mean(name, known, f"it must be one of {', '.join(known)}")
        _refuse(f"unknown {kind} {name!r}: {hint}")
    sys.argv = [f"{package}.{name}", *arguments[1:]]
    _called[f"{package}.{name}"] = f"{program} {name}"
    require_libraries()
    runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)


def called(module: str) -> str:
    """How a person calls this command: `cvjax knn` or `python -m experiments knn` as it was started, by default
    `python -m experiments.knn`."""
    return _called.get(module, f"python -m {module}")


def show(text: str) -> None:
    """Print a text that may be longer than its reader, such as `head` or `less`, wants it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends


def require_libraries() -> None:
    """Exit with status 2 and one line if a library is not installed that every command needs."""
    if missing := [library for library in LIBRARIES if importlib.util.find_spec(library) is None]:
        _refuse(f'{", ".join(missing)} not installed: pip install ".[experiments]", in the folder of cvjax, adds all '
                "that experiments need")


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
