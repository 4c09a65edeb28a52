"""The pre-norm transformer block and a stack of them (Dosovitskiy et al. 2021, eq. 2-3)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.attention import QKVBias, SelfAttention
from cvjax.layers.drop_path import DropPath
from cvjax.layers.initializers import TransformerInit
from cvjax.layers.layer_scale import LayerScale
from cvjax.layers.mlp import Activation, Mlp
from cvjax.layers.partition import spread
from cvjax.layers.remat import Remat, rematerialized
from cvjax.ops.attention import Implementation, hidden_tokens


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, on `(B, T, D)`.

    qkv_bias: see `cvjax.layers.attention.QKVBias`. activation: see `cvjax.layers.mlp.Mlp`. norm_epsilon: what all norms
    add to the variance. hidden: so many tokens at the end are no tokens: the others do not see them.
    angles: rotary positions, see `cvjax.layers.attention.SelfAttention`.
    """

    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    attention: Implementation = "auto"
    inits: TransformerInit = TransformerInit()
    qkv_bias: QKVBias = True
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-6
    hidden: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, angles: jax.Array | None = None) -> jax.Array:
        shape = x.shape

        def residual(name: str, branch: jax.Array) -> jax.Array:
            if self.layer_scale is not None:
                branch = LayerScale(self.layer_scale, name=f"ls{name}")(branch)
            branch = DropPath(self.drop_path, name=f"drop_path{name}")(branch.reshape(shape), train=train)
            return branch.reshape(-1, shape[-1])

        x = spread(x, 0, over="data")  # under FSDP weights are sent to the examples, not the other way round
        # Rows (B * T, D): on a GPU, XLA would lay out three axes otherwise and transpose before every product.
        x = x.reshape(-1, shape[-1])
        y = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="norm1")(x).reshape(shape)
        attention = SelfAttention(self.heads, self.qk_norm, self.dtype, self.attention, self.inits, self.qkv_bias,
                                  self.norm_epsilon, name="attn")
        x = x + residual("1", attention(y, hidden=self.hidden, angles=angles))
        y = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="norm2")(x)
        x = x + residual("2", Mlp(int(shape[-1] * self.mlp_ratio), self.dtype, self.inits.linear,
                                  self.activation, name="mlp")(y))
        return x.reshape(shape)


class Blocks(nn.Module):
    """`depth` blocks in a row, from `(B, T, D)` to the outputs of all of them, first block first.

    The drop-path rate grows linearly from 0 to `drop_path` (stochastic depth, sec. 3).
    remat: what each block recomputes in the backward pass instead of storing it: see `cvjax.layers.remat`.
    scan: with `train=True` compile one block and loop over it, instead of `depth` of them. Parameters keep their names
    and are stacked in the step. Drop path draws other numbers; all else is the same up to rounding.
    The other fields are each block's.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    remat: Remat = "none"
    scan: bool = False
    dtype: Any = jnp.float32
    attention: Implementation = "auto"
    inits: TransformerInit = TransformerInit()
    qkv_bias: QKVBias = True
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, count: int | None = None, angles: jax.Array | None = None
                 ) -> list[jax.Array]:
        """count: run only so many blocks, the first ones; None for all. angles: see `Block`."""
        rates = np.linspace(0.0, self.drop_path, self.depth)[:count]
        # Padded here, the tokens need not be copied for each attention.
        length, hidden = x.shape[1], hidden_tokens(x.shape, self.heads, self.dtype, self.attention)
        block = partial(rematerialized(Block, self.remat), self.heads, self.mlp_ratio, self.qk_norm, self.layer_scale,
                        dtype=self.dtype, attention=self.attention, inits=self.inits, qkv_bias=self.qkv_bias,
                        activation=self.activation, norm_epsilon=self.norm_epsilon, hidden=hidden)
        if hidden:
            x = jnp.pad(x, ((0, 0), (0, hidden), (0, 0)))
            angles = None if angles is None else jnp.pad(angles, ((0, 0), (0, hidden), (0, 0)))
        if self.scan and train and not self.is_initializing():
            outputs = self._scan(block, x, rates, angles)
        else:
            outputs = []
            for i, rate in enumerate(rates):
                x = block(drop_path=float(rate), name=str(i))(x, train, angles)
                outputs.append(x)
        return [x[:, :length] for x in outputs] if hidden else outputs

    def _scan(self, block: Any, x: jax.Array, rates: np.ndarray, angles: jax.Array | None) -> list[jax.Array]:
        """All blocks in training, as a loop over one compiled block."""
        params = self.variables["params"]
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *(params[str(i)] for i in range(len(rates))))
        draws = self.drop_path > 0
        keys = jax.random.split(self.make_rng("dropout"), len(rates)) if draws else None

        def body(x: jax.Array, each: Any) -> tuple[jax.Array, jax.Array]:
            params, rate, key = each
            x = block(drop_path=rate if draws else 0.0, parent=None).apply(
                {"params": params}, x, True, angles, rngs={"dropout": key} if draws else {})
            return x, x

        x, outputs = jax.lax.scan(body, x, (stacked, jnp.asarray(rates, jnp.float32), keys))
        return [*outputs[:-1], x]  # if only the last is used, the others are not kept
