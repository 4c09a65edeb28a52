"""Import this before timm or torchvision: in some installations torchvision's compiled operators do not load.

Its Python side then fails on import, at the shape functions of two operators that nobody has declared. To
declare them, without an implementation, is enough for every model that does not call them.
"""

import importlib.util
from pathlib import Path

import torch

_package = Path(importlib.util.find_spec("torchvision").origin).parent
try:
    torch.ops.load_library(next(_package.glob("_C*")))
except (OSError, StopIteration):
    _library = torch.library.Library("torchvision", "FRAGMENT")  # the declarations live as long as this object
    # This file may be imported under two names, as tests see it from different folders.
    for _operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, _operator):
            _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
