"""Linear probe: how well does a linear classifier read the label from frozen features?

As in MAE (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners",
https://arxiv.org/abs/2111.06377, App. A.1), features are standardised per dimension (its BatchNorm without
affine, here with the statistics of the whole training set) and a softmax regression is trained by SGD with
momentum 0.9 and a cosine schedule. MAE's LARS serves batches of 16384 and is not needed here.

Learning rate and weight decay are not guessed: the whole grid is trained at once (one `vmap`, so the features
are read once for all of it), each setting is scored on a stratified part of the *training* set, and the best
one is trained again on all of it. The test set is looked at once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cvjax.evaluate._check import check_features, check_same_dim

VALIDATION_FRACTION = 0.2
MOMENTUM = 0.9


@dataclass(frozen=True)
class LinearProbeResult:
    """What the probe reached, and the head itself: `logits = features @ kernel + bias` on *raw* features.

    Attributes:
      accuracy: top-1 on the test set, in [0, 1].
      learning_rate, weight_decay: the chosen setting.
      validation_accuracy: its accuracy on the held-out part of the training set, before the refit.
      kernel: float32 `(D, num_classes)`, the standardisation folded in.
      bias: float32 `(num_classes,)`.
      protocol: everything needed to repeat the number, ready for JSON.
    """

    accuracy: float
    learning_rate: float
    weight_decay: float
    validation_accuracy: float
    kernel: np.ndarray
    bias: np.ndarray
    protocol: dict


def linear_probe(
    train_x, train_y, test_x, test_y, num_classes: int, *,
    epochs: int = 100, batch_size: int = 256,
    learning_rates: Sequence[float] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    weight_decays: Sequence[float] = (0.0, 1e-3, 1e-2), seed: int = 0,
) -> LinearProbeResult:
    """Train a softmax regression on frozen features and measure it on the test set.

    Args:
      train_x, test_x: float `(N, D)` and `(M, D)`, any scale and offset per dimension.
      train_y, test_y: int `(N,)` and `(M,)` in [0, num_classes).
      epochs: passes over the data, in the sweep and again in the refit.
      batch_size: the largest mini-batch; an epoch is cut into ceil(N / batch_size) nearly equal ones.
      learning_rates, weight_decays: the grid. Weight decay is L2 on the kernel, never on the bias.
      seed: draws the split and the order of the examples; the same seed gives the same result.

    Raises:
      ValueError: a feature is NaN or infinite, a label is out of range, the training set has one class only,
        or no class with two examples, shapes disagree, a setting is not positive, or every setting diverged.
    """
    _check(train_x, train_y, test_x, test_y, num_classes, epochs, batch_size, learning_rates, weight_decays)
    grid = np.array(list(product(learning_rates, weight_decays)), np.float32)
    x, y = jnp.asarray(train_x, jnp.float32), jnp.asarray(train_y, jnp.int32)
    fit_rows, validation_rows = stratified_split(np.asarray(train_y), VALIDATION_FRACTION, seed)
    sizes = dict(num_classes=num_classes, epochs=epochs, batch_size=batch_size)

    heads = _fit(x, y, fit_rows, grid, jax.random.key(seed), **sizes)
    hits, losses = jax.vmap(_score, (0, None, None))(heads, x[validation_rows], y[validation_rows])
    best = _best(np.asarray(hits), np.asarray(losses))
    refit = _fit(x, y, np.arange(len(y)), grid[best : best + 1], jax.random.key(seed), **sizes)
    kernel, bias = jax.tree.map(lambda leaf: leaf[0], refit)
    test_hits, _ = _score((kernel, bias), jnp.asarray(test_x, jnp.float32), jnp.asarray(test_y, jnp.int32))

    learning_rate, weight_decay = list(product(learning_rates, weight_decays))[best]
    return LinearProbeResult(
        accuracy=int(test_hits) / len(test_y),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        validation_accuracy=int(hits[best]) / len(validation_rows),
        kernel=np.asarray(kernel),
        bias=np.asarray(bias),
        protocol=dict(
            classifier="softmax regression on features standardised with training statistics",
            optimizer=f"SGD, momentum {MOMENTUM}, cosine schedule",
            epochs=epochs,
            batch_size=batch_size,
            learning_rates=list(learning_rates),
            weight_decays=list(weight_decays),
            chosen=dict(learning_rate=learning_rate, weight_decay=weight_decay),
            selection=f"{len(validation_rows)} stratified training rows held out, then refit on all {len(y)}",
            seed=seed,
        ),
    )


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in two so that each class gives the same fraction, at least one row, to the second part.

    A class with a single row stays in the first part.

    Args:
      labels: int `(N,)`.
      fraction: of each class to put in the second part, in (0, 1).

    Returns:
      Sorted row numbers, int `(N1,)` and `(N2,)`; together every row once.
    """
    shuffle = np.random.default_rng(seed).permutation
    held_out = []
    for name in np.unique(labels):
        rows = shuffle(np.flatnonzero(labels == name))
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held_out.append(rows[:count])
    held_out = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def _best(hits: np.ndarray, losses: np.ndarray) -> int:
    """The setting with most hits; few held-out rows make equals common, so then the lowest loss decides."""
    finite = np.isfinite(losses)
    if not finite.any():
        raise ValueError("every setting of learning_rates and weight_decays diverged: try smaller ones")
    return int(np.lexsort((losses, np.where(finite, -hits, 1)))[0])


def _check(
    train_x, train_y, test_x, test_y, num_classes, epochs, batch_size, learning_rates, weight_decays
) -> None:
    check_features("train", train_x, train_y, num_classes)
    check_features("test", test_x, test_y, num_classes)
    check_same_dim(train_x, test_x)
    counts = np.bincount(train_y)
    if np.count_nonzero(counts) < 2:
        raise ValueError(f"train labels must have 2 or more classes, received only class {counts.argmax()}")
    if counts.max() < 2:
        raise ValueError("some class must have 2 training examples to hold one out, received one of each")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, received {epochs=} and {batch_size=}")
    if not len(learning_rates) or min(learning_rates) <= 0:
        raise ValueError(f"learning_rates must be one or more positive numbers, received {learning_rates}")
    if not len(weight_decays) or min(weight_decays) < 0:
        raise ValueError(f"weight_decays must be one or more numbers >= 0, received {weight_decays}")


@partial(jax.jit, static_argnames=("num_classes", "epochs", "batch_size"))
def _fit(x, y, rows, grid, key, *, num_classes: int, epochs: int, batch_size: int):
    """Heads for raw features, kernel `(G, D, C)` and bias `(G, C)`, one per grid row, fit on `x[rows]`."""
    count = len(rows)
    batches = -(-count // batch_size)
    size = -(-count // batches)  # near-equal batches: no last batch of three noisy examples
    mean, scale = _statistics(x[rows])

    def train(setting):
        learning_rate, weight_decay = setting
        optimizer = optax.chain(
            optax.add_decayed_weights(weight_decay, mask=(True, False)),
            optax.sgd(optax.cosine_decay_schedule(learning_rate, epochs * batches), momentum=MOMENTUM),
        )

        def step(carry, batch):
            head, state = carry
            row, mask = batch
            # Standardised here and not before, so that the features are in memory once.
            gradients = jax.grad(_loss)(head, (x[row] - mean) / scale, y[row], mask)
            updates, state = optimizer.update(gradients, state, head)
            return (optax.apply_updates(head, updates), state), None

        def epoch(carry, epoch_key):
            order = jnp.pad(jax.random.permutation(epoch_key, rows), (0, batches * size - count))
            mask = jnp.arange(batches * size) < count
            return jax.lax.scan(step, carry, (order.reshape(batches, size), mask.reshape(batches, size)))

        head = jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes)
        (head, _), _ = jax.lax.scan(epoch, (head, optimizer.init(head)), jax.random.split(key, epochs))
        return _fold(head, mean, scale)

    return jax.vmap(train)(grid)


def _statistics(x):
    """Mean and divisor per dimension; a constant one (up to rounding) is divided by 1 and so becomes 0."""
    mean, std = x.mean(axis=0), x.std(axis=0)
    return mean, jnp.where(std > 1e-6 * jnp.abs(mean), std, 1.0)


def _fold(head, mean, scale):
    kernel = head[0] / scale[:, None]
    return kernel, head[1] - _logits((kernel, 0.0), mean)


def _logits(head, x):
    kernel, bias = head
    return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias


def _loss(head, x, y, mask):
    losses = optax.softmax_cross_entropy_with_integer_labels(_logits(head, x), y)
    return jnp.sum(losses * mask) / jnp.sum(mask)


@jax.jit
def _score(head, x, y):
    """Number of rows classified rightly, and mean cross-entropy, over all rows."""
    hits = jnp.argmax(_logits(head, x), axis=1) == y
    return jnp.sum(hits), _loss(head, x, y, jnp.ones(len(y)))
