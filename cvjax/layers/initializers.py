"""Parameter initialisers in the papers' words."""

import flax.linen as nn

xavier_uniform = nn.initializers.xavier_uniform()  # linear layers of the official JAX ViT and of MAE
token_normal = nn.initializers.normal(stddev=0.02)  # class and mask tokens, learned positions
small_normal = nn.initializers.normal(stddev=0.01)  # AlexNet (2012), linear layers of VGG
head_normal = nn.initializers.truncated_normal(stddev=0.02)  # classifiers
# Convolutions: normal of variance 2 / fan out (He et al. 2015, https://arxiv.org/abs/1502.01852).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Linear heads of the CNNs: uniform in +-1 / sqrt(fan in), what torchvision's models start from.
linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
