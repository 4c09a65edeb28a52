"""The benchmarks, a line for each; with a name and its arguments, that benchmark itself.

    python -m benchmarks
    python -m benchmarks.steps resnet50
"""

import ast
import difflib
import pkgutil
import runpy
import sys
from pathlib import Path

from cvjax.text import read_text

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """Name of each benchmark -> what it measures, in one line: the docstring of its folder."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]) if module.ispkg)
    return {name: ast.get_docstring(ast.parse(read_text(FOLDER / name / "__init__.py"))) or "" for name in names}


def main(arguments: list[str]) -> None:
    """List the benchmarks, or run the one that the first argument names."""
    known = benchmarks()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("python -m benchmarks.NAME --help explains each of these:\n")
        for name, line in known.items():
            print(f"  {name:{width}}  {line}")
        return
    name = arguments[0].removeprefix("benchmarks.")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"it must be one of {', '.join(known)}"
        print(f"error: unknown benchmark {name!r}: {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"benchmarks.{name}", *arguments[1:]]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
