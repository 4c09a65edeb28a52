"""VGG's names: places in a sequence in torchvision's files and, for the convolutions, in timm's."""

import flax.linen as nn
import numpy as np

from cvjax.interop.families.registry import register
from cvjax.interop.naming import TORCH, Family, Layout, Naming, Rule, after_flattening
from cvjax.models.vgg import VGG


def as_convolution(side: int) -> Layout:
    """A linear layer on a flattened map, which timm stores as a convolution: (h*w*in, out) <-> (out, in, h, w)."""
    def to_theirs(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
        return kernel.reshape(side, side, -1, kernel.shape[1]).transpose(3, 2, 0, 1)

    def to_ours(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
        return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])

    return Layout(to_theirs, to_ours)


def vgg(model: VGG) -> Family:
    """The table of a model: a place in the sequence depends on all layers before it."""
    places, place = [], 0
    for stage, depth in enumerate(model.depths, start=1):
        for i in range(1, depth + 1):
            places.append((f"conv{stage}_{i}/", f"features/{place}/"))
            if model.batch_norm:
                places.append((f"bn{stage}_{i}/", f"features/{place + 1}/"))
            place += 3 if model.batch_norm else 2  # with the ReLU
        place += 1  # the pooling
    torchvision = (("fc6/", "classifier/0/"), ("fc7/", "classifier/3/"), ("fc8/", "classifier/6/"))
    timm = (("fc6/", "pre_logits/fc1/"), ("fc7/", "pre_logits/fc2/"), ("fc8/", "head/fc/"))
    head = r"(classifier\.6|head\.fc)\..+"
    return Family(
        namings={
            "torchvision": Naming((Rule(r"classifier/0/kernel", "classifier/0/weight", after_flattening(7, 7)), *TORCH),
                                  (*places, *torchvision)),
            "timm": Naming((Rule(r"(.+/fc1)/kernel", r"\1/weight", as_convolution(7)),
                            Rule(r"(.+/fc2)/kernel", r"\1/weight", as_convolution(1)), *TORCH), (*places, *timm)),
        },
        fresh=head,
        ignored=head,
    )


register(VGG, vgg)
