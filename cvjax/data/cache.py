"""Where cvjax keeps what can be made anew."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/cvjax`, or ~/.cache/cvjax where that is not set; it need not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvjax"
