"""Airbench's names: ours, in torch's layout. No published file sets a standard."""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import TORCH, Family, Naming
from cvjax.models.airbench import Airbench

AIRBENCH = Family(namings={"torch": Naming(TORCH)}, fresh=r"fc\..+", ignored=r"fc\..+")

register(Airbench, AIRBENCH)
