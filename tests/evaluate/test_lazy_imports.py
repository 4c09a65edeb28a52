import subprocess
import sys

import pytest


@pytest.mark.parametrize("package, heavy", [
    ("cvjax.evaluate", ("sklearn", "matplotlib", "scipy", "pycocotools")),
    ("cvjax.visualize", ("sklearn", "matplotlib.pyplot"))])  # pyplot would look for a screen
def test_import_brings_no_heavy_library(package, heavy):
    code = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
