"""ResNet's names: torchvision's and timm's are the same, and ours but for the kernel of a gate by ECA-Net."""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import KERNEL, TORCH, Family, Naming, Rule
from cvjax.models.resnet import ResNet

NAMING = Naming((Rule(r"(.+)/se/kernel", r"\1/se/conv/weight", KERNEL), *TORCH))

RESNET = Family(namings={"timm": NAMING, "torchvision": NAMING}, fresh=r"fc\..+", ignored=r"fc\..+")

register(ResNet, RESNET)
