"""Image retrieval: how well does a ranking by cosine similarity put the right images first?

Two protocols. `class_retrieval`: images of the query's class are right, all others wrong. `revisited_retrieval`:
Oxford and Paris as annotated anew by Radenovic et al. 2018 ("Revisiting Oxford and Paris: Large-Scale Image Retrieval
Benchmarking", https://arxiv.org/abs/1803.11285, sec. 3), where each query has lists of easy, hard and junk images;
DINO (https://arxiv.org/abs/2104.14294, sec. 4.2.1) reports its medium and hard settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvjax.evaluate._check import check_features, check_labels, check_same_dim
from cvjax.evaluate.knn import nearest_neighbours

# Which lists are to be found in each setting, and which are taken out of the ranking.
SETTINGS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
# Similarities that are sorted at a time. A ranking is of the whole gallery, so queries pass by in blocks.
RANKED_AT_ONCE = 2**24


@dataclass(frozen=True)
class RetrievalResult:
    """What a ranking reached.

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


def average_precision(ranks, count: int) -> float:
    """Mean, over the `count` right images, of the precision when each is found: `(i + 1) / (ranks[i] + 1)`.

    ranks: int `(R,)`, ascending positions from 0 of the right images found. One that is not among them adds 0.
    """
    ranks = np.asarray(ranks)
    return float(np.sum((np.arange(len(ranks)) + 1) / (ranks + 1)) / count)


def trapezoid_average_precision(ranks, count: int) -> float:
    """The area under precision over recall by trapezoids, as the Oxford, Holidays and revisited benchmarks have it.

    Each right image found is a step of 1 / count in recall, and counts with the mean of the precision before it,
    `i / ranks[i]` (1 at the very start), and with it, `(i + 1) / (ranks[i] + 1)`. Arguments: `average_precision`'s.
    """
    ranks = np.asarray(ranks)
    found = np.arange(len(ranks))
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    return float(np.sum(before + (found + 1) / (ranks + 1)) / (2 * count))


def class_retrieval(
    query_x, query_y, gallery_x=None, gallery_y=None, *, ks: Sequence[int] = (1, 5, 10),
) -> RetrievalResult:
    """Rank the gallery for each query; right are the images of the query's class.

    Args:
      query_x: float `(M, D)`, any scale.
      query_y: int `(M,)`, 0 or more.
      gallery_x, gallery_y: the same of the images that are ranked, `(N, D)` and `(N,)`. None: every query is
        compared with all other queries.
      ks: where to measure precision; positive. A k beyond the gallery counts the missing images as wrong.

    Returns:
      Average precision is the plain one (`average_precision`). Equal similarities stand in the gallery's order.

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
    check_labels("query labels", query_y, len(query_x), np.inf)
    check_labels("gallery labels", gallery_y, len(gallery_x), np.inf)

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
    query_x, database_x, easy: Sequence, hard: Sequence, junk: Sequence, *, ks: Sequence[int] = (1, 5, 10),
) -> dict[str, RetrievalResult]:
    """The three settings of Revisited Oxford and Paris: "easy", "medium" and "hard".

    Easy: the easy images are to be found, hard ones are ignored. Medium: both are to be found. Hard: the hard ones
    are, easy ones are ignored. Junk is always ignored: taken out of the ranking before anything is counted. A query
    with nothing to find in a setting is left out of its means.

    Args:
      query_x, database_x: float `(M, D)` and `(N, D)`, any scale.
      easy, hard, junk: one list per query of row numbers of `database_x`; no row stands twice for a query.
      ks: where to measure precision. As in the authors' code, a k beyond the last right image's position counts
        only up to that position, so that a query with fewer than k right images can reach 1.

    Returns:
      A result per setting, its average precision by trapezoids (`trapezoid_average_precision`).

    Raises:
      ValueError: features or lists are not as above, k is below 1, or no query has anything to find in a setting.
    """
    query_x, database_x = np.asarray(query_x), np.asarray(database_x)
    _check_pair(query_x, database_x, ks)
    lists = {name: [np.asarray(rows, np.int64) for rows in given]
             for name, given in dict(easy=easy, hard=hard, junk=junk).items()}
    _check_lists(lists, len(query_x), len(database_x))
    scores = {setting: [] for setting in SETTINGS}
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


def _rankings(query_x: np.ndarray, gallery_x: np.ndarray):
    """Each query's number and the whole gallery's rows, nearest first."""
    count = len(gallery_x)
    size = min(512, max(1, RANKED_AT_ONCE // count))
    for start in range(0, len(query_x), size):
        _, orders = nearest_neighbours(gallery_x, query_x[start : start + size], count, train_block=count)
        yield from enumerate(orders, start)


def _scores(rule, ranks: np.ndarray, count: int, ks, divisors) -> list[float]:
    """Average precision and the precision at each k of one query, NaN when there is nothing to find."""
    if not count:
        return [np.nan] * (1 + len(ks))
    return [rule(ranks, count), *(np.count_nonzero(ranks < k) / by for k, by in zip(ks, divisors, strict=True))]


def _result(scores: list[list[float]], ks, protocol: dict) -> RetrievalResult:
    table = np.array(scores)
    counted = np.count_nonzero(~np.isnan(table[:, 0]))
    if not counted:
        raise ValueError(f"no query has anything to find ({protocol['task']}): received {len(table)} without")
    mean = np.nanmean(table, axis=0)
    return RetrievalResult(
        mean_average_precision=float(mean[0]),
        precision_at={int(k): float(value) for k, value in zip(ks, mean[1:], strict=True)},
        average_precision=table[:, 0],
        protocol=protocol | dict(similarity="cosine", queries=len(table), queries_counted=int(counted),
                                 ks=[int(k) for k in ks]),
    )


def _check_pair(query_x, gallery_x, ks) -> None:
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
