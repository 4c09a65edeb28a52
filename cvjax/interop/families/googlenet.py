"""GoogLeNet's names: torchvision's, and ours.

A file may lack the auxiliary heads, which evaluation does not need, and may hold them for a model that has none.
"""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import TORCH, Family, Naming, Rule, after_flattening
from cvjax.models.googlenet import GoogLeNet

_HEADS = r"(fc|aux[12])\..+"

GOOGLENET = Family(
    namings={"torchvision": Naming((Rule(r"(aux[12]/fc1)/kernel", r"\1/weight", after_flattening(4, 4)), *TORCH))},
    fresh=_HEADS,
    ignored=_HEADS,
)

register(GoogLeNet, GOOGLENET)
