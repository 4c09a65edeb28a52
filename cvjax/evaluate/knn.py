"""Weighted k-nearest-neighbour classification of frozen features.

The protocol of DINO (Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers",
https://arxiv.org/abs/2104.14294, sec. 4.1), taken from Wu et al. 2018 (https://arxiv.org/abs/1805.01978,
sec. 3.4): each of the k training examples with the largest cosine similarity s votes for its class with
weight exp(s / T), T = 0.07. DINO reports k = 20.
"""

import warnings
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.evaluate._check import check_features, check_same_dim


def knn_scores(
    train_x, train_y, test_x, num_classes: int, *, k: int,
    temperature: float = 0.07, test_block: int = 256, train_block: int = 8192,
) -> np.ndarray:
    """Each test example's vote shares: exp(s / T) of its k nearest, summed per class, divided by the total.

    The division changes no decision (DINO leaves it out) and keeps small temperatures from overflowing.
    Equal similarities at the k-th place go to the training example that comes first; an exactly equal vote
    goes to the smaller class when the caller takes the argmax.

    Args:
      train_x, test_x: float `(N, D)` and `(M, D)`; any scale, rows are L2-normalised here. An all-zero row
        has similarity 0 to everything.
      train_y: int `(N,)` in [0, num_classes).
      k: neighbours, 1 to N.
      temperature: T > 0.
      test_block, train_block: rows compared at a time. The memory used beyond inputs and output is one block
        of similarities, `(test_block, train_block)`; the result does not depend on them.

    Returns:
      float32 `(M, num_classes)`; rows are non-negative and sum to 1.

    Raises:
      ValueError: shapes, values, k or temperature outside what is stated above.
    """
    _check(train_x, train_y, test_x, num_classes, (k,), temperature)
    similarity, label = _nearest(train_x, train_y, test_x, k, test_block, train_block)
    return np.asarray(_vote(similarity, label, temperature, num_classes))


def knn_accuracy(
    train_x, train_y, test_x, test_y, num_classes: int, *, ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07, test_block: int = 256, train_block: int = 8192,
) -> dict[int, float]:
    """Top-1 accuracy in [0, 1] on the test set for each k, from one pass over the similarities.

    Arguments are those of `knn_scores`, and `test_y` int `(M,)`. A k larger than the training set cannot be
    computed: it is left out of the result, with a warning.

    Raises:
      ValueError: as `knn_scores`; also when every k is larger than N.
    """
    train_count = len(train_x)
    usable = tuple(k for k in ks if k <= train_count)
    if not usable:
        raise ValueError(f"ks must have a k of at most N={train_count}, received {tuple(ks)}")
    if len(usable) < len(ks):
        dropped = [k for k in ks if k > train_count]
        warnings.warn(f"k-NN leaves out k={dropped}: only {train_count} training examples", stacklevel=2)
    check_features("test", test_x, test_y, num_classes)
    _check(train_x, train_y, test_x, num_classes, usable, temperature)
    similarity, label = _nearest(train_x, train_y, test_x, max(usable), test_block, train_block)

    def accuracy(k: int) -> float:
        scores = _vote(similarity[:, :k], label[:, :k], temperature, num_classes)
        return float(np.mean(np.asarray(scores.argmax(axis=1)) == np.asarray(test_y)))

    return {k: accuracy(k) for k in usable}


def _check(train_x, train_y, test_x, num_classes, ks, temperature) -> None:
    check_features("train", train_x, train_y, num_classes)
    check_features("test", test_x)
    check_same_dim(train_x, test_x)
    for k in ks:
        if not 1 <= k <= len(train_x):
            raise ValueError(f"k must be from 1 to N={len(train_x)} training examples, received {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, received {temperature}")


def _nearest(train_x, train_y, test_x, k: int, test_block: int, train_block: int):
    """Similarities float32 and labels int32, both `(M, k)`, nearest first."""
    if test_block < 1 or train_block < 1:
        raise ValueError(f"blocks must have at least 1 row, received {test_block=} and {train_block=}")
    similarity, label = _search(
        _blocks(np.asarray(train_x, np.float32), train_block),
        _blocks(np.asarray(train_y, np.int32), train_block),
        _blocks(np.asarray(test_x, np.float32), test_block),
        len(train_x),
        k,
    )
    return similarity.reshape(-1, k)[: len(test_x)], label.reshape(-1, k)[: len(test_x)]


def _blocks(rows: np.ndarray, block: int) -> np.ndarray:
    """`(N, ...)` -> `(ceil(N / block), block, ...)`, the last block padded with zero rows."""
    block = min(block, len(rows))
    padding = [(0, -len(rows) % block)] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(rows, padding).reshape(-1, block, *rows.shape[1:])


@partial(jax.jit, static_argnames="k")
def _search(train_x, train_y, test_x, train_count, k: int):
    """All test blocks against all train blocks, compiled once: similarities and labels `(M, k)`, padded."""
    block = train_x.shape[1]
    starts = jnp.arange(len(train_x)) * block

    def one_test_block(queries):
        queries = _unit(queries)

        def merge(best, train):
            x, y, start = train
            # Full float32: the default on TPU (and TF32 on GPU) would reorder close neighbours.
            similarity = jnp.matmul(queries, _unit(x).T, precision=jax.lax.Precision.HIGHEST)
            similarity = jnp.where(start + jnp.arange(block) < train_count, similarity, -jnp.inf)
            # What was found earlier stands first, and top_k is stable: ties go to the earlier example.
            candidates = jnp.concatenate([best[0], similarity], axis=1)
            labels = jnp.concatenate([best[1], jnp.broadcast_to(y, similarity.shape)], axis=1)
            similarity, where = jax.lax.top_k(candidates, k)
            return (similarity, jnp.take_along_axis(labels, where, axis=1)), None

        nothing = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
        return jax.lax.scan(merge, nothing, (train_x, train_y, starts))[0]

    return jax.lax.map(one_test_block, test_x)


def _unit(x):
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)


@partial(jax.jit, static_argnames="num_classes")
def _vote(similarity, label, temperature, num_classes: int):
    """`(M, k)` neighbours -> `(M, num_classes)` vote shares."""
    weight = jax.nn.softmax(similarity / temperature, axis=1)
    # Compare-and-sum fuses: no (M, k, num_classes) array exists, and unlike scatter it adds in a fixed order.
    hit = label[:, :, None] == jnp.arange(num_classes)
    return jnp.sum(jnp.where(hit, weight[:, :, None], 0.0), axis=1)
