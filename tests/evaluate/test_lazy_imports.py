import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["cvjax.evaluate", "cvjax.visualize"])
def test_import_brings_neither_sklearn_nor_matplotlib(package):
    code = f"import sys, {package}; print([m for m in ('sklearn', 'matplotlib', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
