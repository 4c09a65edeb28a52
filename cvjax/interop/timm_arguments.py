"""What timm's models take as arguments, and the fields here that they are: `model_args` of a `config.json`.

https://github.com/huggingface/pytorch-image-models. Files of timm from version 1.0.31 on state all arguments that their
network was made with beside its name, those that change it and those that do not.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cvjax.models.convnext import ConvNeXt
from cvjax.models.densenet import DenseNet
from cvjax.models.image_model import ImageModel
from cvjax.models.resnet import ResNet
from cvjax.models.resnet_v2 import ResNetV2
from cvjax.models.swin import SwinTransformer
from cvjax.models.swin_v2 import SwinTransformerV2
from cvjax.models.vgg import VGG
from cvjax.models.vit import VisionTransformer

Arguments = dict[str, dict[str, Any]]


class Form(NamedTuple):
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


def _vit(model: VisionTransformer) -> Form:
    if model.position == "rotary":  # timm's `Eva`, which calls the rest otherwise
        sizes = _renamed(model, patch_size="patch_size", width="embed_dim", depth="depth", heads="num_heads")
        return Form(sizes, "patch_embed.proj", "head", fixed_size=True)
    arguments = _renamed(
        model, patch_size="patch_size", width="embed_dim", depth="depth", heads="num_heads", mlp_ratio="mlp_ratio",
        registers="reg_tokens", pre_norm="pre_norm", qk_norm="qk_norm", qkv_bias="qkv_bias", layer_scale="init_values")
    if model.pool != "token+avg":  # which timm does not have
        pooled = {"global_pool": model.pool, "class_token": model.class_token, "fc_norm": not model.normed_tokens}
        arguments |= dict.fromkeys(("pool", "class_token", "fc_norm"), pooled)
    arguments |= {"prefix_positions": {"no_embed_class": not model.prefix_positions},
                  "position": {}}  # files hold fixed ones as if they were learned
    return Form(arguments, "patch_embed.proj", ["head", "head_dist"] if model.distilled else "head", fixed_size=True)


def _swin(model: SwinTransformer) -> Form:
    arguments = _renamed(model, patch_size="patch_size", width="embed_dim", depths="depths", heads="num_heads",
                         window="window_size", mlp_ratio="mlp_ratio")
    return Form(arguments, "patch_embed.proj", "head.fc", fixed_size=True)


def _convnext(model: ConvNeXt) -> Form:
    arguments = _renamed(
        model, patch_size="patch_size", widths="dims", depths="depths", kernel_size="kernel_sizes",
        layer_scale="ls_init_value", response_norm="use_grn", norm_epsilon="norm_eps", norm_first="head_norm_first",
        representation_size="head_hidden_size", conv_mlp="conv_mlp")
    return Form(arguments if len(model.depths) == 4 else {}, "stem.0", "head.fc")


def _resnet(model: ResNet) -> Form:
    arguments = _renamed(model, depths="layers") if len(model.depths) == 4 else {}
    return Form(arguments, "conv1.0" if model.stem == "deep" else "conv1", "fc",
                 lacks=("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"))


def _resnet_v2(model: ResNetV2) -> Form:
    arguments = _renamed(model, depths="layers") if len(model.depths) == 4 else {}
    return Form(arguments, "stem.conv1" if model.stem == "deep" else "stem.conv", "head.fc")


def _densenet(model: DenseNet) -> Form:
    arguments = _renamed(model, depths="block_config") | (_renamed(model, bottleneck="bn_size")
                                                          if model.bottleneck else {})
    if model.stem_width == 2 * model.growth_rate:  # timm has no other
        arguments |= _renamed(model, growth_rate="growth_rate") | {"stem_width": {}}
    return Form(arguments, "features.conv0", "classifier", lacks=("densenet40_k12", "densenet_bc100_k12"))


def _vgg(model: VGG) -> Form:
    return Form(_renamed(model, fc_width="num_features"), "features.0", "head.fc")


FORMS: dict[type[ImageModel], Callable[[Any], Form]] = {
    VisionTransformer: _vit, SwinTransformer: _swin, SwinTransformerV2: _swin, ConvNeXt: _convnext, ResNet: _resnet,
    ResNetV2: _resnet_v2, DenseNet: _densenet, VGG: _vgg}

# Arguments that do not change what a network answers, or that are said beside them, too.
_PASSED_OVER = ("num_classes", "img_size", "dynamic_img_size", "strict_img_size", "drop_path_rate", "drop_block_rate")


def stated_fields(model: ImageModel, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in which timm's arguments make another network of a registered `model`.

    Raises ValueError for an argument that is no field here, and for a value of another kind than the field has.
    """
    form = FORMS[type(model)](model) if type(model) in FORMS else Form({}, "", "")
    names = {theirs: field for field, said in form.arguments.items() if len(said) == 1 for theirs in said}
    names |= {theirs: theirs for said in form.arguments.values() if len(said) > 1 for theirs in said}
    names |= {"in_chans": "in_channels", "global_pool": "pool"}
    found = {}
    for theirs, value in arguments.items():
        if theirs in _PASSED_OVER or theirs.endswith("drop_rate") or value is None:
            continue
        field, value = names.get(theirs), tuple(value) if isinstance(value, list) else value
        if theirs == "no_embed_class" and isinstance(value, bool):
            value = not value
        usual = getattr(model, "pool", "avg") if theirs == "global_pool" else getattr(model, field or "", None)
        if value == usual:
            continue
        alike = usual is None or type(value) is type(usual) or {type(value), type(usual)} <= {int, float}
        if field is None or not hasattr(model, field) or not alike:
            raise ValueError(f"{theirs} {str(value)[:40]!r}, which no {type(model).__name__} here has")
        found[field] = value
    return found
