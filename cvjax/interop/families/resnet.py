"""ResNet's names: torchvision's and timm's, which are ours but for ECA-Net's gate, and those of transformers."""

from cvjax.interop.families.registry import register
from cvjax.interop.families.transformers import transformers
from cvjax.interop.naming import KERNEL, TORCH, Family, Naming, Rule
from cvjax.models.resnet import ResNet

NAMING = Naming((Rule(r"(.+)/se/kernel", r"\1/se/conv/weight", KERNEL), *TORCH))


def _transformers(model: ResNet) -> Naming:
    """They count everything from 0."""
    stages = [(rf"layer{i + 1}/(\d+)", rf"encoder/stages/{i}/layers/\1") for i in range(len(model.depths))]
    parts = (("conv", "convolution"), ("bn", "normalization"))
    renames = (("conv1/", "embedder/embedder/convolution/"), ("bn1/", "embedder/embedder/normalization/"),
               *((f"{block}/{part}{i + 1}/", f"{place}/layer/{i}/{name}/")
                 for block, place in stages for part, name in parts for i in range(3)),
               *((f"{block}/downsample/{i}/", f"{place}/shortcut/{name}/")
                 for block, place in stages for i, (_, name) in enumerate(parts)),
               ("fc/", "classifier/1/"))
    return transformers("resnet", TORCH, renames, head=r"classifier\..+")


def resnet(model: ResNet) -> Family:
    """The table of a model: transformers have the first form alone."""
    namings = {"timm": NAMING, "torchvision": NAMING}
    if (model.stem, model.shortcut, model.gate, model.antialias, model.normalization, model.groups,
            model.preactivation) == ("imagenet", "projection", "none", "none", "batch", 1, False):
        namings["transformers"] = _transformers(model)
    head = r"(fc|classifier\.1)\..+"
    return Family(namings=namings, fresh=head, ignored=head)


register(ResNet, resnet)
