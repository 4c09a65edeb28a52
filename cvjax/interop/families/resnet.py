"""ResNet's names: torchvision's and timm's are the same, and ours."""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import TORCH, Family, Naming
from cvjax.models.resnet import ResNet

RESNET = Family(namings={"timm": Naming(TORCH), "torchvision": Naming(TORCH)}, fresh=r"fc\..+", ignored=r"fc\..+")

register(ResNet, RESNET)
