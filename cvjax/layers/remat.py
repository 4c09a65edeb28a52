"""Rematerialisation: activations are recomputed in the backward pass instead of stored (Chen et al. 2016,
https://arxiv.org/abs/1604.06174)."""

from typing import Any, Literal

import flax.linen as nn
import jax

# "full" keeps only a block's input. "dots" also keeps the results of its matrix products with weights, which are the
# costly part.
Remat = Literal["none", "dots", "full"]

POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def rematerialized(block: type[nn.Module], remat: Remat) -> Any:
    """The class `block`, called with `(x, train, ...)`, or one like it that recomputes its activations as `remat` says.

    Raises ValueError for an unknown word.
    """
    if remat == "none":
        return block
    if remat not in POLICIES:
        raise ValueError(f"remat {remat!r}: it must be one of none, {', '.join(POLICIES)}")
    return nn.remat(block, policy=POLICIES[remat], static_argnums=(2,))  # `train`; self is 0
