"""Faster R-CNN's names: torchvision's, those of the files that it publishes, and those of a backbone's own files.

A classifier's file fills the backbone, which has all of the classifier's layers except the last. All other layers start
fresh. The weights that torchvision publishes for COCO belong to batch norms with an epsilon of 0, which its own loader
sets.
"""


from cvjax.interop.families.registry import family_of, register
from cvjax.interop.naming import KERNEL, TORCH, Composite, Family, Rule, after_flattening, as_they_are
from cvjax.models.faster_rcnn import FasterRCNN


def faster_rcnn(model: FasterRCNN) -> Family:
    """The table of a detector: every publisher's names from the backbone's table, `family_of(backbone)`."""
    backbone = model.make_backbone()
    family = family_of(backbone)
    first = Rule("box_head/fc6/kernel", "roi_heads/box_head/fc6/weight", after_flattening(*(model.region_size,) * 2))
    namings = {}
    for end, prefix, inside in (("", _prefix(model), "/0"), ("_hub", _prefix(model), ""), ("_backbone", "", "/0")):
        rules = (first, *_convolutions(r"fpn/(inner|layer)_blocks_(\d+)", rf"backbone/fpn/\1_blocks/\2{inside}"),
                 *_convolutions("rpn/conv", f"rpn/head/conv{2 * inside}"), *TORCH)
        renames = (("rpn/(?!conv/)", "rpn/head/"), ("(?=box_(?!head/fc6/kernel))", "roi_heads/"))
        for publisher, naming in family.namings.items():
            if naming.read is not as_they_are:
                continue  # transformers have no such detector
            namings[publisher + end] = Composite(rules, renames, backbone=backbone, inner=naming, prefix=prefix)
    heads = r"(rpn|roi_heads|backbone\.fpn)\..+"
    return Family(namings=namings, fresh=heads, ignored=rf"({_prefix(model)})?({family.ignored})|(fc|head)\..+")


def _prefix(model: FasterRCNN) -> str:
    return "backbone.body." if model.pyramid_width else "backbone."


def _convolutions(path: str, name: str) -> list[Rule]:
    return [Rule(f"{path}/kernel", f"{name}/weight", KERNEL), Rule(f"{path}/bias", f"{name}/bias")]


register(FasterRCNN, faster_rcnn)
