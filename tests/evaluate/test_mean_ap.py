"""Average precision by hand, against a plain twin on random images, and VOC's against COCO's."""

import numpy as np
import pytest

from cvjax.evaluate.mean_ap import Detections, Truth, coco_ap, voc_ap

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]
FAR = [50, 50, 60, 60]


def truth(*boxes: list, labels: list | None = None, difficult: list | None = None) -> Truth:
    count = len(boxes)
    return Truth(np.array(boxes, float).reshape(-1, 4), np.array(labels or [0] * count, int),
                 np.array(difficult or [False] * count, bool))


def found(*scored: tuple, labels: list | None = None) -> Detections:
    return Detections(np.array([box for box, _ in scored], float).reshape(-1, 4),
                      np.array([score for _, score in scored], float), np.array(labels or [0] * len(scored), int))


def test_the_curve_by_hand() -> None:
    """Right, wrong, right, again the first: precisions 1, 1/2, 2/3, 1/2 at recalls 1/3, 1/3, 2/3, 2/3 of three.

    Area: 1/3 at 1 and 1/3 at 2/3, together 5/9. Eleven points: 0 to 0.3 have 1, 0.4 to 0.6 have 2/3, the rest 0.
    """
    truths = [truth(A, B), truth(C)]
    detections = [found((A, 0.9), (FAR, 0.8), (B, 0.7), (A, 0.6)), found()]
    assert voc_ap(truths, detections, ["x"]).mean == pytest.approx(5 / 9)
    assert voc_ap(truths, detections, ["x"], eleven_points=True).mean == pytest.approx((4 + 3 * 2 / 3) / 11)
    # Of 101 points 0 to 33 have 1 and 34 to 66 have 2/3.
    assert coco_ap(truths, detections, ["x"]).ap50 == pytest.approx((34 + 33 * 2 / 3) / 101)


def test_perfect_and_empty() -> None:
    truths = [truth(A, B, labels=[0, 2]), truth()]
    both = [found((A, 0.5), (B, 0.1), labels=[0, 2]), found()]
    for ap, coco in ((voc_ap(truths, both, "abc"), coco_ap(truths, both, "abc")),):
        assert ap.mean == pytest.approx(1) and ap.without_truth == ("b",)
        np.testing.assert_array_equal(ap.per_class, [1, np.nan, 1])
        assert coco[:4] == pytest.approx((1, 1, 1, 1)) and np.isnan(coco.ap_medium) and coco.without_truth == ("b",)
        np.testing.assert_allclose(coco.per_class, [1, np.nan, 1])
    none = [found(), found()]
    assert voc_ap(truths, none, "abc").mean == 0 and coco_ap(truths, none, "abc").ap == 0
    nowhere = [truth(), truth()]
    assert np.isnan(voc_ap(nowhere, both, "abc").mean) and np.isnan(coco_ap(nowhere, both, "abc").ap)
    assert coco_ap(nowhere, both, "abc").without_truth == tuple("abc")


def test_difficult_objects_are_out_of_account() -> None:
    """Difficult objects found twice are no mistake, and missed ones no miss. A class of only these has no precision."""
    truths = [truth(A, B, C, labels=[0, 0, 1], difficult=[True, False, True])]
    detections = [found((A, 0.9), (A, 0.8), (B, 0.7))]
    for ap in (voc_ap(truths, detections, "ab"), coco_ap(truths, detections, "ab")):
        np.testing.assert_allclose(ap.per_class[0], 1)
        assert np.isnan(ap.per_class[1]) and ap.without_truth == ("b",)


def test_the_devkit_calls_a_second_look_at_an_object_wrong_where_coco_gives_it_the_next() -> None:
    near = [2, 0, 12, 10]  # IoU 2/3 with A
    truths = [truth(A, near)]
    detections = [found((A, 0.9), ([0.5, 0, 10.5, 10], 0.8))]  # overlaps A most, and both by more than a half
    assert voc_ap(truths, detections, ["x"]).mean == pytest.approx(0.5)
    assert coco_ap(truths, detections, ["x"]).ap50 == pytest.approx(1)


def test_the_threshold_belongs_to_the_right_and_equal_scores_go_by_place() -> None:
    half = [0, 0, 10, 5]
    assert voc_ap([truth(A)], [found((half, 1.0))], ["x"]).mean == 1
    assert voc_ap([truth(A)], [found((half, 1.0))], ["x"], iou_threshold=0.51).mean == 0
    assert voc_ap([truth(A)], [found((FAR, 0.5), (A, 0.5))], ["x"]).mean == 0.5
    assert voc_ap([truth(A)], [found((A, 0.5), (FAR, 0.5))], ["x"]).mean == 1
    inclusive = voc_ap([truth([0, 0, 2, 2])], [found(([1, 0, 3, 2], 1.0))], ["x"], iou_threshold=0.4)
    assert inclusive.mean == 0  # 2 of 6 pixels; with the devkit's + 1 on continuous corners it would be 6 of 12


def test_sizes() -> None:
    small, medium, large = [0, 0, 31, 31], [0, 50, 50, 100], [200, 0, 300, 100]
    coco = coco_ap([truth(small, medium, large)], [found((small, 0.9), (large, 0.8))], ["x"])
    assert (coco.ap_small, coco.ap_medium, coco.ap_large) == pytest.approx((1, 0, 1))


def test_the_annotated_area_says_how_large_an_object_is() -> None:
    """A 40 x 40 box whose outline covers 900 pixels is small (up to 32 ** 2); one without an area goes by its box."""
    thin, whole = [0, 0, 40, 40], [100, 0, 140, 40]
    truths = [truth(thin, whole)._replace(areas=np.array([900.0, np.nan]))]
    coco = coco_ap(truths, [found((thin, 0.9))], ["x"])
    assert (coco.ap_small, coco.ap_medium) == pytest.approx((1, 0)) and np.isnan(coco.ap_large)
    by_boxes = coco_ap([truth(thin, whole)], [found((thin, 0.9))], ["x"])
    assert np.isnan(by_boxes.ap_small) and by_boxes.ap_medium == pytest.approx(51 / 101)  # found: half of the objects


def scene(rng: np.random.Generator, alone: bool = False) -> tuple[list[Truth], list[Detections]]:
    """Three images of three classes; detections are objects moved a little, or anything. alone: at most one object of
    a class in an image, none difficult."""
    truths, detections = [], []
    for _ in range(3):
        count = rng.integers(0, 4 if alone else 7)
        low = rng.integers(0, 20, (count, 2))
        boxes = np.concatenate([low, low + rng.integers(0 if not alone else 2, 12, (count, 2))], axis=1).astype(float)
        labels = rng.permutation(3)[:count] if alone else rng.integers(0, 3, count)
        truths.append(Truth(boxes, labels, (rng.random(count) < 0.2) & (not alone)))
        from_truth = rng.integers(0, max(count, 1), rng.integers(0, 9) if count else 0)
        moved = boxes[from_truth] + rng.integers(-2, 3, (len(from_truth), 4))
        detections.append(Detections(moved, rng.integers(0, 5, len(moved)) / 4, rng.permutation(labels[from_truth])
                                     if rng.random() < 0.3 else labels[from_truth]))
    return truths, detections


def slow_voc(truths: list[Truth], detections: list[Detections], label: int, eleven_points: bool) -> float:
    """Straight from the definition; the best precision from a recall on is looked up, not accumulated."""
    rows = [(-d.scores[i], image, i) for image, d in enumerate(detections) for i in range(len(d.scores))
            if d.labels[i] == label]
    total = sum(int(k == label and not hard) for t in truths for k, hard in zip(t.labels, t.difficult))
    if not total:
        return np.nan
    used, points, right, wrong = set(), [], 0, 0
    for _, image, i in sorted(rows):
        x = detections[image].boxes[i]
        best, which = -1.0, None
        for j, (y, k) in enumerate(zip(truths[image].boxes, truths[image].labels)):
            if k != label:
                continue
            w, h = (max(min(x[a + 2], y[a + 2]) - max(x[a], y[a]), 0) for a in (0, 1))
            sizes = [max(z[2] - z[0], 0) * max(z[3] - z[1], 0) for z in (x, y)]
            overlap = w * h / (sum(sizes) - w * h) if sum(sizes) > 0 else 0
            if overlap > best:
                best, which = overlap, j
        if best >= 0.5:
            if truths[image].difficult[which]:
                continue
            right, wrong = (right, wrong + 1) if (image, which) in used else (right + 1, wrong)
            used.add((image, which))
        else:
            wrong += 1
        points.append((right, right / (right + wrong)))

    def from_recall(numerator: int, denominator: int) -> float:
        return max((p for r, p in points if r * denominator >= numerator * total), default=0.0)

    if eleven_points:
        return sum(from_recall(i, 10) for i in range(11)) / 11
    return sum(from_recall(i, total) for i in range(1, total + 1)) / total


@pytest.mark.parametrize("eleven_points", [False, True])
def test_random_images(eleven_points: bool) -> None:
    rng = np.random.default_rng(0)
    absent = 0
    for _ in range(400):
        truths, detections = scene(rng)
        ap = voc_ap(truths, detections, "abc", eleven_points=eleven_points)
        slow = np.array([slow_voc(truths, detections, label, eleven_points) for label in range(3)])
        np.testing.assert_allclose(ap.per_class, slow, atol=1e-12)
        absent += len(ap.without_truth)
        assert ap.without_truth == tuple(name for name, x in zip("abc", slow) if np.isnan(x))
        np.testing.assert_allclose(ap.mean, np.nan if np.isnan(slow).all() else np.nanmean(slow), atol=1e-12)
    assert absent > 20


def test_vocs_area_and_coco_at_a_half_differ_by_one_of_101_points() -> None:
    rng = np.random.default_rng(1)
    differences = []
    for _ in range(60):
        truths, detections = scene(rng, alone=True)
        voc, coco = voc_ap(truths, detections, "abc"), coco_ap(truths, detections, "abc")
        assert voc.without_truth == coco.without_truth
        differences.append(abs(voc.mean - coco.ap50))
    assert 0 < np.nanmax(differences) <= 1 / 101 + 1e-9


def test_nothing_is_printed_and_arrays_of_jax_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    import jax.numpy as jnp

    truths, detections = [truth(A)], [found((A, 0.5))]
    detections = [Detections(*map(jnp.asarray, detections[0]))]
    assert coco_ap(truths, detections, ["x"]).ap == pytest.approx(voc_ap(truths, detections, ["x"]).mean) == 1
    assert capsys.readouterr() == ("", "")


def test_what_they_do_not_take() -> None:
    with pytest.raises(ValueError, match="one for each image and classes at least one, received 1, 0 and 1"):
        voc_ap([truth(A)], [], ["x"])
    with pytest.raises(ValueError, match=r"detections of image 0 must be boxes \(N, 4\) and columns \(N,\), received"):
        voc_ap([truth(A)], [found((A, 1.0), labels=[0, 0])], ["x"])
    with pytest.raises(ValueError, match="detections of image 0 must be finite"):
        coco_ap([truth(A)], [found((A, np.nan))], ["x"])
    with pytest.raises(ValueError, match=r"labels in truths of image 0 must be integers in \[0, 1\), received int64"):
        coco_ap([truth(A, labels=[1])], [found()], ["x"])
    with pytest.raises(ValueError, match=r"iou_threshold must lie in \(0, 1\], received 0"):
        voc_ap([truth(A)], [found()], ["x"], iou_threshold=0)
