"""The benchmarks, a line for each; with a name and its arguments, that benchmark itself.

    python -m benchmarks
    python -m benchmarks.steps resnet50
"""

import pkgutil
import sys
from pathlib import Path

from cvjax.workflow.menu import choose, first_line

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """Name of each benchmark -> what it measures, in one line: the docstring of its folder."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]) if module.ispkg)
    return {name: first_line(FOLDER / name / "__init__.py") for name in names}


def main(arguments: list[str]) -> None:
    """List the benchmarks, or run the one that the first argument names."""
    choose("python -m benchmarks", "benchmarks", "benchmark", {"": benchmarks()}, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
