"""Model soups: one network from the mean of the parameters of several (Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482).

It costs no more than each of them. They must have started from the same weights: the mean of networks that learnt apart
from one another answers no better than chance. Batch norm's running statistics belong to no mean. They are measured
anew on training images, as for stochastic weight averaging (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407,
sec. 3.2). Some thousand of these are enough (Wu and Johnson 2021, https://arxiv.org/abs/2105.07576, sec. 3).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cvjax.layers.norm import batch_statistics


def mean_of(trees: Sequence[Any]) -> Any:
    """The mean of trees of arrays, rounded once: it is taken in float64 and has the dtype of the first tree."""
    def mean(*leaves: Any) -> np.ndarray:
        return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(leaves[0].dtype)

    return trees[0] if len(trees) == 1 else jax.tree.map(mean, *trees)


def greedy_soup(scores: Sequence[float], judge: Callable[[Sequence[int]], float]) -> tuple[list[int], list[float]]:
    """Which networks go into a soup (recipe 1 of the paper), and its score after each of them.

    scores: of each network, on held-out images; more is better, and what is not a number is worst. They are tried from
    the best to the worst, and each one stays whose addition does not lower the score.
    judge: positions of networks -> score of their mean on the same images. It is not asked about a single network, so
    that the soup's score is never below the best of `scores`.
    """
    comparable = np.nan_to_num(np.asarray(scores, float), nan=-np.inf)
    best, *others = sorted(range(len(scores)), key=lambda i: -comparable[i])  # of equal ones the first
    kept, reached = [best], [float(scores[best])]
    for i in others:
        score = judge([*kept, i])
        if score >= reached[-1]:
            kept.append(i)
            reached.append(score)
    return kept, reached


def unmoved(networks: Sequence[Any]) -> frozenset[str]:
    """Paths of the batch norms, such as `layer1/0/bn1`, whose statistics are the same in the variables of all networks.

    They were frozen: their statistics belong to the weights that all started from, and so to any mean.
    """
    first, *others = map(_statistics, networks)
    return frozenset(path for path, leaves in first.items()
                     if all(all(map(np.array_equal, leaves, other[path])) for other in others))


def _statistics(variables: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path, leaf in flatten_dict(dict(variables.get("batch_stats", {}))).items():
        found.setdefault("/".join(path[:-1]), []).append(leaf)
    return found


def renewing_statistics(model: nn.Module, kept: Collection[str] = ()) -> Callable[[Any, Iterable[jax.Array]], Any]:
    """A function, compiled once, that gives variables with batch norm's statistics of some images for the running ones.

    kept: paths of batch norms that keep their own, as `unmoved` gives them.
    It takes variables and batches: images float32 `(B, H, W, C)` as the model sees them, all of one shape and in random
    order. Each statistic is the mean over the batches, that of a variance without the bias of a batch's own mean, as in
    training. Dropout and drop path stay off, and nothing else changes. Variables without batch norm, or with none but
    `kept` ones, are given back as they are, and no batch is asked for. ValueError if there is no batch.
    """
    @jax.jit
    def measured(variables: Any, images: jax.Array) -> Any:
        with batch_statistics(kept):
            return model.apply(variables, images, train=False, mutable=["batch_stats"])[1]["batch_stats"]

    def renewed(variables: Any, batches: Iterable[jax.Array]) -> Any:
        if _statistics(variables).keys() <= set(kept):
            return variables
        total, count = None, 0
        for images in batches:
            found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), measured(variables, images))
            total, count = found if total is None else jax.tree.map(np.add, total, found), count + 1
        if total is None:
            raise ValueError("no batch: statistics are measured on one at least")
        return {**variables, "batch_stats": jax.tree.map(lambda leaf: (leaf / count).astype(np.float32), total)}

    return renewed
