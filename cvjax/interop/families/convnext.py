"""ConvNeXt's names: timm's, torchvision's, and the authors'."""

from cvjax.interop.families.registry import register
from cvjax.interop.families.vit import linear
from cvjax.interop.naming import TORCH, Family, Layout, Naming, Rule
from cvjax.models.convnext import ConvNeXt

_CHANNELS_FIRST = Layout(lambda array, model: array[:, None, None], lambda array, model: array[:, 0, 0])  # (C, 1, 1)

TIMM = (Rule("(.+)/layer_scale/gamma", r"\1/gamma"), *TORCH)
TORCHVISION = (
    Rule("(.+)/layer_scale/gamma", r"\1/layer_scale", _CHANNELS_FIRST),
    *linear("(.+)/conv_dw", r"\1/block/0"),
    Rule(r"(features/\d*[13579]/\d+)/norm/scale", r"\1/block/2/weight"),
    Rule(r"(features/\d*[13579]/\d+)/norm/bias", r"\1/block/2/bias"),
    *linear("(.+)/mlp/fc1", r"\1/block/3"),
    *linear("(.+)/mlp/fc2", r"\1/block/5"),
    *TORCH,
)
OFFICIAL = (
    Rule("(.+)/layer_scale/gamma", r"\1/gamma"),
    *linear("(.+)/conv_dw", r"\1/dwconv"),
    *linear(r"(.+)/mlp/fc(\d)", r"\1/pwconv\2"),
    *TORCH,
)


def _places(stem: str, downsamples: list[str], blocks: list[str]) -> tuple[tuple[str, str], ...]:
    """Renames to where a publisher has the stem, each stage's downsampling and its blocks, all parts by numbers."""
    return ((r"stem/conv/", f"{stem}/0/"), (r"stem/norm/", f"{stem}/1/"),
            *((f"stages_{i}/downsample/norm/", f"{place}/0/") for i, place in enumerate(downsamples)),
            *((f"stages_{i}/downsample/conv/", f"{place}/1/") for i, place in enumerate(downsamples)),
            *((f"stages_{i}/", f"{place}/") for i, place in enumerate(blocks)))


def convnext(model: ConvNeXt) -> Family:
    """The table of a model: torchvision numbers the stages and what is between them in a row."""
    stages = range(len(model.depths))
    timm = _places("stem", [f"stages/{i}/downsample" for i in stages], [f"stages/{i}/blocks" for i in stages])
    torchvision = _places("features/0", [f"features/{2 * i}" for i in stages],
                          [f"features/{2 * i + 1}" for i in stages])
    official = _places("downsample_layers/0", [f"downsample_layers/{i}" for i in stages],
                       [f"stages/{i}" for i in stages])
    head = r"(head(\.fc)?|classifier\.2)\.(weight|bias)"
    return Family(
        namings={"timm": Naming(TIMM, (*timm, ("norm/", "head/norm/"), ("head/", "head/fc/"))),
                 "torchvision": Naming(TORCHVISION, (*torchvision, ("norm/", "classifier/0/"),
                                                     ("head/", "classifier/2/"))),
                 "official": Naming(OFFICIAL, official)},
        fresh=head,
        ignored=head,
    )


register(ConvNeXt, convnext)
