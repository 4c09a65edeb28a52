"""What a measurement depends on besides the code: processor, cores, versions, day."""

import importlib.metadata
import importlib.util
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "timm")  # of others, named where they are installed


def machine(cores: int | None = None) -> dict[str, Any]:
    """As JSON; `cores`: how many are used, by default all that may be."""
    from cvjax.experiment.run import versions

    found = {name: importlib.metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "system": f"{platform.system()} {platform.machine()}", "cores": usable,
            "cores_used": cores or usable, "versions": versions() | found, "date": datetime.now(UTC).date().isoformat()}


def _processor() -> str:
    """The processor's name, with family and model where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    known = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{name} ({', '.join(known + wide)})"
