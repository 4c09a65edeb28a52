"""A network in timm's words, and `config.json` beside weights, from which timm builds that network.

timm (https://github.com/huggingface/pytorch-image-models) takes a name, in `architecture`, and puts `model_args` in the
place of its arguments; `pretrained_cfg` has the images, the classes, and where its weights meet both. What timm cannot
build is described in our own words alone, under `cvjax`, which timm passes over.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cvjax.data.preprocessing import Preprocessing
from cvjax.durable import write_whole
from cvjax.interop.hub import CONFIG
from cvjax.interop.published import OTHERWISE_SAID, OWN, is_published, structure
from cvjax.models import create_model
from cvjax.models.convnext import ConvNeXt
from cvjax.models.densenet import DenseNet
from cvjax.models.described import described
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.models.registry import name_of
from cvjax.models.resnet import ResNet
from cvjax.models.resnet_v2 import ResNetV2
from cvjax.models.swin import SwinTransformer
from cvjax.models.swin_v2 import SwinTransformerV2
from cvjax.models.vgg import VGG
from cvjax.models.vit import VisionTransformer
from cvjax.text import read_text

Arguments = dict[str, dict[str, Any]]


class _Form(NamedTuple):
    """How timm has a model.

    arguments: field of the model -> the arguments that say it, by timm's names.
    first_conv, classifier: its modules that see the image and give the classes; timm adapts them to other ones.
    fixed_size: whether the images' size is an argument. lacks: registered names of the family that timm does not have.
    """

    arguments: Arguments
    first_conv: str
    classifier: str | list[str]
    fixed_size: bool = False
    lacks: tuple[str, ...] = ()


def _renamed(model: ImageModel, **names: str) -> Arguments:
    return {field: {theirs: getattr(model, field)} for field, theirs in names.items()}


def _vit(model: VisionTransformer) -> _Form:
    if model.position == "rotary":  # timm's `Eva`, which calls the rest otherwise
        sizes = _renamed(model, patch_size="patch_size", width="embed_dim", depth="depth", heads="num_heads")
        return _Form(sizes, "patch_embed.proj", "head", fixed_size=True)
    arguments = _renamed(
        model, patch_size="patch_size", width="embed_dim", depth="depth", heads="num_heads", mlp_ratio="mlp_ratio",
        registers="reg_tokens", pre_norm="pre_norm", qk_norm="qk_norm", qkv_bias="qkv_bias", layer_scale="init_values")
    pooled = {"global_pool": model.pool, "class_token": model.class_token, "fc_norm": not model.normed_tokens}
    arguments |= dict.fromkeys(("pool", "class_token", "fc_norm"), pooled)
    arguments |= {"prefix_positions": {"no_embed_class": not model.prefix_positions},
                  "position": {}}  # files hold fixed ones as if they were learned
    return _Form(arguments, "patch_embed.proj", ["head", "head_dist"] if model.distilled else "head", fixed_size=True)


def _swin(model: SwinTransformer) -> _Form:
    arguments = _renamed(model, patch_size="patch_size", width="embed_dim", depths="depths", heads="num_heads",
                         window="window_size", mlp_ratio="mlp_ratio")
    return _Form(arguments, "patch_embed.proj", "head.fc", fixed_size=True)


def _convnext(model: ConvNeXt) -> _Form:
    arguments = _renamed(
        model, patch_size="patch_size", widths="dims", depths="depths", kernel_size="kernel_sizes",
        layer_scale="ls_init_value", response_norm="use_grn", norm_epsilon="norm_eps", norm_first="head_norm_first",
        representation_size="head_hidden_size", conv_mlp="conv_mlp")
    return _Form(arguments if len(model.depths) == 4 else {}, "stem.0", "head.fc")


def _resnet(model: ResNet) -> _Form:
    arguments = _renamed(model, depths="layers") if len(model.depths) == 4 else {}
    return _Form(arguments, "conv1.0" if model.stem == "deep" else "conv1", "fc",
                 lacks=("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"))


def _resnet_v2(model: ResNetV2) -> _Form:
    arguments = _renamed(model, depths="layers") if len(model.depths) == 4 else {}
    return _Form(arguments, "stem.conv1" if model.stem == "deep" else "stem.conv", "head.fc")


def _densenet(model: DenseNet) -> _Form:
    arguments = _renamed(model, depths="block_config") | (_renamed(model, bottleneck="bn_size")
                                                          if model.bottleneck else {})
    if model.stem_width == 2 * model.growth_rate:  # timm has no other
        arguments |= _renamed(model, growth_rate="growth_rate") | {"stem_width": {}}
    return _Form(arguments, "features.conv0", "classifier", lacks=("densenet40_k12", "densenet_bc100_k12"))


def _vgg(model: VGG) -> _Form:
    return _Form(_renamed(model, fc_width="num_features"), "features.0", "head.fc")


_FORMS: dict[type[ImageModel], Callable[[Any], _Form]] = {
    VisionTransformer: _vit, SwinTransformer: _swin, SwinTransformerV2: _swin, ConvNeXt: _convnext, ResNet: _resnet,
    ResNetV2: _resnet_v2, DenseNet: _densenet, VGG: _vgg}


def timm_arguments(model: ImageModel, name: str) -> dict[str, Any] | None:
    """What of timm's arguments makes its `name` this model, besides images and classes; None where timm has no such.

    name: a registered one of the model's class.
    """
    if type(model) not in _FORMS:
        return None
    form_of, base = _FORMS[type(model)], create_model(name)
    form = form_of(model)
    own, usual = structure(model)[1], structure(base)[1]
    changed = [field for field in own if own[field] != usual[field] and field != "in_channels"]
    if name in form.lacks or not form.arguments.keys() >= set(changed):
        return None
    return {theirs: value for field in changed for theirs, value in form.arguments[field].items()}


def write_config(path: Path, model: ImageModel, how: Preprocessing, class_names: Sequence[str] = (), *,
                 name: str | None = None, judged_size: int | None = None, license: str | None = None) -> None:
    """Write `config.json` beside the weights `path`, as timm reads it.

    name: the registered one to which the model is nearest; None to look for it. judged_size: side of the images that
    it is judged on, if that is not its own. license: the identifier of the weights' licence.
    Raises ValueError if a file of that name is there that is about something else.
    """
    config = path.with_name(CONFIG)
    if config.exists() and not is_published(json.loads(read_text(config))):
        raise ValueError(f"{config} is there already, and describes no weights: save them in another folder")
    name = name_of(model) if name is None else name
    content = _content(model, name, how, class_names, judged_size)
    if license is not None:
        content["pretrained_cfg"]["license"] = license
    write_whole(config, json.dumps(content, indent=2) + "\n")


def _content(model: ImageModel, name: str, how: Preprocessing, class_names: Sequence[str], judged_size: int | None
             ) -> dict[str, Any]:
    height, width = as_pair(model.image_size)
    classes, channels = getattr(model, "num_classes", 0), model.in_channels
    stated: dict[str, Any] = {
        "input_size": [channels, height, width], "num_classes": classes,
        "mean": list(how.mean * channels if len(how.mean) == 1 else how.mean),
        "std": list(how.std * channels if len(how.std) == 1 else how.std),
        "crop_pct": how.crop, "crop_mode": how.crop_mode, "interpolation": how.interpolation}
    if judged_size not in (None, height):
        stated["test_input_size"] = [channels, judged_size, judged_size]
    content: dict[str, Any] = {"num_classes": classes, "pretrained_cfg": stated}
    if class_names:
        content["label_names"] = list(class_names)
    description = described(model, name, without=OTHERWISE_SAID)
    arguments = timm_arguments(model, name)
    if arguments is not None:
        form = _FORMS[type(model)](model)
        content["global_pool"] = getattr(model, "pool", "avg")
        stated |= {"fixed_input_size": form.fixed_size, "first_conv": form.first_conv, "classifier": form.classifier}
        if arguments:
            content["model_args"] = arguments
    if arguments is not None or structure(create_model(name)) == structure(model):
        content = {"architecture": name, **content}  # others have no name from which a reader could build them
    return {**content, OWN: description}
