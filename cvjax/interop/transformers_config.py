"""What Hugging Face's `transformers` says beside weights: of the network (`config.json`), and of its images
(`preprocessor_config.json`), https://huggingface.co/docs/transformers.

A configuration leaves out what its class has by default, so these defaults are here, too. Some
of SigLIP hold little more than their type.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cvjax.models import create_model, list_models
from cvjax.models.convnext import ConvNeXt
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.models.resnet import ResNet
from cvjax.models.swin import SwinTransformer
from cvjax.models.vit import VisionTransformer

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_MOST = 2**16  # of any size and number


@dataclasses.dataclass(frozen=True)
class _Values:
    """The content of a JSON file, of which nothing is trusted. place: the file, for errors.

    A value of null is as one that is missing: their processors write it for what their class has by default.
    """

    content: Mapping[str, Any]
    place: str

    def _stated(self, key: str, default: Any) -> Any:
        value = self.content.get(key)
        return default if value is None else value

    def _checked(self, key: str, default: Any, fits: Callable[[Any], bool]) -> Any:
        value = self._stated(key, default)
        if not fits(value):
            raise ValueError(f"{self.place}: {key} is {str(value)[:40]!r}, which cannot be")
        return value

    def count(self, key: str, default: int, least: int = 1) -> int:
        return self._checked(key, default, lambda value: _is_count(value, least))

    def index(self, key: str, default: int, end: int) -> int:
        return self._checked(key, default, lambda value: type(value) is int and 0 <= value < end)

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self._checked(key, default, lambda value: isinstance(value, list | tuple) and 0 < len(value) < 64
                                   and all(map(_is_count, value))))

    def number(self, key: str, default: float | None) -> float:
        return float(self._checked(key, default, _is_number))

    def flag(self, key: str, default: bool) -> bool:
        return self._checked(key, default, lambda value: type(value) is bool)

    def colours(self, key: str) -> list[float]:
        return self._checked(key, None, lambda value: isinstance(value, list) and 0 < len(value) <= 64
                             and all(map(_is_number, value)))

    def side(self, key: str, default: int) -> int:
        """Of a square that is given by one number or two."""
        value = self._stated(key, default)
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]
        return _Values({key: value}, self.place).count(key, default)

    def activation(self, default: str) -> Any:
        return _ACTIVATIONS[self._checked("hidden_act", default, lambda value: value in list(_ACTIVATIONS))]

    def demand(self, **usual: Any) -> None:
        """ValueError for a switch that no network here has."""
        for key, value in usual.items():
            if (found := self._stated(key, value)) != value:
                raise ValueError(f"{self.place}: {key} is {str(found)[:40]}; here it must be {value}")

    def part(self, key: str) -> "_Values":
        return _Values(self._checked(key, {}, lambda value: isinstance(value, Mapping)), self.place)


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value < _MOST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_MOST < value < _MOST


def _transformer(config: _Values, patch: int = 16, epsilon: float = 1e-12, act: str = "gelu", **fields: Any
                 ) -> VisionTransformer:
    """What all their vision transformers state alike."""
    width = config.count("hidden_size", 768)
    if "mlp_ratio" not in fields:
        fields["mlp_ratio"] = (config.count("intermediate_size", 3072) + 0.5) / width  # the half is rounded down again
    if "activation" not in fields:
        fields["activation"] = config.activation(act)
    patch = config.side("patch_size", patch)
    return VisionTransformer(
        image_size=max(config.side("image_size", 224) // patch, 1) * patch, patch_size=patch,
        in_channels=config.count("num_channels", 3), width=width, depth=config.count("num_hidden_layers", 12),
        heads=config.count("num_attention_heads", 12), qkv_bias=config.flag("qkv_bias", True),
        norm_epsilon=config.number("layer_norm_eps", epsilon), **fields)


def _dinov2(config: _Values, patch: int, **fields: Any) -> VisionTransformer:
    width, ratio = config.count("hidden_size", 768), config.number("mlp_ratio", 4)
    if config.flag("use_swiglu_ffn", False):  # two thirds, as a multiple of 8, for each of the two halves
        hidden = 2 * ((int(int(width * ratio) * 2 / 3) + 7) // 8 * 8)
        fields |= {"mlp_ratio": (hidden + 0.5) / width, "activation": "swiglu"}
    else:
        fields["mlp_ratio"] = (int(width * ratio) + 0.5) / width
    return _transformer(config, patch, 1e-6, layer_scale=1.0, **fields)


def _dinov3(config: _Values) -> VisionTransformer:
    """What reads it reads the class token."""
    config.demand(key_bias=False, proj_bias=True, mlp_bias=True, rope_theta=100.0)
    biases = config.flag("query_bias", True)
    config.demand(value_bias=biases)
    gated = config.flag("use_gated_mlp", False)
    activation = "swiglu_pair" if gated else config.activation("gelu")
    if gated and config.content.get("hidden_act") != "silu":
        raise ValueError(f"{config.place}: hidden_act is {str(config.content.get('hidden_act'))[:40]!r} beside "
                         "use_gated_mlp; here it must be silu")
    usual = _Values({"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6} | {
        key: value for key, value in config.content.items() if value is not None and key != "qkv_bias"}, config.place)
    return _transformer(usual, 16, 1e-5, activation=activation, position="rotary", layer_scale=1.0,
                        prefix_positions=False, registers=config.count("num_register_tokens", 0, least=0)).clone(
                            qkv_bias="qv" if biases else False)


def _swin(config: _Values) -> SwinTransformer:
    config.demand(use_absolute_embeddings=False, qkv_bias=True, layer_norm_eps=1e-5, hidden_act="gelu")
    return SwinTransformer(
        image_size=config.side("image_size", 224), patch_size=config.side("patch_size", 4),
        in_channels=config.count("num_channels", 3), width=config.count("embed_dim", 96),
        depths=config.counts("depths", (2, 2, 6, 2)), heads=config.counts("num_heads", (3, 6, 12, 24)),
        window=config.count("window_size", 7), mlp_ratio=config.number("mlp_ratio", 4.0))


def _convnext(config: _Values, second: bool = False) -> ConvNeXt:
    """Their last norm adds 1e-12 to a variance, the others 1e-6 as all do here."""
    config.demand(hidden_act="gelu")
    scale = None if second or config.number("layer_scale_init_value", 1e-6) <= 0 else 1e-6
    return ConvNeXt(
        image_size=config.side("image_size", 224), patch_size=config.side("patch_size", 4),
        in_channels=config.count("num_channels", 3), widths=config.counts("hidden_sizes", (96, 192, 384, 768)),
        depths=config.counts("depths", (3, 3, 9, 3)), layer_scale=scale, response_norm=second)


def _resnet(config: _Values) -> ResNet:
    config.demand(hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False)
    block = "basic" if config.content.get("layer_type") == "basic" else "bottleneck"
    config.demand(layer_type=block)
    width, depths = config.count("embedding_size", 64), config.counts("depths", (3, 4, 6, 3))
    config.demand(hidden_sizes=[width * 2**i * (1 if block == "basic" else 4) for i in range(len(depths))])
    return ResNet(block=block, depths=depths, width=width, in_channels=config.count("num_channels", 3))


def _clip(config: _Values) -> VisionTransformer:
    return _transformer(config, 32, 1e-5, "quick_gelu", pre_norm=True)


def _siglip(config: _Values, pool: Any = "map") -> VisionTransformer:
    pool = pool if config.flag("vision_use_head", True) else "avg"
    return _transformer(config, 16, 1e-6, "gelu_pytorch_tanh", pool=pool, class_token=False)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """One of their types of networks. head: its name in files whose head is one here, None for no such head.
    resize: how learned positions are interpolated, see `cvjax.ops.position.resize_positions`."""

    network: Callable[[_Values], Any]
    head: str | None = "classifier"
    resize: str = "deit"


_KINDS: dict[str, _Kind] = {
    "vit": _Kind(_transformer),
    "vit_mae": _Kind(_transformer, None),
    "vit_msn": _Kind(lambda config: _transformer(config, epsilon=1e-6)),
    "ijepa": _Kind(lambda config: _transformer(config, class_token=False, pool="avg")),
    "deit": _Kind(lambda config: _transformer(config, distilled=True), "cls_classifier"),
    "dinov2": _Kind(lambda config: _dinov2(config, 14)),
    "dinov2_with_registers": _Kind(lambda config: _dinov2(
        config, 16, registers=config.count("num_register_tokens", 4), prefix_positions=False), resize="timm"),
    "dinov3_vit": _Kind(_dinov3, None),
    "swin": _Kind(_swin),
    "convnext": _Kind(_convnext),
    "convnextv2": _Kind(lambda config: _convnext(config, second=True)),
    "resnet": _Kind(_resnet, "classifier.1"),
    "clip_vision_model": _Kind(_clip, "visual_projection"),
    "clip": _Kind(lambda config: _clip(config.part("vision_config")), "visual_projection"),
    "siglip_vision_model": _Kind(_siglip),
    "siglip": _Kind(lambda config: _siglip(config.part("vision_config"))),
}


# What a classifier reads, where it is not what the network alone gives.
_CLASSIFIED = {"siglip": "avg", "dinov2": "token+avg", "dinov2_with_registers": "token+avg"}


def is_transformers(content: Any) -> bool:
    """Whether a `config.json` is theirs: it names a type of network."""
    return isinstance(content, Mapping) and isinstance(content.get("model_type"), str)


@dataclasses.dataclass(frozen=True)
class Described:
    """What a configuration of theirs says. network: with the norms' epsilon and the activation of the configuration.
    num_classes: 0 without a head that is one here. class_names: () where they are numbers."""

    kind: str
    network: ImageModel
    num_classes: int
    class_names: tuple[str, ...]
    position_resize: str


def described(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray], place: str) -> Described:
    """What a `config.json` says of the network whose weights, name -> array, lie beside it.

    place: the file, for errors. Raises ValueError for a type or a switch that no network here has, for values that
    cannot be, and for weights without the classifier that the configuration names.
    """
    kind = content["model_type"]
    if kind not in _KINDS:
        raise ValueError(f"{place}: no network here is of model_type {kind[:40]!r}; there are {', '.join(_KINDS)}")
    row = _KINDS[kind]
    network = row.network(_Values(content, place))
    weight = arrays.get(f"{row.head}.weight")
    if weight is not None and kind in _CLASSIFIED:
        network = network.clone(pool=_CLASSIFIED[kind])
    classes_of = content.get("architectures")
    classifies = isinstance(classes_of, list) and any("ForImageClassification" in str(each) for each in classes_of)
    if weight is None and classifies and row.head is not None and "classifier.weight" not in arrays:
        raise ValueError(f"{place} names a classifier, but the weights have no {row.head}.weight")
    if weight is not None and weight.ndim == 0:
        raise ValueError(f"{row.head}.weight beside {place} is one number, not a matrix")
    classes = 0 if weight is None else len(weight)
    return Described(kind, network, classes, names_by_number(content.get("id2label"), classes, place), row.resize)


def names_by_number(labels: Any, classes: int, place: str) -> tuple[str, ...]:
    """The names of so many classes from an object, number -> name: () where it names others, or none but by number.

    place: the file, for the ValueError if it is no such object.
    """
    if labels is None or classes == 0:
        return ()
    if not isinstance(labels, Mapping) or not all(re.fullmatch("[0-9]{1,8}", str(key)) for key in labels):
        raise ValueError(f"{place}: id2label is {str(labels)[:40]!r}, which cannot be")
    names = {int(key): str(name) for key, name in labels.items()}
    unnamed = all(name == f"LABEL_{i}" for i, name in names.items())
    return () if unnamed or sorted(names) != list(range(classes)) else tuple(names[i] for i in range(classes))


# Fields that sizes do not tell, or that change no number: how weights start, and how timm's files are laid out. The
# norms' epsilon is taken from the configuration.
_NOT_COMPARED = ("parent", "name", "axis_name", "weight_init", "image_size", "position_resize", "num_classes",
                 "dtype", "remat", "scan", "attention", "drop_path", "in_channels", "norm_epsilon", "conv_mlp",
                 "zero_init_last", "stem_widths", "mlp_ratio", "layer_scale", "fc_norm")


def _compared(model: Any) -> dict[str, Any]:
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)
              if field.name not in _NOT_COMPARED}
    if fields.get("position") == "rotary":
        del fields["pool"]  # these learnt without a head: names are of what somebody reads
    if hasattr(model, "mlp_ratio"):
        fields["hidden channels"] = int(model.width * model.mlp_ratio)
    if hasattr(model, "layer_scale"):
        fields["a layer scale"] = model.layer_scale is not None
    return fields


def differences(network: ImageModel, other: ImageModel) -> str:
    """What two networks differ in but for image size and classes, `width 8 (not 192), depth 1 (not 12)`; "" if they
    are the same."""
    if type(network) is not type(other):
        return f"{type(network).__name__} (not {type(other).__name__})"
    found, wanted = _compared(network), _compared(other)
    return ", ".join(f"{field} {value} (not {wanted[field]})" for field, value in found.items()
                     if value != wanted.get(field, value))


def own_fields(network: ImageModel) -> dict[str, Any]:
    """Fields of a network that its configuration states and that no name tells."""
    if not isinstance(network, VisionTransformer):
        return {}
    pool = {"pool": network.pool} if network.pool == "token+avg" or network.position == "rotary" else {}
    return {"norm_epsilon": network.norm_epsilon, "activation": network.activation, **pool}


def _side(model: Any) -> int:
    return as_pair(model.image_size)[0]


def whole_patches(network: ImageModel, side: int) -> int:
    """The side of images that a ViT's patches fill; theirs leaves out the pixels of 384 that patches of 14 do not."""
    patch = network.patch_size if isinstance(network, VisionTransformer) else 1
    return max(side // patch, 1) * patch


def registered_name(network: ImageModel, kind: str) -> str | None:
    """The registered name of a network, None where no name has its sizes; its activation need not be the name's."""
    for own in ({}, own_fields(network)):
        found = [name for name in list_models() if isinstance(model := create_model(name), type(network))
                 and not differences(network, model.clone(**own))]
        if found:
            return min(found, key=lambda name: (
                abs(_side(create_model(name)) - _side(network)), not name.startswith(kind.split("_")[0]), name))
    return None


def stated_images(content: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What a `preprocessor_config.json` says of images, in the terms of timm's `pretrained_cfg`.

    `size` is the side of the square that the network sees.

    Raises ValueError for steps that images here do not take.
    """
    values = _Values(content, place)
    values.demand(do_resize=True)
    kind = str(content.get("image_processor_type") or content.get("feature_extractor_type"))
    by_short_side = kind.startswith(("CLIP", "Bit", "ConvNext"))
    size = content.get("size")
    if size is None:
        raise ValueError(f"{place} states no size")
    if isinstance(size, int):
        size = {"shortest_edge": size} if by_short_side else {"height": size, "width": size}
    sizes = _Values({"size": size}, place).part("size")
    squash = "shortest_edge" not in sizes.content
    if squash and sizes.content.get("height") != sizes.content.get("width"):
        raise ValueError(f"{place}: size {str(size)[:60]}; images here become squares")
    resized = sizes.count("height" if squash else "shortest_edge", 0)
    side = resized
    if kind.startswith("ConvNext"):
        squash = resized >= 384
        kept = values.number("crop_pct", 224 / 256)
        if not 0.01 < kept <= 1:
            raise ValueError(f"{place}: crop_pct is {kept}, which cannot be")
        resized = resized if squash else int(resized / kept)
    elif values.flag("do_center_crop", content.get("crop_size") is not None):
        crop = content.get("crop_size")
        crop = crop if isinstance(crop, Mapping) else {"height": crop, "width": crop}
        if crop.get("height") != crop.get("width"):
            raise ValueError(f"{place}: crop_size {str(crop)[:60]}; images here become squares")
        side = _Values({"crop_size": crop.get("height")}, place).count("crop_size", 0)
    elif not squash:
        raise ValueError(f"{place}: size {str(size)[:60]} without a crop; images here become squares")
    if side > resized:
        raise ValueError(f"{place}: crop_size {side} of images of {resized}; it must not be larger")
    crop_pct = side / resized
    if int(side / crop_pct) != resized:  # a rounding error below
        crop_pct = side / (resized + 0.5)
    scale = 255 * (values.number("rescale_factor", 1 / 255) if values.flag("do_rescale", True) else 1)
    scale = 1.0 if math.isclose(scale, 1, rel_tol=1e-6) else scale
    normalizes = values.flag("do_normalize", True)
    mean, std = (values.colours("image_mean"), values.colours("image_std")) if normalizes else ([0.0], [1.0])
    if scale <= 0:
        raise ValueError(f"{place}: rescale_factor is {content.get('rescale_factor')}, which cannot be")
    resample = values.index("resample", 2 if kind.startswith(("ViT", "DINOv3")) else 3, len(_FILTERS))
    return {"size": side, "mean": [each / scale for each in mean], "std": [each / scale for each in std],
            "crop_pct": crop_pct, "crop_mode": "squash" if squash else "center", "interpolation": _FILTERS[resample]}


def stated_licence(readme: str) -> str:
    """The licence in a README's front matter, "" where it states none; of an "other" one, its name."""
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme, re.DOTALL)
    if not front:
        return ""

    def stated(key: str) -> str:
        found = re.search(rf"^{key}:[ \t]*[\"']?([\w.+ -]{{1,60}}?)[\"']?[ \t]*(?:#.*)?$", front[1], re.MULTILINE)
        return found[1] if found else ""

    said = stated("license")
    return stated("license_name") or said if said == "other" else said
