"""Parameter initialisers in the papers' words."""

import flax.linen as nn

xavier_uniform = nn.initializers.xavier_uniform()  # linear layers of the official JAX ViT and of MAE
token_normal = nn.initializers.normal(stddev=0.02)  # class and mask tokens, learned positions
head_normal = nn.initializers.truncated_normal(stddev=0.02)  # classifiers
