"""Parameter initialisers in the papers' words."""

from typing import Any, Literal, NamedTuple

import flax.linen as nn

xavier_uniform = nn.initializers.xavier_uniform()  # linear layers of the official JAX ViT and of MAE
# Tokens, positions and linear layers of transformers. Publishers call it a truncated normal, but timm's and torch's cut
# at -2 and 2, which is 100 deviations away; a cut at two deviations would leave one of 0.0176.
normal = nn.initializers.normal(stddev=0.02)
small_normal = nn.initializers.normal(stddev=0.01)  # AlexNet (2012), linear layers of VGG, torchvision's GoogLeNet
caffe_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # Caffe's "xavier"
# Convolutions: normal of variance 2 / fan out (He et al. 2015, https://arxiv.org/abs/1502.01852).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Linear heads of the CNNs: uniform in +-1 / sqrt(fan in), as in torchvision's models.
linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

WeightInit = Literal["mae", "timm", "jax"]


class TransformerInit(NamedTuple):
    """How the kernels of a ViT start."""

    patches: Any = xavier_uniform
    qkv: Any = xavier_uniform  # queries, keys and values as one matrix of D x 3D
    linear: Any = xavier_uniform  # all others but the head's
    head: Any = normal


TRANSFORMER_INITS: dict[WeightInit, TransformerInit] = {
    "mae": TransformerInit(),  # He et al. 2022
    # timm's models, those of DeiT, Swin and DINO's authors; convolutions as torch makes them
    "timm": TransformerInit(linear_uniform, normal, normal),
    # The official JAX code and big_vision: queries, keys and values start as three Xavier matrices of D x D, whose
    # range is sqrt(2) larger; flax's own start of convolutions; a head of zeros.
    "jax": TransformerInit(nn.initializers.lecun_normal(), nn.initializers.variance_scaling(2.0, "fan_avg", "uniform"),
                           head=nn.initializers.zeros),
}
