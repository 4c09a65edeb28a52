"""Batch normalisation (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167); groups in place of batches."""

import contextlib
from collections.abc import Callable, Container
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalise each channel of `(B, ..., C)` by mean and variance over all other axes, then scale and shift.

    With `train=True` the batch's statistics are used and the running ones (collection `batch_stats`) updated: they
    keep the share `momentum` of themselves (PyTorch's momentum is one minus this). The batch is normalised by its
    biased variance, and the unbiased variance is averaged (algorithm 2 of the paper). Statistics are always float32.

    affine: False for neither scale nor shift, as in a probe, whose norm must not learn (He et al. 2022, app. A.1);
    "bias" for only a shift.
    axis_name: the mapped axis over which pmap splits the batch. Under jit the batch is not split.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Any = nn.initializers.ones
    affine: bool | Literal["bias"] = True
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape) if self.affine is True else 1.0
        bias = self.param("bias", nn.initializers.zeros, shape) if self.affine else 0.0
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if train:
            count = x.size // x.shape[-1]
            axes = tuple(range(x.ndim - 1))
            # One pass over x, around the running mean: the plain E[x^2] - E[x]^2 loses digits where |mean| >> std.
            shifted = x.astype(jnp.float32) - mean
            moments = jnp.stack([shifted.mean(axes), jnp.square(shifted).mean(axes)])
            if self.axis_name is not None and not self.is_initializing():
                moments = jax.lax.pmean(moments, self.axis_name)
                count *= jax.lax.axis_size(self.axis_name)
            var = jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)
            mean = mean + moments[0]
            if not self.is_initializing():
                keep, unbiased = self.momentum, var * (count / max(count - 1, 1))
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        # In float32: the gradients of this line are sums over the batch.
        return (x.astype(jnp.float32) * factor + (bias - mean * factor)).astype(self.dtype)


class GroupNorm(nn.GroupNorm):
    """Normalise each group of channels of an example `(H, W, C)`, then scale and shift; called as `BatchNorm` is.

    Wu and He 2018, https://arxiv.org/abs/1803.08494; 32 groups (`num_groups`), as they have.
    """

    epsilon: float = 1e-5

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().__call__(x)


@contextlib.contextmanager
def frozen_statistics(frozen: Callable[[str], bool]) -> Any:
    """Within this context the batch norms whose path (`layer1/0/bn1`) is frozen behave as with `train=False`."""
    def intercept(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if isinstance(module, BatchNorm) and context.method_name == "__call__" and frozen("/".join(module.path)):
            options = {**options, "train": False}
        return call(*arguments, **options)

    with nn.intercept_methods(intercept):
        yield


@contextlib.contextmanager
def batch_statistics(kept: Container[str] = ()) -> Any:
    """Within this context batch norms use the statistics of their batch also with `train=False`, and leave them in the
    place of the running ones (`batch_stats`, which must be mutable). kept: paths of others, such as `layer1/0/bn1`."""
    def intercept(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if (not isinstance(module, BatchNorm) or context.method_name != "__call__"
                or "/".join(module.path) in kept):
            return call(*arguments, **options)
        before = {name: module.get_variable("batch_stats", name) for name in ("mean", "var")}
        out = call(*arguments, **{**options, "train": True})
        for name, old in before.items():  # undo the average: it has kept `momentum` of the old one
            moved = module.get_variable("batch_stats", name)
            module.put_variable("batch_stats", name, (moved - module.momentum * old) / (1 - module.momentum))
        return out

    with nn.intercept_methods(intercept):
        yield
