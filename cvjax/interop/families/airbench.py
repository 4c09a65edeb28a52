"""Airbench's names: ours, in torch's layout; nobody's files are the standard."""

from cvjax.interop.naming import TORCH, Family, Naming

AIRBENCH = Family(namings={"torch": Naming(TORCH)}, fresh=r"fc\..+", ignored=r"fc\..+")
