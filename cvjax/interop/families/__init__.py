"""Each model family's table of published names."""

from collections.abc import Callable

import flax.linen as nn

from cvjax.interop.families.airbench import AIRBENCH
from cvjax.interop.families.alexnet import alexnet
from cvjax.interop.families.densenet import DENSENET
from cvjax.interop.families.dino import dino
from cvjax.interop.families.faster_rcnn import faster_rcnn
from cvjax.interop.families.fcn import fcn, fcn_vgg
from cvjax.interop.families.googlenet import GOOGLENET
from cvjax.interop.families.lenet import LENET
from cvjax.interop.families.mae import MAE
from cvjax.interop.families.resnet import RESNET
from cvjax.interop.families.resnet9 import RESNET9
from cvjax.interop.families.swin import swin
from cvjax.interop.families.vgg import vgg
from cvjax.interop.families.vit import VIT
from cvjax.interop.naming import Family
from cvjax.models.airbench import Airbench
from cvjax.models.alexnet import AlexNet
from cvjax.models.densenet import DenseNet
from cvjax.models.dino import DINO
from cvjax.models.faster_rcnn import FasterRCNN
from cvjax.models.fcn import FCN, FCNVGG
from cvjax.models.googlenet import GoogLeNet
from cvjax.models.lenet import LeNet
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.resnet import ResNet
from cvjax.models.resnet9 import ResNet9
from cvjax.models.swin import SwinTransformer
from cvjax.models.vgg import VGG
from cvjax.models.vit import VisionTransformer

# A table, or the table that a model's fields make.
FAMILIES: dict[type[nn.Module], Family | Callable[[nn.Module], Family]] = {
    Airbench: AIRBENCH,
    AlexNet: alexnet,
    DenseNet: DENSENET,
    FCNVGG: fcn_vgg,
    GoogLeNet: GOOGLENET,
    LeNet: LENET,
    MaskedAutoencoder: MAE,
    ResNet: RESNET,
    ResNet9: RESNET9,
    SwinTransformer: swin,
    VGG: vgg,
    VisionTransformer: VIT,
}


def family_of(model: nn.Module) -> Family:
    """The table of a model's family; ValueError where there is none."""
    if isinstance(model, DINO):
        return dino(model, family_of)
    if isinstance(model, FasterRCNN):
        return faster_rcnn(model, family_of)
    if isinstance(model, FCN):
        return fcn(model, family_of)
    if type(model) not in FAMILIES:
        raise ValueError(f"no weight table for {type(model).__name__}; there are tables for "
                         f"{', '.join(sorted(module.__name__ for module in FAMILIES))}")
    family = FAMILIES[type(model)]
    return family if isinstance(family, Family) else family(model)
