"""ResNet-9's names: ours, in torch's layout. No published file sets a standard."""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import TORCH, Family, Naming
from cvjax.models.resnet9 import ResNet9

RESNET9 = Family(namings={"torch": Naming(TORCH)}, fresh=r"fc\..+", ignored=r"fc\..+")

register(ResNet9, RESNET9)
