"""J and F against loops over pixels and numbers worked by hand; what is stated as the DAVIS toolkit's is its rule."""

import numpy as np
import pytest

from cvjax.evaluate.mask_scores import (
    Statistics,
    VideoScores,
    boundary_f,
    davis_summary,
    frame_statistics,
    jaccard,
    resize_nearest,
    video_scores,
)


def square(top: int, left: int, side: int, shape=(12, 16)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:top + side, left:left + side] = True
    return mask


def blobs(seed: int, shape=(20, 27)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two similar masks of coarse random pieces, and void pixels."""
    draw = np.random.default_rng(seed)
    mask = draw.random((5, 9)).repeat(4, axis=0).repeat(3, axis=1) < 0.4
    return mask, np.roll(mask, draw.integers(-2, 3), axis=1) ^ (draw.random(shape) < 0.02), draw.random(shape) < 0.1


def slow_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            neighbours = [(y + down, x + right) for down, right in ((0, 1), (1, 0), (1, 1))]
            inside = [mask[v, u] for v, u in neighbours if v < height and u < width]
            if any(mask[y, x] != value for value in inside):
                found.add((y, x))
    return found


def slow_f(mask: np.ndarray, truth: np.ndarray, void: np.ndarray, tolerance: float) -> float:
    found, wanted = slow_boundary(mask & ~void), slow_boundary(truth & ~void)
    radius = -(-tolerance * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2) // 1)

    def near(points: set, others: set) -> int:
        return sum(any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points)

    if not found or not wanted:
        return float(not found and not wanted)
    precision, recall = near(found, wanted) / len(found), near(wanted, found) / len(wanted)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance", [0.008, 0.06, 0.2])
def test_measures_equal_loops_over_pixels(seed: int, tolerance: float) -> None:
    mask, truth, void = blobs(seed)
    assert boundary_f(mask, truth, void, tolerance=tolerance) == pytest.approx(slow_f(mask, truth, void, tolerance))
    pixels = [(m, t) for m, t, v in zip(mask.ravel(), truth.ravel(), void.ravel()) if not v]
    both, either = sum(m and t for m, t in pixels), sum(m or t for m, t in pixels)
    assert jaccard(mask, truth, void) == pytest.approx(both / either)


def test_a_shifted_square_by_hand() -> None:
    """12x16 pixels have a diagonal of 20: 0.008 of it rounds up to 1 pixel, and a disk of that radius is a cross."""
    mask = square(3, 3, 4)
    assert slow_boundary(mask) == {(y, x) for y in range(2, 7) for x in range(2, 7) if y in (2, 6) or x in (2, 6)}
    beside, far = square(3, 4, 4), square(3, 6, 4)
    assert jaccard(mask, beside) == 12 / 20 and jaccard(mask, far) == 4 / 28
    assert boundary_f(mask, beside) == 1
    # The ring of `far` spans columns 5 to 9: of the 16 pixels, those in columns 4 to 6 of rows 2 and 6 are near it, and
    # the 3 others of column 6, beside its column 5. The same the other way round.
    assert boundary_f(mask, far) == 9 / 16


def test_empty_and_full_masks() -> None:
    none, full, one = square(0, 0, 0), ~square(0, 0, 0), square(3, 3, 4)
    assert jaccard(none, none) == boundary_f(none, none) == 1
    assert jaccard(none, one) == boundary_f(none, one) == boundary_f(one, none) == 0
    assert jaccard(full, none) == 0 and boundary_f(full, none) == 1  # the toolkit's: neither has a boundary
    assert jaccard(one, none, one) == boundary_f(one, none, one) == 1  # all that differs is void
    assert boundary_f(square(0, 0, 1), square(11, 15, 1)) == 0


def test_the_last_row_and_column_have_a_boundary_too() -> None:
    corner = square(11, 14, 2)  # one row and two columns of it are inside
    assert slow_boundary(corner) == {(10, 13), (10, 14), (10, 15), (11, 13)}
    assert boundary_f(corner, square(0, 14, 2)) == 0
    # The pixel in the corner alone lies on the boundary of what is above, beside and across: three pixels.
    assert boundary_f(square(11, 15, 1), square(11, 14, 2)) == pytest.approx(2 * 1 * 1 / 2)


def test_masks_of_many_frames_and_heads_are_judged_one_by_one() -> None:
    masks, truths, voids = (np.stack(arrays) for arrays in zip(*map(blobs, range(3))))
    for measure in (jaccard, boundary_f):
        values = measure(masks, truths, voids)
        assert values.shape == (3,) and values.dtype == np.float64
        np.testing.assert_array_equal(values, [measure(*trio) for trio in zip(masks, truths, voids)])
        assert measure(masks[:, None], truths[None]).shape == (3, 3)
        assert measure(masks[:, None], truths[None])[2, 1] == measure(masks[2], truths[1])


@pytest.mark.parametrize("values, expected", [
    ([0.75], (0.75, 1, 0)),
    ([0.5, 1.0], (0.75, 0.5, 0.5 - 1)),  # 0.5 is not above 0.5; edges at 0, 0, 1, 1, 1
    ([1.0, 0.5, 0.0], (0.5, 1 / 3, 0.75 - 0)),  # edges at 0, 1, 1, 2, 2: halves are rounded up
    ([1, 1, 1, 0.25, 0.25, 0.75, 0, 0], (0.53125, 0.5, 1 - 0.25))])  # edges at 0, 2, 4, 5, 7
def test_statistics_by_hand(values: list, expected: tuple) -> None:
    np.testing.assert_allclose(frame_statistics(values), expected)
    stacked = frame_statistics([values, np.zeros(len(values))])
    np.testing.assert_allclose(np.array(stacked)[:, 0], expected)
    np.testing.assert_array_equal(np.array(stacked)[:, 1], 0)


def test_long_videos_do_not_wrap() -> None:
    falling = np.linspace(1, 0, 401)  # edges at 0, 100, 200, 300, 400
    assert frame_statistics(falling).decay == pytest.approx(0.75)


def test_a_video_is_judged_without_its_first_and_last_frame() -> None:
    truth = np.zeros((4, 12, 16), np.uint8)
    truth[:, 2:6, 2:6], truth[:, 8:10, 8:12] = 1, 2
    predicted = truth.copy()
    predicted[0], predicted[3] = 0, 2
    predicted[2, 8:10, 8:12] = 0  # object 2 is lost in one of the two frames that count
    truth[1, 0, 0] = 3  # appears later: not an object of this video
    scores = video_scores(predicted, truth)
    for measure in scores:
        np.testing.assert_array_equal(measure.mean, [1, 0.5])
        np.testing.assert_array_equal(measure.recall, [1, 0.5])
        np.testing.assert_array_equal(measure.decay, [0, 1])
    predicted[1, 2:6, 2:6] = 0
    truth[1, 2:6, 2:6] = 255
    predicted[1, 2:4, 2:6] = 1  # on void pixels
    assert video_scores(predicted, truth).j.mean[0] == 1 == video_scores(predicted, truth).f.mean[0]


def test_the_summary_counts_each_object_once() -> None:
    def video(*j: float) -> VideoScores:
        j = np.array(j)
        return VideoScores(Statistics(j, j / 2, -j), Statistics(j + 0.25, j / 4, j * 0))

    table = davis_summary([video(0.5, 0.5, 0.5), video(0.0)])
    assert table == dict(jf_mean=0.5, j_mean=0.375, j_recall=0.1875, j_decay=-0.375, f_mean=0.625, f_recall=0.09375,
                         f_decay=0)
    with pytest.raises(ValueError, match="received none"):
        davis_summary([])


@pytest.mark.parametrize("height, width", [(6, 9), (5, 7), (2, 2), (1, 1)])
def test_each_pixel_takes_the_entry_at_its_centre(height: int, width: int) -> None:
    maps = np.arange(12).reshape(2, 2, 3)
    resized = resize_nearest(maps, height, width)
    assert resized.shape == (2, height, width) and resized.dtype == maps.dtype
    for y in range(height):
        for x in range(width):
            row, column = int((y + 0.5) * 2 / height), int((x + 0.5) * 3 / width)
            assert (resized[:, y, x] == maps[:, row, column]).all()


VIDEO = np.ones((4, 2, 2), int)


@pytest.mark.parametrize("call, message", [
    (lambda: jaccard(square(0, 0, 1), np.ones((12, 16))), r"truth must be bool \(..., H, W\), received float64"),
    (lambda: boundary_f(np.ones(3, bool), square(0, 0, 1)), r"mask must be bool .* shape \(3,\)"),
    (lambda: jaccard(square(0, 0, 1), square(0, 0, 1), np.ones((12, 16))), "void must be bool"),
    (lambda: jaccard(square(0, 0, 1), square(0, 0, 1, (1, 16))), r"share H and W, received mask \(12, 16\), truth \(1"),
    (lambda: boundary_f(square(0, 0, 1), square(0, 0, 1), tolerance=1), "diagonal in .0, 1., received 1"),
    (lambda: frame_statistics([]), r"T > 0, received shape \(0,\)"),
    (lambda: frame_statistics([0.5, np.nan]), "must be finite"),
    (lambda: video_scores(VIDEO[:2], VIDEO), r"predicted must be integers .* T > 2, received int64 of shape \(2"),
    (lambda: video_scores(VIDEO, VIDEO * 1.0), "truth must be integers .* received float64"),
    (lambda: video_scores(VIDEO[:3], VIDEO), r"share a shape, received \(3, 2, 2\) and \(4, 2, 2\)"),
    (lambda: video_scores(VIDEO, VIDEO * 0), "first frame's truth must have an object"),
    (lambda: video_scores(VIDEO, VIDEO * 255), "first frame's truth must have an object"),
    (lambda: video_scores(VIDEO + 1, VIDEO), r"must lie in \[0, 1\], the objects of the first frame, received 2 to 2"),
])
def test_errors_say_what_came(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
