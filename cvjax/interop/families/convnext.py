"""ConvNeXt's names: timm's, torchvision's, the authors' (of both papers), and those of transformers."""

from cvjax.interop.families.registry import register
from cvjax.interop.families.transformers import transformers
from cvjax.interop.naming import TORCH, Family, Layout, Naming, Rule, linear
from cvjax.models.convnext import ConvNeXt

_CHANNELS_FIRST = Layout(lambda array, model: array[:, None, None], lambda array, model: array[:, 0, 0])  # (C, 1, 1)

_CHANNELS_LAST = Layout(lambda array, model: array[None, None, None], lambda array, model: array[0, 0, 0])
# (in, out) <-> (out, in), or (out, in, 1, 1)
_POINTWISE = Layout(lambda kernel, model: kernel.T[..., None, None] if model.conv_mlp else kernel.T,
                    lambda kernel, model: kernel.reshape(kernel.shape[:2]).T)

TIMM = (
    Rule("(.+)/layer_scale/gamma", r"\1/gamma"),
    Rule(r"(.+/mlp/fc\d)/kernel", r"\1/weight", _POINTWISE),
    *TORCH,
)
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
    Rule("(.+)/mlp/grn/scale", r"\1/grn/gamma", _CHANNELS_LAST),
    Rule("(.+)/mlp/grn/bias", r"\1/grn/beta", _CHANNELS_LAST),
    *TORCH,
)
TRANSFORMERS = (
    Rule("(.+)/layer_scale/gamma", r"\1/layer_scale_parameter"),
    *linear("(.+)/conv_dw", r"\1/dwconv"),
    Rule("(encoder/.+/layers/.+)/norm/scale", r"\1/layernorm/weight"),
    Rule("(encoder/.+/layers/.+)/norm/bias", r"\1/layernorm/bias"),
    *linear(r"(.+)/mlp/fc(\d)", r"\1/pwconv\2"),
    Rule("(.+)/mlp/grn/scale", r"\1/grn/weight", _CHANNELS_LAST),
    Rule("(.+)/mlp/grn/bias", r"\1/grn/bias", _CHANNELS_LAST),
    *TORCH,
)


def _transformers(model: ConvNeXt) -> Naming:
    stages = [(i, f"encoder/stages/{i}") for i in range(len(model.depths))]
    renames = (("stem/conv/", "embeddings/patch_embeddings/"), ("stem/norm/", "embeddings/layernorm/"),
               *((f"stages_{i}/downsample/norm/", f"{place}/downsampling_layer/0/") for i, place in stages),
               *((f"stages_{i}/downsample/conv/", f"{place}/downsampling_layer/1/") for i, place in stages),
               *((f"stages_{i}/", f"{place}/layers/") for i, place in stages),
               ("norm/", "layernorm/"), ("head/", "classifier/"))
    return transformers("convnextv2" if model.response_norm else "convnext", TRANSFORMERS, renames,
                        others=("convnext", "convnextv2"), head=r"classifier\..+")


def _places(model: ConvNeXt, stem: str, downsamples: list[str], blocks: list[str]) -> tuple[tuple[str, str], ...]:
    """Renames to where a publisher has the stem, each stage's downsampling and its blocks, all parts by numbers."""
    last = 0 if model.stem_width is None else 1
    return (("stem/conv_first/", f"{stem}/0/"), ("stem/conv/", f"{stem}/{last}/"),
            ("stem/norm/", f"{stem}/{last + 1}/"),
            *((f"stages_{i}/downsample/norm/", f"{place}/0/") for i, place in enumerate(downsamples)),
            *((f"stages_{i}/downsample/conv/", f"{place}/1/") for i, place in enumerate(downsamples)),
            *((f"stages_{i}/", f"{place}/") for i, place in enumerate(blocks)))


def convnext(model: ConvNeXt) -> Family:
    """The table of a model: torchvision numbers the stages and what is between them in a row."""
    stages = range(len(model.depths))
    timm = _places(model, "stem", [f"stages/{i}/downsample" for i in stages], [f"stages/{i}/blocks" for i in stages])
    torchvision = _places(model, "features/0", [f"features/{2 * i}" for i in stages],
                          [f"features/{2 * i + 1}" for i in stages])
    official = _places(model, "downsample_layers/0", [f"downsample_layers/{i}" for i in stages],
                       [f"stages/{i}" for i in stages])
    norm = "norm_pre/" if model.norm_first else "head/norm/"
    head = r"(head(\.fc)?|classifier(\.2)?)\.(weight|bias)"
    there = model.stem_width is None and not model.norm_first and not model.representation_size
    # Pre-trained as masked autoencoders, those of V2 have no norm there.
    fresh = rf"{head}|head\.norm\.(weight|bias)" if model.response_norm else head
    return Family(
        namings={"timm": Naming(TIMM, (*timm, ("norm/", norm), ("pre_logits/", "head/pre_logits/fc/"),
                                       ("head/", "head/fc/"))),
                 "torchvision": Naming(TORCHVISION, (*torchvision, ("norm/", "classifier/0/"),
                                                     ("head/", "classifier/2/"))),
                 "official": Naming(OFFICIAL, official),
                 **({"transformers": _transformers(model)} if there else {})},
        fresh=fresh,
        ignored=head,
    )


register(ConvNeXt, convnext)
