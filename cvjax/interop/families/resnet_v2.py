"""ResNet v2's and BiT's names: timm's."""

from cvjax.interop.families.registry import register
from cvjax.interop.families.vgg import as_convolution
from cvjax.interop.naming import KERNEL, TORCH, Family, Naming, Rule
from cvjax.models.resnet_v2 import ResNetV2

TIMM = (
    Rule(r"(.+)/bn(\d)/scale", r"\1/norm\2/weight"),
    Rule(r"(.+)/bn(\d)/bias", r"\1/norm\2/bias"),
    Rule(r"(.+)/bn(\d)/(mean|var)", r"\1/norm\2/running_\3"),
    Rule(r"(.+/downsample)/\d/kernel", r"\1/conv/weight", KERNEL),
    Rule("head/fc/kernel", "head/fc/weight", as_convolution(1)),
    *TORCH,
)
# The convolutions of a deep stem, and the norms between them.
DEEP_STEM = tuple((f"conv1/{place}/", f"stem/{name}/")
                  for place, name in ((0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2"), (6, "conv3")))


def resnet_v2(model: ResNetV2) -> Family:
    """The table of a model."""
    stages = tuple((f"stages_{i}/", f"stages/{i}/blocks/") for i in range(len(model.depths)))
    head = r"head\.fc\..+"
    return Family(
        namings={"timm": Naming(TIMM, (*DEEP_STEM, ("conv1/", "stem/conv/"), *stages, ("head/", "head/fc/")))},
        fresh=head,
        ignored=head,
    )


register(ResNetV2, resnet_v2)
