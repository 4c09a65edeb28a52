"""Equation 3 by hand and by a slow loop; which box is responsible; gradients where square roots could have none."""

from functools import partial

import jax
import numpy as np
import pytest

from cvjax.losses.yolo import Cells, decoded_boxes, encoded_boxes, yolo_loss

# Compiled for a call or two: optimising would take longer than it saves.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
loss = once(yolo_loss, static_argnums=2)


@partial(once, static_argnums=(2, 3))
def gradient_of(predictions, cells, num_boxes, term=None):
    """By the predictions, of one term or of all."""
    def value(predictions):
        terms = yolo_loss(predictions, cells, num_boxes)
        return (sum(terms.values()) if term is None else terms[term]).sum()

    return jax.grad(value)(predictions)


TERMS = ("centre", "size", "confidence", "no_object", "classes")


def overlap(a, b):
    """IoU of two corner boxes, in plain numbers."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def slow_loss(predictions, present, boxes, labels, num_boxes, coordinate_weight=5.0, no_object_weight=0.5):
    """One example, cell by cell and box by box, as the paper reads; predictions `(R, C, 5 N + K)`."""
    rows, columns, outputs = predictions.shape
    terms = dict.fromkeys(TERMS, 0.0)
    for row in range(rows):
        for column in range(columns):
            cell = predictions[row, column].astype(np.float64)
            found = [cell[5 * j:5 * j + 5] for j in range(num_boxes)]
            responsible, best = None, 0.0
            if present[row, column]:
                x1, y1, x2, y2 = boxes[row, column].astype(np.float64)
                ious, distances = [], []
                for x, y, w, h, _ in found:
                    cx, cy, w, h = (column + x) / columns, (row + y) / rows, w * w, h * h
                    ious.append(overlap((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (x1, y1, x2, y2)))
                    distances.append((cx - (x1 + x2) / 2) ** 2 + (cy - (y1 + y2) / 2) ** 2
                                     + (w - x2 + x1) ** 2 + (h - y2 + y1) ** 2)
                responsible = int(np.argmax(ious)) if max(ious) > 0 else int(np.argmin(distances))
                best = ious[responsible]
                x, y, w, h, confidence = found[responsible]
                terms["centre"] += coordinate_weight * ((x - ((x1 + x2) / 2 * columns - column)) ** 2
                                                        + (y - ((y1 + y2) / 2 * rows - row)) ** 2)
                terms["size"] += coordinate_weight * ((w - np.sqrt(x2 - x1)) ** 2 + (h - np.sqrt(y2 - y1)) ** 2)
                terms["confidence"] += (confidence - best) ** 2
                for k, value in enumerate(cell[5 * num_boxes:]):
                    terms["classes"] += (value - (k == labels[row, column])) ** 2
            for j in range(num_boxes):
                if j != responsible:
                    terms["no_object"] += no_object_weight * found[j][4] ** 2
    return terms


def test_a_grid_of_two_by_two_by_hand():
    """One object from (0.5, 0) to (0.75, 0.5): its centre (0.625, 0.25) is in the upper right cell, a quarter from its
    left side and in the middle of its height; roots of its sides 0.5 and sqrt(0.5)."""
    predictions = np.zeros((1, 2, 2, 12), np.float32)  # two boxes, two classes
    # First box: centre (0.75, 0.25), sides 0.25 and 0.25, from (0.625, 0.125) to (0.875, 0.375). Intersection 1/8 * 1/4
    # = 1/32; union 1/8 + 1/16 - 1/32 = 5/32; IoU 1/5. Second box: the object at twice the width, IoU 1/2.
    predictions[0, 0, 1, :5] = 0.5, 0.5, 0.5, 0.5, 0.9
    predictions[0, 0, 1, 5:10] = 0.25, 0.5, np.sqrt(0.5), np.sqrt(0.5), 0.8
    predictions[0, 0, 1, 10:] = 0.3, 0.6
    predictions[0, 1, 0, [4, 9]] = 0.2, -0.4
    predictions[0, 1, 0, 10:] = 7, 7  # no object: classes do not matter there
    cells = Cells(np.array([[[False, True], [False, False]]]),
                  np.broadcast_to(np.float32([0.5, 0, 0.75, 0.5]), (1, 2, 2, 4)), np.ones((1, 2, 2), np.int32))
    found = loss(predictions, cells, 2)
    expected = {"centre": 0.0, "size": 5 * (np.sqrt(0.5) - 0.5) ** 2, "confidence": (0.8 - 0.5) ** 2,
                "no_object": 0.5 * (0.9**2 + 0.2**2 + 0.4**2), "classes": 0.3**2 + 0.4**2}
    # float32: sums of a few numbers below 1
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(expected, abs=1e-6)
    slow = slow_loss(predictions[0], *(np.asarray(field)[0] for field in cells), 2)
    assert slow == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rows, columns, num_boxes, classes, count", [(2, 2, 2, 3, 1500), (3, 4, 3, 2, 300),
                                                                      (1, 1, 1, 1, 300)])
def test_the_loop_agrees(rows, columns, num_boxes, classes, count):
    """Predictions of every kind: negative, zero and large ones, boxes that overlap the object and boxes that do not."""
    rng = np.random.default_rng(rows)
    shape = (count, rows, columns)
    predictions = rng.normal(0.3, 0.6, (*shape, 5 * num_boxes + classes)).astype(np.float32)
    predictions[rng.random(predictions.shape) < 0.1] = 0
    present = rng.random(shape) < rng.random((count, 1, 1))
    corners = np.sort(rng.random((*shape, 2, 2)), axis=-2).astype(np.float32)
    corners[rng.random(shape) < 0.05] = 0.5  # without an area
    boxes, labels = corners.reshape(*shape, 4), rng.integers(0, classes, shape).astype(np.int32)
    found = loss(predictions, Cells(present, boxes, labels), num_boxes)
    slow = [slow_loss(p, *rest, num_boxes) for p, *rest in zip(predictions, present, boxes, labels)]
    for name in TERMS:
        # Up to 36 squares of up to about 30, each rounded to 6e-8 of itself.
        np.testing.assert_allclose(found[name], [each[name] for each in slow], rtol=2e-5, atol=2e-5, err_msg=name)


def cells_of(box, label=0):
    return Cells(np.ones((1, 1, 1), bool), np.float32(box).reshape(1, 1, 1, 4), np.full((1, 1, 1), label))


def test_the_best_overlap_is_responsible_and_the_first_of_equal_ones():
    far, near = [0.5, 0.5, 1.0, 1.0, 0.0], [0.5, 0.5, 0.7, 0.7, 0.0]
    cells = cells_of([0.25, 0.25, 0.75, 0.75])  # sides 0.5: roots 0.707

    def gradient(*boxes):
        return np.asarray(gradient_of(np.float32([*boxes[0], *boxes[1], 0]).reshape(1, 1, 1, 11), cells, 2)).reshape(
            11)[[2, 7]]

    first, second = gradient(far, near)
    assert first == 0 and second != 0
    first, second = gradient(near, far)
    assert first != 0 and second == 0
    first, second = gradient(near, near)
    assert first != 0 and second == 0


def test_where_none_overlaps_the_nearest_is_responsible():
    """Both boxes are points; the second lies nearer."""
    predictions = np.float32([0.0, 0.0, 0, 0, 0.5, 0.4, 0.4, 0, 0, 0.5, 1.0]).reshape(1, 1, 1, 11)
    found = loss(predictions, cells_of([0.45, 0.45, 0.55, 0.55]), 2)
    assert float(found["centre"][0]) == pytest.approx(5 * 2 * 0.1**2, rel=1e-5)
    assert float(found["confidence"][0]) == pytest.approx(0.25)


@pytest.mark.parametrize("root", [0.0, -0.5, 1e-20, -1e-20, 1e3])
@pytest.mark.parametrize("box", [[0.2, 0.2, 0.2, 0.2], [0, 0, 1, 1], [0.3, 0.3, 0.3, 0.9]])
def test_gradients_are_finite_at_degenerate_boxes(root, box):
    predictions = np.float32([0.5, 0.5, root, root, 0.3, 0.2]).reshape(1, 1, 1, 6)
    value, gradient = loss(predictions, cells_of(box), 1), np.asarray(gradient_of(predictions, cells_of(box), 1))
    assert np.isfinite([*value.values()]).all() and np.isfinite(gradient).all()
    if root <= 0 and box[2] > box[0]:
        assert gradient[0, 0, 0, 2] < 0, "a root is drawn towards the positive one"


def test_the_confidence_is_to_be_the_overlap_and_the_overlap_is_no_way_to_be_right():
    """Of the confidence's term only the confidence has a gradient."""
    predictions = np.float32([0.5, 0.5, 0.9, 0.6, 0.1, 0.0]).reshape(1, 1, 1, 6)
    gradient = gradient_of(predictions, cells_of([0.2, 0.2, 0.8, 0.8]), 1, "confidence")
    assert np.flatnonzero(gradient).tolist() == [4]


def test_a_picture_without_objects_has_the_term_of_confidences_alone():
    predictions = np.random.default_rng(0).normal(size=(2, 3, 3, 13)).astype(np.float32)
    nothing = Cells(np.zeros((2, 3, 3), bool), np.full((2, 3, 3, 4), np.nan, np.float32), np.full((2, 3, 3), -1))
    found = loss(predictions, nothing, 2)
    assert all((value == 0).all() for name, value in found.items() if name != "no_object")
    np.testing.assert_allclose(found["no_object"], 0.5 * (predictions[..., [4, 9]] ** 2).sum((1, 2, 3)), rtol=1e-5)
    gradient = np.asarray(gradient_of(predictions, nothing, 2))
    assert np.isfinite(gradient).all() and not gradient[..., :4].any() and not gradient[..., 10:].any()


def test_weights_are_those_asked_for():
    predictions = np.random.default_rng(0).normal(size=(1, 2, 2, 7)).astype(np.float32)
    cells = Cells(np.ones((1, 2, 2), bool), np.broadcast_to(np.float32([0.1, 0.2, 0.5, 0.9]), (1, 2, 2, 4)),
                  np.zeros((1, 2, 2), np.int32))
    plain = yolo_loss(predictions, cells, 1, coordinate_weight=1, no_object_weight=1)
    paper = loss(predictions, cells, 1)
    for name, weight in zip(TERMS, (5, 5, 1, 0.5, 1)):
        np.testing.assert_allclose(paper[name], weight * plain[name], rtol=1e-6)


def test_boxes_come_back_from_their_coding():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((5, 3, 4, 2, 2, 2)), axis=-2).reshape(5, 3, 4, 2, 4).astype(np.float32)
    # Coordinates below 1 through a product with 4 and a difference: 1e-6.
    np.testing.assert_allclose(decoded_boxes(encoded_boxes(corners)), corners, atol=1e-6)
