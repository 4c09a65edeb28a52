"""LeNet's names: the paper's, in torch's layout; nobody's files are the standard."""

from cvjax.interop.naming import TORCH, Family, Naming

LENET = Family(namings={"paper": Naming(TORCH)}, fresh=r"output\..+", ignored=r"output\..+")
