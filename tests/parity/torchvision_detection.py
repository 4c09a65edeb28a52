"""Import this before torchvision's detectors: where its compiled operators do not load, plain ones take their place.

Of the operators that its Faster R-CNN calls, torchvision has `roi_align` in Python besides, but for one rule; this rule
and `nms` are written here. `COMPILED` says whether the compiled ones are there. roi_pool has no other.
"""

import torch
import torchvision_operators  # noqa: F401  before torchvision
from torchvision import ops
from torchvision.extension import _has_ops

COMPILED = _has_ops()
_REGIONS = 64  # torchvision's own roi_align keeps every sample of every region: 50 MB for 64 of 256 channels


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy suppression as `torchvision.ops.nms` states it: int64 positions of the boxes that stay, best first."""
    order = torch.argsort(scores, descending=True, stable=True)
    boxes = boxes[order]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    area = sides.prod(1)
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            corner = torch.maximum(boxes[i, :2], boxes[i + 1:, :2])
            shared = (torch.minimum(boxes[i, 2:], boxes[i + 1:, 2:]) - corner).clamp(min=0).prod(1)
            alive[i + 1:] &= ~(shared / (area[i] + area[i + 1:] - shared) > iou_threshold)
    return order[torch.tensor(kept, dtype=torch.int64)]


if not COMPILED:
    _library = torch.library.Library("torchvision", "IMPL")  # lasts as long as this object
    _library.impl("nms", nms, "CPU")
    _python = ops.roi_align.__globals__
    _plain, _interpolate = _python["_roi_align"].__wrapped__, _python["_bilinear_interpolate"]  # compiling takes longer

    def _roi_align(features: torch.Tensor, rois: torch.Tensor, *how: object) -> torch.Tensor:
        return torch.cat([_plain(features, some, *how) for some in rois.split(_REGIONS)])

    def _bilinear_interpolate(features: torch.Tensor, image: torch.Tensor, y: torch.Tensor, x: torch.Tensor,
                              *masks: object) -> torch.Tensor:
        """Samples more than a pixel outside the map are 0, as in the kernel that the Python follows otherwise."""
        height, width = features.shape[2:]
        far_y, far_x = (y < -1) | (y > height), (x < -1) | (x > width)
        values = _interpolate(features, image, y, x, *masks)
        return values.masked_fill(far_y[:, None, :, None, :, None] | far_x[:, None, None, :, None, :], 0)

    _python.update(_roi_align=_roi_align, _bilinear_interpolate=_bilinear_interpolate)
    ops.nms.__globals__["_assert_has_ops"] = lambda: None
