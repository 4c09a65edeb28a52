"""Nearest neighbours of frozen features by cosine similarity, and the weighted k-nearest-neighbour classification.

The classification is the protocol of DINO (Caron et al. 2021, "Emerging Properties in Self-Supervised Vision
Transformers", https://arxiv.org/abs/2104.14294, sec. 3.2), taken from Wu et al. 2018
(https://arxiv.org/abs/1805.01978, sec. 3.4): each of the k training examples with the largest cosine similarity s
votes for its class with weight exp(s / T), T = 0.07. DINO reports k = 20.

The search is exact, and made for a million training examples. Each device holds its share of the training rows, so that
they are sent once. Test examples pass in blocks, and only one block of similarities exists at a time. Apart from the
matrix product, almost all of the time would go to finding the k largest of a long row. These lie in the k chunks with
the largest maxima. So the maxima are searched first (one fast reduction), and then only the rows of those chunks.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.typing import ArrayLike

from cvjax.evaluate._check import check_features, check_labels, check_same_dim

# Number of adjacent training rows in a chunk. 32 was the fastest of 8, 16 and 32 on a CPU for k = 20; for k = 200 they
# hardly differ.
CHUNK = 32


def nearest_neighbours(
    train_x: ArrayLike, test_x: ArrayLike, k: int, *, devices: Sequence[Any] | None = None,
    test_block: int = 512, train_block: int = 65536,
) -> tuple[np.ndarray, np.ndarray]:
    """The k training examples with the largest cosine similarity to each test example, nearest first.

    Similarities are computed in float32, and the search among them is exact. Among equal ones the training example that
    comes first is nearer. The result does not depend on the devices or the blocks.

    Args:
      train_x, test_x: float `(N, D)` and `(M, D)`; any scale, rows are L2-normalised here. An all-zero row
        has similarity 0 to everything.
      k: neighbours, 1 to N.
      devices: JAX devices to compute on (None: all of `jax.local_devices()`); each holds ceil(N / devices) training
        rows. If there are several processes, each passes the same arrays and receives the whole result.
      test_block, train_block: rows compared at a time on each device; `train_block` is rounded up to a multiple of
        32. For any M, a device holds its training rows, one block of similarities, `(test_block, train_block)` float32
        (128 MiB by default), and 32 k candidates per test row. The host holds its inputs, one normalised copy of the
        training rows and the result.

    Returns:
      similarity float32 `(M, k)` in [-1, 1] up to rounding, and index int32 `(M, k)`, row numbers of `train_x`.

    Raises:
      ValueError: features are not finite `(N, D)` with the same D, k is outside 1 to N, or a block is below 1.
    """
    _check(train_x, test_x, (k,))
    return _nearest(train_x, test_x, k, test_block, train_block, devices)


def knn_scores(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, num_classes: int, *, k: int,
    temperature: float = 0.07, test_block: int = 512, train_block: int = 65536,
) -> np.ndarray:
    """The share of each class in a test example's vote: exp(s / T) of its k nearest, divided by their sum.

    The division changes no decision (DINO leaves it out), and it prevents overflow at small temperatures. Among equal
    similarities at the k-th place the training example that comes first votes. The argmax of an exactly equal vote is
    the smaller class.

        >>> train_x, test_x = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 0.1]])
        >>> knn_scores(train_x, np.array([0, 1]), test_x, 2, k=2, temperature=1.0).round(3)
        array([[0.724, 0.276]], dtype=float32)

    Args:
      train_x, test_x: float `(N, D)` and `(M, D)`; any scale, rows are L2-normalised here. An all-zero row
        has similarity 0 to everything.
      train_y: int `(N,)` in [0, num_classes).
      k: neighbours, 1 to N.
      temperature: T > 0.
      test_block, train_block: see `nearest_neighbours`; the result does not depend on them.

    Returns:
      float32 `(M, num_classes)`; rows are non-negative and sum to 1.

    Raises:
      ValueError: an argument is not as above.
    """
    _check_vote(train_x, train_y, num_classes, temperature)
    _check(train_x, test_x, (k,))
    similarity, index = _nearest(train_x, test_x, k, test_block, train_block)
    return np.asarray(_vote(similarity, np.asarray(train_y, np.int32)[index], temperature, num_classes))


def knn_accuracy(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, num_classes: int, *,
    ks: Sequence[int] = (10, 20, 100, 200), temperature: float = 0.07, test_block: int = 512, train_block: int = 65536,
) -> dict[int, float]:
    """Top-1 accuracy in [0, 1] on the test set for each k, from one pass over the similarities.

    Arguments are those of `knn_scores`, and `test_y` int `(M,)`. A k that is larger than the training set is left out
    of the result, with a warning.

    Raises:
      ValueError: as `knn_scores`; also when every k is larger than N.
    """
    train_count = len(np.asarray(train_x))
    usable = tuple(k for k in ks if k <= train_count)
    if not usable:
        raise ValueError(f"ks must have a k of at most N={train_count}, received {tuple(ks)}")
    if len(usable) < len(ks):
        dropped = [k for k in ks if k > train_count]
        warnings.warn(f"k-NN leaves out k={dropped}: only {train_count} training examples", stacklevel=2)
    check_features("test", test_x, test_y, num_classes)
    _check_vote(train_x, train_y, num_classes, temperature)
    _check(train_x, test_x, usable)
    similarity, index = _nearest(train_x, test_x, max(usable), test_block, train_block)
    label = np.asarray(train_y, np.int32)[index]

    def accuracy(k: int) -> float:
        scores = _vote(similarity[:, :k], label[:, :k], temperature, num_classes)
        return float(np.mean(np.asarray(scores.argmax(axis=1)) == np.asarray(test_y)))

    return {k: accuracy(k) for k in usable}


def _check(train_x: ArrayLike, test_x: ArrayLike, ks: Sequence[int]) -> None:
    check_features("train", train_x)
    check_features("test", test_x)
    check_same_dim(train_x, test_x)
    count = len(np.asarray(train_x))
    for k in ks:
        if not 1 <= k <= count:
            raise ValueError(f"k must be from 1 to N={count} training examples, received {k}")


def _check_vote(train_x: ArrayLike, train_y: ArrayLike, num_classes: int, temperature: float) -> None:
    check_labels("train labels", train_y, len(np.asarray(train_x)), num_classes)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, received {temperature}")


def _nearest(train_x: ArrayLike, test_x: ArrayLike, k: int, test_block: int, train_block: int,
             devices: Sequence[Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_neighbours` of checked features."""
    if test_block < 1 or train_block < 1:
        raise ValueError(f"blocks must have at least 1 row, received {test_block=} and {train_block=}")
    devices = jax.local_devices() if devices is None else list(devices)
    mesh = jax.make_mesh((len(devices),), ("train",), axis_types=(AxisType.Auto,), devices=devices)
    train_x, test_x = np.asarray(train_x), np.asarray(test_x)
    train = _place(train_x, train_block, mesh)
    size = min(test_block, len(test_x))
    similarity, index = np.empty((len(test_x), k), np.float32), np.empty((len(test_x), k), np.int32)
    for start in range(0, len(test_x), size):
        queries = _unit(test_x[start : start + size])
        rows = slice(start, start + len(queries))
        # Padded, so that one compilation serves every block. A block is fetched before the next one starts: each block
        # in flight would hold its own similarities, and overlapping them was not faster.
        found = _search(train, np.pad(queries, [(0, size - len(queries)), (0, 0)]), len(train_x), k=k, mesh=mesh)
        similarity[rows], index[rows] = (np.asarray(part)[: len(queries)] for part in found)
    return similarity, index


def _place(train_x: np.ndarray, train_block: int, mesh) -> jax.Array:
    """Unit rows as blocks `(devices * steps, block, D)`, split over the devices.

    Each device's rows follow those of the device before it, and are cut into equal blocks of whole chunks. Copies of
    the last example pad its chunk.
    """
    share = -(-len(train_x) // mesh.size)
    steps = -(-share // train_block)
    block = -(-share // (steps * CHUNK)) * CHUNK

    def unit_rows(index):
        start, stop, _ = index[0].indices(steps * mesh.size)
        rows = np.zeros(((stop - start) * block, train_x.shape[1]), np.float32)
        real = train_x[start * block : stop * block]
        _unit(real, out=rows[: len(real)])
        if len(real):
            rows[len(real) :] = rows[len(real) - 1]
        return rows.reshape(-1, block, train_x.shape[1])

    sharding = NamedSharding(mesh, PartitionSpec("train"))
    return jax.make_array_from_callback((steps * mesh.size, block, train_x.shape[1]), sharding, unit_rows)


def _unit(rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Rows divided by their norm, float32, in `out` if given."""
    rows = np.asarray(rows, np.float32)
    # In float64 no square overflows or vanishes.
    norm = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64)).astype(np.float32)
    return np.divide(rows, np.where(norm > 0, norm, 1)[:, None], out=out)


@partial(jax.jit, static_argnames=("k", "mesh"))
def _search(train, queries, train_count, *, k: int, mesh):
    """One block of test rows against all training blocks: similarities and row numbers, both `(test_block, k)`."""
    share = partial(_search_share, k=k)
    split, whole = PartitionSpec("train"), PartitionSpec()
    found = jax.shard_map(share, mesh=mesh, in_specs=(split, whole, whole), out_specs=PartitionSpec(None, "train"))
    # Each device's k candidates side by side, in the order of the examples.
    similarity, number = jax.lax.with_sharding_constraint(found(train, queries, train_count),
                                                          NamedSharding(mesh, whole))
    return _largest(similarity, number, k)


def _search_share(train, queries, train_count, *, k: int):
    """The same on one device, against its blocks of training rows `(steps, block, D)`."""
    rows, (steps, block, _) = len(queries), train.shape
    chunks = min(k, block // CHUNK)
    first = jax.lax.axis_index("train") * steps * block

    def merge(best, step):
        x, start = step
        # Full float32: the default on TPU (and TF32 on GPU) would reorder close neighbours.
        similarity = jnp.matmul(queries, x.T, precision=jax.lax.Precision.HIGHEST).reshape(rows, -1, CHUNK)
        number = (start + jnp.arange(block, dtype=jnp.int32)).reshape(1, -1, CHUNK)
        if chunks * CHUNK < block:
            # Padding cannot raise a chunk's maximum. (With a mask here, the reduction would dominate the whole time.)
            largest = _real(jnp.max(similarity, axis=2), number[:, :, 0], train_count)
            # Among chunks with equal maxima the earlier ones are taken; sorting puts their rows in the examples' order.
            chunk = jnp.sort(jax.lax.top_k(largest, chunks)[1], axis=1)
            similarity = jnp.take_along_axis(similarity, chunk[:, :, None], axis=1)
            number = number[0][chunk]
        similarity = _real(similarity, number, train_count)
        number = jnp.broadcast_to(number, similarity.shape)
        # Earlier candidates come first, and top_k is stable: ties go to the earlier example.
        found = similarity.reshape(rows, -1), number.reshape(rows, -1)
        return _largest(*(jnp.concatenate(pair, axis=1) for pair in zip(best, found, strict=True)), k), None

    nothing = jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32)
    nothing = jax.lax.pcast(nothing, "train", to="varying")
    return jax.lax.scan(merge, nothing, (train, first + jnp.arange(steps, dtype=jnp.int32) * block))[0]


def _real(similarity, number, train_count):
    """Similarities with -inf for padding rows, which puts them last."""
    return jnp.where(number < train_count, similarity, -jnp.inf)


def _largest(similarity, number, k: int):
    similarity, where = jax.lax.top_k(similarity, k)
    return similarity, jnp.take_along_axis(number, where, axis=1)


@partial(jax.jit, static_argnames="num_classes")
def _vote(similarity, label, temperature, num_classes: int):
    """`(M, k)` neighbours -> `(M, num_classes)` vote shares."""
    weight = jax.nn.softmax(similarity / temperature, axis=1)
    # Compare-and-sum fuses: no (M, k, num_classes) array exists, and unlike scatter it adds in a fixed order.
    hit = label[:, :, None] == jnp.arange(num_classes)
    return jnp.sum(jnp.where(hit, weight[:, :, None], 0.0), axis=1)
