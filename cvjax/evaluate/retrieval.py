"""Image retrieval: how well does a ranking by cosine similarity put the right images first?

There are two protocols. In `class_retrieval`, images of the query's class are right, and all others are wrong.
`revisited_retrieval` is Oxford and Paris with the new annotations of Radenovic et al. 2018 ("Revisiting Oxford and
Paris: Large-Scale Image Retrieval Benchmarking", https://arxiv.org/abs/1803.11285, sec. 3), where each query has lists
of easy, hard and junk images. DINO (https://arxiv.org/abs/2104.14294, sec. 4.2.1) reports its medium and hard settings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate._check import check_features, check_labels, check_same_dim
from cvjax.evaluate.knn import nearest_neighbours

# Setting -> the lists that have to be found, and the lists that are taken out of the ranking.
SETTINGS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
# Number of similarities that are sorted at a time. A ranking covers the whole gallery, so queries pass in blocks.
RANKED_AT_ONCE = 2**24


@dataclass(frozen=True)
class RetrievalResult:
    """The scores of a ranking.

    Attributes:
      mean_average_precision: in [0, 1], mean over the queries that have something to find.
      precision_at: mean precision of the first k images for each k, in [0, 1], over the same queries.
      average_precision: float64 `(M,)`, each query's; NaN for a query with nothing to find.
      protocol: everything needed to repeat the number, ready for JSON.
    """

    mean_average_precision: float
    precision_at: dict[int, float]
    average_precision: np.ndarray
    protocol: dict


def average_precision(ranks: ArrayLike, count: int) -> float:
    """Mean over the `count` right images of the precision at the position of each: `(i + 1) / (ranks[i] + 1)`.

    ranks: int `(R,)`, ascending positions, counted from 0, of the right images that are found. The others add 0.
    """
    ranks = np.asarray(ranks)
    return float(np.sum((np.arange(len(ranks)) + 1) / (ranks + 1)) / count)


def trapezoid_average_precision(ranks: ArrayLike, count: int) -> float:
    """The area under precision over recall by trapezoids, as in the Oxford, Holidays and revisited benchmarks.

    Each right image that is found is a step of 1 / count in recall. Its height is the mean of the precision before it,
    `i / ranks[i]` (1 at position 0), and including it, `(i + 1) / (ranks[i] + 1)`. Arguments: see `average_precision`.
    """
    ranks = np.asarray(ranks)
    found = np.arange(len(ranks))
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    return float(np.sum(before + (found + 1) / (ranks + 1)) / (2 * count))


def class_retrieval(
    query_x: ArrayLike, query_y: ArrayLike, gallery_x: ArrayLike | None = None, gallery_y: ArrayLike | None = None, *,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalResult:
    """Rank the gallery for each query. Images of the query's class are right.

    Args:
      query_x: float `(M, D)`, any scale.
      query_y: int `(M,)`, 0 or more.
      gallery_x, gallery_y: features `(N, D)` and labels `(N,)` of the images that are ranked. None: each query ranks
        all other queries.
      ks: where to measure precision; positive. A k beyond the gallery counts the missing images as wrong.

    Returns:
      Scores with `average_precision`. Images of equal similarity keep the gallery's order.

    Raises:
      ValueError: features or labels are not as above, only one of gallery_x and gallery_y is given, k is below 1, or
        no query has an image of its class in the gallery.
    """
    alone = gallery_x is None
    if alone != (gallery_y is None):
        raise ValueError("gallery_x and gallery_y must be given both or not at all, received one of them")
    query_x, query_y = np.asarray(query_x), np.asarray(query_y)
    gallery_x, gallery_y = (query_x, query_y) if alone else (np.asarray(gallery_x), np.asarray(gallery_y))
    _check_pair(query_x, gallery_x, ks)
    check_labels("query labels", query_y, len(query_x), None)
    check_labels("gallery labels", gallery_y, len(gallery_x), None)

    def ranks_of(query: int, order: np.ndarray) -> np.ndarray:
        if alone:
            order = order[order != query]
        return np.flatnonzero(gallery_y[order] == query_y[query])

    found = [ranks_of(query, order) for query, order in _rankings(query_x, gallery_x)]
    scores = [_scores(average_precision, ranks, len(ranks), ks, ks) for ranks in found]
    return _result(scores, ks, dict(
        task="class labels", gallery="the other queries" if alone else f"{len(gallery_x)} images",
        average_precision="mean of the precision at each right image"))


def revisited_retrieval(
    query_x: ArrayLike, database_x: ArrayLike, easy: Sequence[Sequence[int]], hard: Sequence[Sequence[int]],
    junk: Sequence[Sequence[int]], *, ks: Sequence[int] = (1, 5, 10),
) -> dict[str, RetrievalResult]:
    """The three settings of Revisited Oxford and Paris: "easy", "medium" and "hard".

    Easy: the easy images have to be found, and hard ones are ignored. Medium: both have to be found. Hard: the hard
    ones have to be found, and easy ones are ignored. Junk is always ignored. Ignored images are taken out of the
    ranking before anything is counted. A query with nothing to find in a setting does not count in its means.

    One query; image 0 of the database is its most similar one, image 3 its least similar one:

        >>> query, database = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0], [0.0, 1.0]])
        >>> results = revisited_retrieval(query, database, easy=[[1]], hard=[[3]], junk=[[0]])
        >>> {setting: round(result.mean_average_precision, 2) for setting, result in results.items()}
        {'easy': 1.0, 'medium': 0.79, 'hard': 0.25}

    Args:
      query_x, database_x: float `(M, D)` and `(N, D)`, any scale.
      easy, hard, junk: for each query a list of row numbers of `database_x`; a query names a row only once.
      ks: where to measure precision. As in the authors' code, a k beyond the position of the last right image counts
        as that position, so that a query with fewer than k right images can reach 1.

    Returns:
      A result per setting, with `trapezoid_average_precision`.

    Raises:
      ValueError: features or lists are not as above, k is below 1, or no query has anything to find in a setting.
    """
    query_x, database_x = np.asarray(query_x), np.asarray(database_x)
    _check_pair(query_x, database_x, ks)
    lists = {name: [np.asarray(rows, np.int64) for rows in given]
             for name, given in dict(easy=easy, hard=hard, junk=junk).items()}
    _check_lists(lists, len(query_x), len(database_x))
    scores: dict[str, list[list[float]]] = {setting: [] for setting in SETTINGS}
    for query, order in _rankings(query_x, database_x):
        for setting, (wanted, ignored) in SETTINGS.items():
            right = np.concatenate([lists[name][query] for name in wanted])
            order_left = order[~np.isin(order, np.concatenate([lists[name][query] for name in ignored]))]
            ranks = np.flatnonzero(np.isin(order_left, right))
            reach = [min(k, ranks[-1] + 1) for k in ks] if len(ranks) else ks
            scores[setting].append(_scores(trapezoid_average_precision, ranks, len(right), ks, reach))
    return {setting: _result(scores[setting], ks, dict(
        task=f"revisited, {setting}", gallery=f"{len(database_x)} images", average_precision="trapezoids"))
        for setting in SETTINGS}


def _rankings(query_x: np.ndarray, gallery_x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each query and all rows of the gallery, nearest first."""
    count = len(gallery_x)
    size = min(512, max(1, RANKED_AT_ONCE // count))
    for start in range(0, len(query_x), size):
        _, orders = nearest_neighbours(gallery_x, query_x[start : start + size], count, train_block=count)
        yield from enumerate(orders, start)


def _scores(rule, ranks: np.ndarray, count: int, ks, divisors) -> list[float]:
    """Average precision of one query and its precision at each k; NaN if there is nothing to find."""
    if not count:
        return [np.nan] * (1 + len(ks))
    return [rule(ranks, count), *(np.count_nonzero(ranks < k) / by for k, by in zip(ks, divisors, strict=True))]


def _result(scores: list[list[float]], ks, protocol: dict) -> RetrievalResult:
    table = np.array(scores)
    counted = np.count_nonzero(~np.isnan(table[:, 0]))
    if not counted:
        raise ValueError(f"no query has anything to find ({protocol['task']}), received {len(table)} queries")
    mean = np.nanmean(table, axis=0)
    return RetrievalResult(
        mean_average_precision=float(mean[0]),
        precision_at={int(k): float(value) for k, value in zip(ks, mean[1:], strict=True)},
        average_precision=table[:, 0],
        protocol=protocol | dict(similarity="cosine", queries=len(table), queries_counted=int(counted),
                                 ks=[int(k) for k in ks]),
    )


def _check_pair(query_x: np.ndarray, gallery_x: np.ndarray, ks: Sequence[int]) -> None:
    check_features("query", query_x)
    check_features("gallery", gallery_x)
    check_same_dim(gallery_x, query_x)
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be 1 or more, received {tuple(ks)}")


def _check_lists(lists: dict[str, list[np.ndarray]], queries: int, rows: int) -> None:
    for name, given in lists.items():
        if len(given) != queries:
            raise ValueError(f"{name} must have one list for each of {queries} queries, received {len(given)}")
    for query, parts in enumerate(zip(*lists.values(), strict=True)):
        named = np.concatenate(parts)
        if len(named) and not 0 <= named.min() <= named.max() < rows:
            raise ValueError(f"lists must name rows in [0, {rows}), received {named.min()} to {named.max()} for query "
                             f"{query}")
        if len(np.unique(named)) < len(named):
            raise ValueError(f"lists must name a row once per query, received one twice for query {query}")
