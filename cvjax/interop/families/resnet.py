"""ResNet's names: torchvision's and timm's are the same, and ours."""

from cvjax.interop.naming import TORCH, Family, Naming

RESNET = Family(namings={"timm": Naming(TORCH), "torchvision": Naming(TORCH)}, fresh=r"fc\..+", ignored=r"fc\..+")
