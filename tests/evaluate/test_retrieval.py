import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cvjax.evaluate import class_retrieval, revisited_retrieval
from cvjax.evaluate.retrieval import average_precision, trapezoid_average_precision


def angles(*degrees):
    """Points on a circle: the nearer the angle, the larger the cosine."""
    return np.float32([(np.cos(a), np.sin(a)) for a in np.radians(degrees)])


def features(rows, seed, dim=5):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def cosine(query_x, gallery_x):
    query_x, gallery_x = (np.float64(x) / np.linalg.norm(np.float64(x), axis=1)[:, None] for x in (query_x, gallery_x))
    return query_x @ gallery_x.T


@pytest.mark.parametrize(
    "ranks, count, plain, trapezoids",
    [
        ([0, 1, 2], 3, 1, 1),
        ([0], 4, 1 / 4, 1 / 4),  # three are never found
        ([1], 1, 1 / 2, 1 / 4),  # precision 0 before, 1/2 after
        # Precision before 1, 1/2, 2/4; after 1, 2/3, 3/5.
        ([0, 2, 4], 3, (1 + 2 / 3 + 3 / 5) / 3, (1 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3),
        ([], 2, 0, 0),
    ],
)
def test_average_precision_by_hand(ranks, count, plain, trapezoids):
    assert average_precision(ranks, count) == pytest.approx(plain)
    assert trapezoid_average_precision(ranks, count) == pytest.approx(trapezoids)


def test_class_retrieval_by_hand():
    # Seen from 0 degrees the classes are 0 1 0 2: right at 0 and 2. From 100 degrees 2 0 1 0: class 1 at 2.
    gallery_x, gallery_y = angles(10, 20, 30, 95), [0, 1, 0, 2]
    result = class_retrieval(angles(0, 100, 50), [0, 1, 7], gallery_x, gallery_y, ks=(1, 2, 3, 8))
    np.testing.assert_allclose(result.average_precision, [(1 + 2 / 3) / 2, 1 / 3, np.nan])
    assert result.mean_average_precision == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert result.precision_at == pytest.approx({1: 1 / 2, 2: 1 / 4, 3: (2 / 3 + 1 / 3) / 2, 8: (2 / 8 + 1 / 8) / 2})
    assert result.protocol == json.loads(json.dumps(result.protocol))
    assert result.protocol["queries"] == 3 and result.protocol["queries_counted"] == 2


def test_class_retrieval_is_sklearns_average_precision():
    query_x, gallery_x = features(30, 0), features(600, 1)
    rng = np.random.default_rng(2)
    query_y, gallery_y = rng.integers(0, 4, 30), rng.integers(0, 4, 600)
    result = class_retrieval(query_x * 100, query_y, gallery_x, gallery_y)
    reference = [average_precision_score(gallery_y == y, row) for y, row in zip(query_y, cosine(query_x, gallery_x))]
    # Two neighbours 1e-7 apart may change places in float32: 1 of about 150 right ones, of a precision near 1/4.
    np.testing.assert_allclose(result.average_precision, reference, atol=1e-3)
    assert np.mean(np.abs(result.average_precision - reference) < 1e-12) > 0.8


def test_among_themselves_no_query_finds_itself(monkeypatch):
    x, y = features(40, 0), np.random.default_rng(1).integers(0, 3, 40)
    x[7] = x[3]  # a twin, that stands before or after itself
    result = class_retrieval(x, y)
    for row in range(40):
        others = np.arange(40) != row
        similarity = cosine(x[row : row + 1], x[others])[0]
        order = np.argsort(-similarity, kind="stable")
        right = (y[others] == y[row])[order]
        precision = [right[: i + 1].mean() for i in np.flatnonzero(right)]
        assert result.average_precision[row] == pytest.approx(np.mean(precision))
    monkeypatch.setattr("cvjax.evaluate.retrieval.RANKED_AT_ONCE", 40 * 16)  # 16 queries at a time
    np.testing.assert_array_equal(class_retrieval(x, y).average_precision, result.average_precision)


def test_equal_similarities_stand_in_the_gallerys_order():
    result = class_retrieval(angles(0), [1], angles(5, 5, 5, 90), [0, 1, 1, 1])
    assert result.average_precision == pytest.approx([(1 / 2 + 2 / 3 + 3 / 4) / 3])


def test_revisited_by_hand():
    # The ranking is 0 1 2 3 4 5. Easy 0 and 4, hard 2, junk 1.
    found = revisited_retrieval(angles(0), angles(1, 2, 3, 4, 5, 6), [[4, 0]], [[2]], [[1]], ks=(1, 5, 10))
    easy, medium, hard = found["easy"], found["medium"], found["hard"]
    # Easy: 0 3 4 5 are left, right at 0 and 2. Precision before the second 1/2, with it 2/3.
    assert easy.mean_average_precision == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert easy.precision_at == pytest.approx({1: 1, 5: 2 / 3, 10: 2 / 3})  # counted up to the last right image
    # Medium: 0 2 3 4 5 are left, right at 0, 1 and 3; before the third 2/3, with it 3/4.
    assert medium.mean_average_precision == pytest.approx((1 + 1 + (2 / 3 + 3 / 4) / 2) / 3)
    assert medium.precision_at == pytest.approx({1: 1, 5: 3 / 4, 10: 3 / 4})
    # Hard: 2 3 5 are left.
    assert hard.mean_average_precision == 1 and hard.precision_at == {1: 1, 5: 1, 10: 1}


def walk(order, right, ignored, ks):
    """The protocol as a walk down the ranking, one image at a time."""
    seen = found = 0
    area, hits = 0.0, []
    for image in order:
        if image in ignored:
            continue
        before = found / seen if seen else 1.0
        seen += 1
        if image in right:
            found += 1
            area += (before + found / seen) / 2 / len(right)
        hits.append(image in right)
    last = max(i for i, hit in enumerate(hits) if hit) + 1
    return [area, *(sum(hits[:k]) / min(k, last) for k in ks)]


def test_revisited_is_a_walk_down_the_ranking():
    rng = np.random.default_rng(0)
    query_x, database_x = features(12, 1), features(70, 2)
    lists = [np.split(rng.permutation(70)[: sum(sizes)], np.cumsum(sizes)[:-1])
             for sizes in zip(rng.integers(0, 4, 12), rng.integers(0, 30, 12), rng.integers(0, 30, 12))]
    easy, hard, junk = zip(*lists)
    assert any(len(rows) == 0 for rows in easy)
    results = revisited_retrieval(query_x, database_x, easy, hard, junk, ks=(1, 5, 10, 60))
    orders = np.argsort(-cosine(query_x, database_x), axis=1)
    for setting, right, ignored in (
        ("easy", easy, [[*j, *h] for j, h in zip(junk, hard)]),
        ("medium", [[*e, *h] for e, h in zip(easy, hard)], junk),
        ("hard", hard, [[*j, *e] for j, e in zip(junk, easy)]),
    ):
        expected = [walk(orders[i], set(right[i]), set(ignored[i]), (1, 5, 10, 60)) for i in range(12) if len(right[i])]
        result = results[setting]
        mean = np.mean(expected, axis=0)
        assert result.mean_average_precision == pytest.approx(mean[0])
        assert list(result.precision_at.values()) == pytest.approx(mean[1:])
        assert np.isnan(result.average_precision).tolist() == [not len(rows) for rows in right]
        assert result.protocol["queries_counted"] == len(expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(gallery_y=None), "both or not at all"),
        (dict(gallery_y=[0, 1]), r"gallery labels must be integers of shape \(3,\)"),
        (dict(query_y=[-1, 0]), r"query labels must lie in \[0, inf\), received -1"),
        (dict(query_y=[5, 6]), r"no query has anything to find \(class labels\), received 2 queries"),
        (dict(query_x=np.zeros((2, 3))), "share D"),
        (dict(query_x=np.full((2, 2), np.nan)), "query features must be finite"),
        (dict(ks=(1, 0)), r"ks must be 1 or more, received \(1, 0\)"),
    ],
)
def test_errors_of_class_retrieval(change, message):
    arguments = dict(query_x=angles(0, 1), query_y=[0, 1], gallery_x=angles(2, 3, 4), gallery_y=[0, 1, 2]) | change
    with pytest.raises(ValueError, match=message):
        class_retrieval(**arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(easy=[[0]]), "easy must have one list for each of 2 queries, received 1"),
        (dict(junk=[[3], []]), r"rows in \[0, 3\), received 0 to 3 for query 0"),
        (dict(hard=[[1], [-1]]), "received -1 to 1 for query 1"),
        (dict(junk=[[0], []]), "a row once per query, received one twice for query 0"),
        (dict(hard=[[], []]), r"anything to find \(revisited, hard\)"),
        (dict(ks=(0,)), "ks must be 1 or more"),
    ],
)
def test_errors_of_revisited_retrieval(change, message):
    arguments = dict(query_x=angles(0, 1), database_x=angles(2, 3, 4), easy=[[0], [1]], hard=[[1], [0]],
                     junk=[[], []]) | change
    with pytest.raises(ValueError, match=message):
        revisited_retrieval(**arguments)
