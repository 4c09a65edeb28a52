"""The facts that a measurement depends on besides the code: processor, cores, versions of libraries, the day."""

import importlib.metadata
import importlib.util
import os
import platform
from datetime import UTC, datetime
from typing import Any

from cvjax.text import read_text
from cvjax.workflow.folder import versions

LIBRARIES = ("torch", "torchvision", "timm")  # other libraries, whose versions are recorded if they are installed


def machine(cores: int | None = None) -> dict[str, Any]:
    """Processor, system, cores, versions and date, as JSON can hold them.

    cores: how many are used; None for all that this process may use.
    """
    found = {name: importlib.metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "system": f"{platform.system()} {platform.machine()}", "cores": usable,
            "cores_used": cores or usable, "versions": versions() | found, "date": datetime.now(UTC).date().isoformat()}


def _processor() -> str:
    """The processor's name; on Linux also its family, its model and which wide vector instructions it has."""
    try:
        lines = read_text("/proc/cpuinfo", names=True).split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    known = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{name} ({', '.join(known + wide)})"
