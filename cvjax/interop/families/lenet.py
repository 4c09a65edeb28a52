"""LeNet's names: the paper's, in torch's layout. No published file sets a standard."""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import TORCH, Family, Naming
from cvjax.models.lenet import LeNet

LENET = Family(namings={"paper": Naming(TORCH)}, fresh=r"output\..+", ignored=r"output\..+")

register(LeNet, LENET)
