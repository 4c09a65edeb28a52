"""DenseNet's names: torchvision's, which are timm's, and those of the files that torchvision publishes."""

from cvjax.interop.families.registry import register
from cvjax.interop.naming import KERNEL, TORCH, Family, Naming, Rule
from cvjax.models.densenet import DenseNet

_FEATURES = ((r"(?!classifier/)", "features/"),)

# Written before torch forbade dots in names: `denselayer1.norm.1.weight` is now called `denselayer1.norm1.weight`.
_DOTTED = (
    Rule(r"(.+/denselayer\d+/conv)(\d)/kernel", r"\1/\2/weight", KERNEL),
    Rule(r"(.+/denselayer\d+/norm)(\d)/scale", r"\1/\2/weight"),
    Rule(r"(.+/denselayer\d+/norm)(\d)/bias", r"\1/\2/bias"),
    Rule(r"(.+/denselayer\d+/norm)(\d)/(mean|var)", r"\1/\2/running_\3"),
    *TORCH,
)

DENSENET = Family(
    namings={
        "torchvision": Naming(TORCH, _FEATURES),
        "timm": Naming(TORCH, _FEATURES),
        "torchvision_hub": Naming(_DOTTED, _FEATURES),
    },
    fresh=r"classifier\..+",
    ignored=r"classifier\..+",
)

register(DenseNet, DENSENET)
