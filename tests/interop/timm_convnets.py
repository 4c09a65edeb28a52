"""What tests/parity/make_timm_convnets.py stored of timm's ResNets, ConvNeXts and Swins."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

PATH = Path(__file__).with_suffix(".json")
STORED = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of the names and shapes of a state dict, in any order."""
    lines = [f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
