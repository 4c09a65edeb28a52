"""torchvision's Faster R-CNN with narrow stages, and its numbers."""

import numpy as np
import torch
import torchvision_detection  # noqa: F401  before torchvision
from deterministic_weights import fill, sketch
from faster_rcnn_side import ALL, FIELDS, MAX_DETECTIONS, SIZE, images, truth
from resnet_reference import NarrowResNet
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.resnet import Bottleneck
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


def small() -> FasterRCNN:
    width = FIELDS["backbone_fields"]["width"]
    body = BackboneWithFPN(NarrowResNet(Bottleneck, width, num_classes=1),
                           {f"layer{i + 1}": str(i) for i in range(4)},
                           [4 * width * 2**i for i in range(4)], FIELDS["pyramid_width"])
    body.fpn.extra_blocks = LastLevelMaxPool()
    model = FasterRCNN(
        body, rpn_anchor_generator=AnchorGenerator(FIELDS["anchor_sizes"], ((0.5, 1.0, 2.0),) * 5),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=FIELDS["canonical_size"]),
        box_head=nn.Identity(), box_predictor=nn.Identity(), num_classes=None,
        rpn_pre_nms_top_n_train=FIELDS["candidates"][0], rpn_pre_nms_top_n_test=FIELDS["candidates"][1],
        rpn_post_nms_top_n_train=FIELDS["proposals"][0], rpn_post_nms_top_n_test=FIELDS["proposals"][1],
        rpn_batch_size_per_image=ALL[0], rpn_positive_fraction=1.0, box_batch_size_per_image=ALL[1],
        box_positive_fraction=1.0, box_detections_per_img=MAX_DETECTIONS)
    model.roi_heads.box_head = TwoMLPHead(FIELDS["pyramid_width"] * 49, FIELDS["head_width"])
    model.roi_heads.box_predictor = FastRCNNPredictor(FIELDS["head_width"], FIELDS["num_classes"] + 1)
    return model


def filled(model: nn.Module) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    """The model with its deterministic weights, in evaluation, and their shapes."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if "num_batches" not in name}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in fill(shapes).items()}, strict=False)
    return model.eval(), shapes


def targets() -> list[dict[str, torch.Tensor]]:
    given = truth()
    return [{"boxes": torch.from_numpy(boxes[mask]), "labels": torch.from_numpy(labels[mask]).long() + 1}
            for boxes, labels, mask in zip(given["boxes"], given["box_label"], given["box_mask"])]


def losses(model: FasterRCNN, x: torch.Tensor, target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of one image (1, C, H, W), without the transform; the backbone's norms keep their statistics."""
    listed = ImageList(x, [tuple(x.shape[2:])])
    maps = model.backbone(x)
    model.rpn.train(), model.roi_heads.train()
    proposals, first = model.rpn(listed, maps, [target])
    _, second = model.roi_heads(maps, proposals, listed.image_sizes, [target])
    model.eval()
    both = first | second
    names = {"rpn_objectness": "loss_objectness", "rpn_boxes": "loss_rpn_box_reg", "roi_classes": "loss_classifier",
             "roi_boxes": "loss_box_reg"}
    return {name: both[theirs] for name, theirs in names.items()}


def _rows(arrays: list[torch.Tensor], count: int) -> np.ndarray:
    out = np.zeros((len(arrays), count, *arrays[0].shape[1:]), np.float32)
    for row, array in zip(out, arrays):
        row[:len(array)] = array.numpy()
    return out


@torch.no_grad()
def numbers(dtype: torch.dtype = torch.float32) -> dict[str, np.ndarray]:
    """The reference's numbers; on every image by itself for the losses, whose sums torchvision divides by batch."""
    model, shapes = filled(small())
    model = model.to(dtype)
    x = torch.from_numpy(images()).permute(0, 3, 1, 2).to(dtype)
    listed = ImageList(x, [SIZE] * len(x))
    maps = model.backbone(x)
    objectness, codes = model.rpn.head(list(maps.values()))
    proposals, _ = model.rpn(listed, maps)
    regions = model.roi_heads.box_roi_pool(maps, proposals, listed.image_sizes)
    found, _ = model.roi_heads(maps, proposals, listed.image_sizes)
    per_image = [losses(model, x[i:i + 1], {k: v.to(dtype) if k == "boxes" else v for k, v in target.items()})
                 for i, target in enumerate(targets())]

    def flat(levels: list[torch.Tensor], size: int) -> torch.Tensor:
        return torch.cat([y.permute(0, 2, 3, 1).reshape(len(y), -1, size) for y in levels], dim=1)

    count = FIELDS["proposals"][1]
    result = {f"map{i}": y.permute(0, 2, 3, 1).numpy() for i, y in enumerate(maps.values())} | {
        "objectness": flat(objectness, 1)[..., 0].numpy(), "anchor_codes": flat(codes, 4).numpy(),
        "proposals": _rows(proposals, count),
        "regions": _rows(regions.permute(0, 2, 3, 1).split([len(boxes) for boxes in proposals]), count),
        "boxes": _rows([each["boxes"] for each in found], MAX_DETECTIONS),
        "score": _rows([each["scores"] for each in found], MAX_DETECTIONS),
        "box_label": _rows([each["labels"] - 1 for each in found], MAX_DETECTIONS),
        "valid": _rows([torch.ones(len(each["labels"])) for each in found], MAX_DETECTIONS)}
    result |= {name: np.array([each[name].item() for each in per_image]) for name in per_image[0]}
    return {name: sketch(name, np.asarray(value, np.float32)) for name, value in result.items()} | {
        f"shape/{name}": np.int32(shape) for name, shape in shapes.items()}
