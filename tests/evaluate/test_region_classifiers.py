"""SVMs and regressions of regions, on features that tell what they are to find."""

import jax
import numpy as np
import pytest

from cvjax.evaluate.mean_ap import Truth, voc_ap
from cvjax.evaluate.region_classifiers import NORM, Regions, fit_region_classifiers
from cvjax.evaluate.region_features import RegionFeatures
from cvjax.ops.boxes import encode_boxes, pairwise_iou

EXTENT = (60.0, 80.0)


def toy_images(count, seed, classes=3):
    """Regions about objects and elsewhere. Features: which class a region overlaps by a half or more, where its object
    is as the region sees it, and noise."""
    rng = np.random.default_rng(seed)
    images, truths = [], []
    for number in range(count):
        objects = np.float32([[5, 5, 25, 30], [40, 20, 70, 50]]) + rng.uniform(-4, 4, (2, 4)).astype(np.float32)
        labels = np.array([number % classes, (number + 1) % classes])
        near = np.concatenate([objects + rng.normal(0, 2, (2, 4)).astype(np.float32) for _ in range(20)])
        corner = rng.uniform(0, 50, (60, 2))
        elsewhere = np.concatenate([corner, corner + rng.uniform(4, 12, (60, 2))], 1)
        boxes = np.concatenate([objects, near, elsewhere]).astype(np.float32)
        overlap = np.asarray(pairwise_iou(boxes, objects))
        best = overlap.argmax(1)
        shown = np.eye(classes)[labels[best]] * (overlap.max(1) > 0.5)[:, None]
        codes = np.asarray(encode_boxes(objects[best], boxes)) * (overlap.max(1) > 0.5)[:, None]
        features = np.concatenate([shown, codes, rng.normal(0, 0.02, (len(boxes), 4))], 1).astype(np.float32)
        images.append(Regions(boxes, features, EXTENT))
        truths.append(Truth(objects, labels, np.zeros(2, bool)))
    return images, truths


def test_separable_features_find_every_object_and_its_box():
    images, truths = toy_images(9, 0)
    fitted = fit_region_classifiers(images, truths, 3, c=0.1, ridge=1e-3)
    others, wanted = toy_images(4, 1)
    # The objects' own regions are left out: boxes must be moved there.
    found = [fitted.detect(Regions(image.boxes[2:], image.features[2:], EXTENT)) for image in others]
    names = ("a", "b", "c")
    assert voc_ap(wanted, found, names).mean == 1 and voc_ap(wanted, found, names, iou_threshold=0.9).mean == 1
    norms = np.concatenate([np.linalg.norm(image.features, axis=1) for image in images])
    assert fitted.scale == pytest.approx(NORM / norms.mean(), rel=1e-5)


def test_a_strong_ridge_moves_every_region_by_the_mean():
    images, truths = toy_images(4, 2, classes=1)
    fitted = fit_region_classifiers(images, truths, 1, ridge=1e12)
    near = [np.asarray(pairwise_iou(image.boxes, truth.boxes)) for image, truth in zip(images, truths)]
    codes = np.concatenate([np.asarray(encode_boxes(truth.boxes[overlap.argmax(1)], image.boxes))[overlap.max(1) > 0.6]
                            for image, truth, overlap in zip(images, truths, near)])
    np.testing.assert_allclose(fitted.box_bias[0], codes.mean(0), atol=1e-6)
    assert np.abs(fitted.box_weights).max() < 1e-6


def test_ridge_is_least_squares_by_normal_equations():
    images, truths = toy_images(3, 3, classes=1)
    fitted = fit_region_classifiers(images, truths, 1, ridge=7.0)
    rows, codes = [], []
    for image, truth in zip(images, truths):
        overlap = np.asarray(pairwise_iou(image.boxes, truth.boxes))
        near = overlap.max(1) > 0.6
        rows.append(image.features[near] * fitted.scale)
        codes.append(np.asarray(encode_boxes(truth.boxes[overlap.argmax(1)], image.boxes))[near])
    x = np.concatenate([np.concatenate(rows), np.ones((sum(map(len, rows)), 1))], 1).astype(np.float64)
    penalty = np.diag([7.0] * (x.shape[1] - 1) + [0.0])
    wanted = np.linalg.solve(x.T @ x + penalty, x.T @ np.concatenate(codes))
    # Float32 features of norm 20, so sums of squares of 1e5, are exact to 1e-7 of it.
    np.testing.assert_allclose(fitted.box_weights[:, 0], wanted[:-1], atol=2e-4)
    np.testing.assert_allclose(fitted.box_bias[0], wanted[-1], atol=2e-4)


def test_hard_negatives_beyond_the_first_ones_are_learnt(monkeypatch):
    """A kind of negative so rare that the first machine sees none of it, and that looks like an object."""
    monkeypatch.setattr("cvjax.evaluate.region_classifiers._START", 20)
    rng = np.random.default_rng(0)
    plain = np.tile(np.float32([[40, 40, 50, 50]]), (400, 1)) + np.arange(400)[:, None] % 7
    boxes = np.concatenate([np.float32([[0, 0, 10, 10]]), plain, np.float32([[60, 0, 70, 10]])])
    features = np.concatenate([[[4, 0]], np.tile([[0.0, 0]], (400, 1)), [[4, 1.0]]]) + rng.normal(0, 0.01, (402, 2))
    image = Regions(boxes, features.astype(np.float32), EXTENT)
    fitted = fit_region_classifiers([image], [Truth(boxes[:1], np.zeros(1, int), np.zeros(1, bool))], 1, c=10.0)
    scores = features * fitted.scale @ fitted.weights[:, 0] + fitted.bias[0]
    assert scores[0] > 0 > scores[-1]


def test_a_class_without_objects_and_an_image_without_regions_find_nothing():
    images, truths = toy_images(4, 4, classes=2)
    fitted = fit_region_classifiers(images, truths, 3)
    assert np.isneginf(fitted.bias[2]) and set(fitted.detect(images[0], least_score=-100).labels) <= {0, 1}
    empty = fitted.detect(Regions(np.zeros((0, 4)), np.zeros((0, images[0].features.shape[1])), EXTENT))
    assert len(empty.boxes) == len(empty.scores) == 0


def test_difficult_objects_are_neither_learnt_nor_negatives():
    images, truths = toy_images(6, 5, classes=1)
    without = [Truth(t.boxes[:1], t.labels[:1], t.difficult[:1]) for t in truths]
    hard = [Truth(t.boxes, t.labels, np.array([False, True])) for t in truths]
    half = [Regions(*(x[np.asarray(pairwise_iou(i.boxes, t.boxes[1:])).max(1) < 0.3] for x in i[:2]), EXTENT)
            for i, t in zip(images, truths)]
    # Features are scaled by the mean norm of what is there, which differs.
    fitted, wanted = (fit_region_classifiers(i, t, 1, c=1.0, ridge=1e-6) for i, t in ((images, hard), (half, without)))
    scores = [i.features * f.scale @ f.weights + f.bias for f, i in ((fitted, half[0]), (wanted, half[0]))]
    assert (np.sign(scores[0]) == np.sign(scores[1])).all()
    assert (images[0].features[1] * fitted.scale @ fitted.weights + fitted.bias) > 0  # looks like the others


@pytest.mark.parametrize("change, message", [
    (lambda i, t: (i, t[:1]), "images and truths must have one entry for each"),
    (lambda i, t: ([Regions(i[0].boxes[1:], i[0].features[1:], EXTENT)], t[:1]), "is not among the regions"),
])
def test_what_does_not_fit_is_told(change, message):
    images, truths = toy_images(2, 6)
    with pytest.raises(ValueError, match=message):
        fit_region_classifiers(*change(images, truths), 3)


@pytest.mark.parametrize("chunk, calls", [(None, [64]), (4, [4, 4]), (16, [16])])
def test_features_come_in_chunks_that_are_filled_up(chunk, calls):
    seen = []

    def describe(variables, image, boxes, extent):
        jax.debug.callback(lambda shape: seen.append(int(shape)), boxes.shape[1], ordered=True)
        return variables * (boxes + image.mean() + extent.sum())

    boxes = np.arange(28, dtype=np.float32).reshape(7, 4)
    extract = RegionFeatures(describe, np.float32(2), chunk)
    features = extract(np.full((5, 6, 3), 3, np.float32), boxes, (5, 6))
    np.testing.assert_array_equal(features, 2 * (boxes + 14))
    assert seen == calls
    with pytest.raises(ValueError, match="chunk must be at least 1, received 0"):
        RegionFeatures(describe, None, 0)
