"""Local response normalisation (Krizhevsky et al. 2012, sec. 3.3); the arithmetic is in `cvjax.ops.lrn`."""

import flax.linen as nn
import jax

from cvjax.ops.lrn import local_response_norm


class LocalResponseNorm(nn.Module):
    """Divide each of the channels of `(B, H, W, C)` by `(k + alpha * sum of squares of `size` neighbours)^beta`.

    The defaults are the paper's, and so is alpha's meaning: it multiplies the sum over the window. Caffe's and
    PyTorch's alpha multiplies the mean: pass `alpha / size` of theirs.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0

    def __call__(self, x: jax.Array) -> jax.Array:
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)
