"""RoI pooling, RoI align and spatial pyramids against loops over pixels."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops import roi
from cvjax.ops.pyramid import pyramid_pool, region_pyramid_pool
from cvjax.ops.roi import pyramid_roi_align, roi_align, roi_pool

HEIGHT, WIDTH, SCALE = 9, 12, 0.25


def regions(rng: np.random.Generator, count: int) -> np.ndarray:
    """In pixels of an image of 36 x 48, on eighths (halves in the map); some reach out, are points or inverted."""
    corners = rng.uniform(-12, 60, (count, 2, 2))
    corners[: count // 2] = np.sort(corners[: count // 2], axis=1).clip(0, [48, 36])
    corners[::17, 1] = corners[::17, 0]
    return (np.round(corners * 8) / 8).reshape(count, 4).astype(np.float32)


def maps(rng: np.random.Generator, channels: int = 2) -> np.ndarray:
    return rng.normal(size=(2, HEIGHT, WIDTH, channels)).astype(np.float32)


def slow_bins(low: float, high: float, bins: int, length: int) -> list[range]:
    f = np.float32
    first, last = (int(np.floor(abs(f(x) * f(SCALE)) + 0.5) * np.sign(x)) for x in (low, high))
    share = f(max(last - first + 1, 1)) / f(bins)
    return [range(int(np.clip(np.floor(f(i) * share) + first, 0, length)),
                  int(np.clip(np.ceil(f(i + 1) * share) + first, 0, length))) for i in range(bins)]


def slow_max(features: np.ndarray, rows: list[range], columns: list[range]) -> np.ndarray:
    return np.array([[features[r.start:r.stop, c.start:c.stop].max((0, 1)) if len(r) and len(c)
                      else np.zeros(features.shape[-1]) for c in columns] for r in rows])


@pytest.mark.parametrize("size", [(2, 3), (7, 7)])
def test_roi_pool_is_exactly_the_loop(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    features, boxes = maps(rng), regions(rng, 800).reshape(2, 400, 4)
    found = np.asarray(jax.jit(lambda x, b: roi_pool(x, b, size, SCALE))(features, boxes))
    assert found.shape == (2, 400, *size, 2)
    for image, region in np.ndindex(2, 400):
        x1, y1, x2, y2 = boxes[image, region]
        expected = slow_max(features[image], slow_bins(y1, y2, size[0], HEIGHT), slow_bins(x1, x2, size[1], WIDTH))
        np.testing.assert_array_equal(found[image, region], expected)


def test_bins_round_as_float32_for_every_side() -> None:
    """Where side / 7 * 7 exceeds the side in float32, the last bin has a pixel more; 0.49999997 goes to pixel 0."""
    sides = np.arange(1, 60, dtype=np.float32)
    features = np.arange(64, dtype=np.float32).reshape(1, 1, 64, 1)
    boxes = np.stack([0 * sides, 0 * sides, sides - 1, 0 * sides], axis=1)
    for bins in (7,):
        found = np.asarray(jax.jit(lambda x, b: roi_pool(x, b, (1, bins), 1.0))(features, boxes[None]))  # noqa: B023
        share = sides[:, None] / np.float32(bins)
        last = np.ceil(np.arange(1, bins + 1, dtype=np.float32) * share) - 1
        np.testing.assert_array_equal(found[0, :, 0, :, 0], last)
    edges = np.array([[[0, 0, x, 0] for x in (0.49999997, 0.5, 1.5, -0.5, 2.4999998)]], np.float32)
    found = np.asarray(roi_pool(features, edges, (1, 1), 1.0))[0, :, 0, 0, 0]
    np.testing.assert_array_equal(found, [0, 1, 2, 0, 2])


def slow_align(features, box, size, samples, aligned):
    x1, y1, x2, y2 = box.astype(np.float64) * SCALE - 0.5 * aligned
    across, down = (side if aligned else max(side, 1) for side in (x2 - x1, y2 - y1))

    def read(y, x):
        if not (-1 <= y <= HEIGHT and -1 <= x <= WIDTH):
            return np.zeros(features.shape[-1])
        y, x = np.clip(y, 0, HEIGHT - 1), np.clip(x, 0, WIDTH - 1)
        i, j = min(int(y), HEIGHT - 2), min(int(x), WIDTH - 2)
        v, u = y - i, x - j
        return ((1 - v) * ((1 - u) * features[i, j] + u * features[i, j + 1])
                + v * ((1 - u) * features[i + 1, j] + u * features[i + 1, j + 1]))

    return np.array([[np.mean([read(y1 + (p + (a + 0.5) / samples) * down / size[0],
                                    x1 + (q + (b + 0.5) / samples) * across / size[1])
                               for a in range(samples) for b in range(samples)], axis=0)
                      for q in range(size[1])] for p in range(size[0])])


@pytest.mark.parametrize("size, samples, aligned", [((2, 3), 2, True), ((4, 2), 1, False)])
def test_roi_align_is_the_mean_of_its_samples(size: tuple[int, int], samples: int, aligned: bool) -> None:
    """Within float32's rounding of places up to 20 pixels, 1e-6 each, times differences of neighbours up to 6."""
    rng = np.random.default_rng(1)
    features = maps(rng)
    # Off the eighths: at exactly one pixel outside the map a sample jumps from the edge's value to 0.
    boxes = regions(rng, 160).reshape(2, 80, 4) + np.float32(0.0371)
    run = jax.jit(lambda x, b: roi_align(x, b, size, SCALE, sampling_ratio=samples, aligned=aligned))
    found = np.asarray(run(features, boxes))
    expected = [[slow_align(x, box, size, samples, aligned) for box in b] for x, b in zip(features, boxes)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


FORMS = {"products": 10**9, "pixels": 0}  # of RoI align's gradient -> up to how many pixels the first is taken


@pytest.mark.parametrize("form, dtype", [("products", jnp.float32), ("pixels", jnp.float32), ("pixels", jnp.bfloat16)])
def test_regions_of_a_pyramid_are_those_of_their_own_maps(monkeypatch, form: str, dtype: jnp.dtype) -> None:
    """Gradients too: 40 regions, more than one group of products."""
    monkeypatch.setattr(roi, "_FEW_PIXELS", FORMS[form])
    rng = np.random.default_rng(5)
    shapes, scales = ((2, 9, 12, 3), (2, 5, 6, 3)), (0.25, 0.125)
    maps = tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    boxes = regions(rng, 80).reshape(2, 40, 4) + np.float32(0.0371)
    levels = rng.integers(0, 2, (2, 40))
    weights = rng.normal(size=(2, 40, 2, 3, 3)).astype(np.float32)

    def together(maps: tuple) -> jax.Array:
        return pyramid_roi_align(maps, boxes, levels, (2, 3), scales)

    def one_by_one(maps: tuple) -> jax.Array:
        each = [roi_align(x, boxes, (2, 3), scale) for x, scale in zip(maps, scales)]
        return sum(jnp.where((levels == i)[..., None, None, None], x, 0) for i, x in enumerate(each))

    def numbers(regions_of: Callable[[tuple], jax.Array]) -> tuple:
        value, pull = jax.vjp(regions_of, maps)
        return value, pull(weights.astype(dtype))

    found, expected = (jax.jit(partial(numbers, f), compiler_options={"xla_backend_optimization_level": 0})()
                       for f in (together, one_by_one))
    assert found[0].dtype == dtype
    # Equal sums in another order, of some ten float32 values up to 5; then rounded to 8 bits in bfloat16.
    tolerance = dict(rtol=0, atol=1e-5) if dtype == jnp.float32 else dict(rtol=2**-7, atol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), **tolerance)


@pytest.mark.parametrize("name", ["pool", "align/products", "align/pixels",
                                  pytest.param("pyramid", marks=pytest.mark.slow)])
def test_gradients_are_those_of_finite_differences(monkeypatch, name: str) -> None:
    """Pooling is piecewise linear and align linear: steps that change no order have no truncation error. All values
    are 1/8 apart, so a step of 1/32 changes none; sums of whole 32nds are exact."""
    name, _, form = name.partition("/")
    monkeypatch.setattr(roi, "_FEW_PIXELS", FORMS.get(form))
    rng = np.random.default_rng(2)
    boxes = regions(rng, 12).reshape(2, 6, 4)
    features = (rng.permutation(2 * HEIGHT * WIDTH * 2) / 8).astype(np.float32).reshape(2, HEIGHT, WIDTH, 2)
    run = {"pool": lambda x: roi_pool(x, boxes, (2, 3), SCALE), "align": lambda x: roi_align(x, boxes, (2, 3), SCALE),
           "pyramid": lambda x: region_pyramid_pool(x, boxes, SCALE, (1, 2))}[name]
    weights = rng.integers(-3, 4, jax.eval_shape(run, features).shape).astype(np.float32)
    value = jax.jit(lambda x: (run(x) * weights).sum())
    gradient = np.asarray(jax.jit(jax.grad(value))(features)).ravel()
    assert (gradient != 0).sum() > 20
    moves = np.eye(gradient.size, dtype=np.float32)[rng.choice(gradient.size, 60, replace=False)]
    moves = moves.reshape(60, *features.shape) / 32
    slopes = jax.jit(jax.vmap(lambda move: (value(features + move) - value(features - move)) * 16))(moves)
    places = moves.reshape(60, -1).argmax(axis=1)
    # Align sums some thousand float32 products up to 150, errors near 1e-4, times 16.
    np.testing.assert_allclose(slopes, gradient[places], atol=0 if name != "align" else 2e-2)


def test_equal_values_give_the_gradient_once_and_boxes_get_none() -> None:
    boxes = jnp.array([[[0.0, 0, 40, 30]]])
    flat = jnp.zeros((1, HEIGHT, WIDTH, 3))
    gradient = jax.jit(jax.grad(lambda x: roi_pool(x, boxes, (2, 2), SCALE).sum()))(flat)
    assert gradient.sum() == 12 and set(np.unique(gradient)) <= {0, 1, 2, 3, 4}
    both = jax.jit(jax.grad(lambda b: sum(pool(flat + 1, b, (2, 2), SCALE).sum() for pool in (roi_pool, roi_align))))
    assert not both(boxes).any()
    with_nan = flat.at[0, 4, 5].set(jnp.nan)
    assert np.isnan(jax.jit(lambda x: roi_pool(x, boxes, (1, 1), SCALE))(with_nan)).all()


@pytest.mark.parametrize("height, width", [(13, 13), (4, 7)])
def test_pyramids_of_whole_maps(height: int, width: int) -> None:
    """And a region that covers the image is the whole map; 13 is the paper's example of section 2.3."""
    features = np.random.default_rng(3).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = []
    for n in (1, 2, 3, 6):
        rows, columns = ([range(i * w // n, -(-(i + 1) * w // n)) for i in range(n)] for w in (height, width))
        if (height, width) == (13, 13):
            assert [(r.start, len(r)) for r in rows] == [(i * (13 // n), -(-13 // n)) for i in range(n)]
        expected.append([slow_max(x, rows, columns).reshape(n * n, 3) for x in features])
    expected = np.concatenate(expected, axis=1)
    np.testing.assert_array_equal(jax.jit(pyramid_pool)(features), expected)
    whole = np.array([[[0, 0, 16 * width, 16 * height]]] * 2, np.float32)
    np.testing.assert_array_equal(jax.jit(lambda x: region_pyramid_pool(x, whole, 1 / 16))(features)[:, 0], expected)


def test_pyramids_of_regions() -> None:
    rng = np.random.default_rng(4)
    features, boxes = maps(rng), regions(rng, 300).reshape(2, 150, 4)
    found = np.asarray(jax.jit(lambda x, b: region_pyramid_pool(x, b, SCALE, (1, 3)))(features, boxes))
    for image, region in np.ndindex(2, 150):
        sides = []
        for axis, length in ((1, HEIGHT), (0, WIDTH)):
            low, high = boxes[image, region, axis::2]
            inside = [i for i in range(length) if low <= 4 * i < high]
            sides.append(inside or [int(np.clip(np.ceil(low / 4), 0, length - 1))])
        part = features[image][np.ix_(*sides)]
        h, w = part.shape[:2]
        bins = [(n, i, j) for n in (1, 3) for i, j in np.ndindex(n, n)]
        for place, (n, i, j) in enumerate(bins):
            expected = part[i * h // n:-(-(i + 1) * h // n), j * w // n:-(-(j + 1) * w // n)].max((0, 1))
            np.testing.assert_array_equal(found[image, region, place], expected)


def test_what_they_do_not_take() -> None:
    features, boxes = np.ones((2, 4, 4, 1), np.float32), np.ones((2, 3, 4), np.float32)
    with pytest.raises(ValueError, match=r"\(B, H, W, C\) and \(B, R, 4\), received \(4, 4, 1\) and \(2, 3, 4\)"):
        roi_pool(features[0], boxes, (7, 7), 0.25)
    with pytest.raises(ValueError, match=r"two numbers of bins, at least 1, received \(7, 0\)"):
        roi_align(features, boxes, (7, 0), 0.25)
    with pytest.raises(ValueError, match="sampling_ratio must be at least 1, received 0"):
        roi_align(features, boxes, (7, 7), 0.25, sampling_ratio=0)
    with pytest.raises(ValueError, match=r"levels at least one number of 1 or more, received \(2, 4, 4, 1\) and \(\)"):
        pyramid_pool(features, ())
    with pytest.raises(ValueError, match=r"boxes must be \(B, R, 4\) with B = 2, received \(1, 3, 4\)"):
        region_pyramid_pool(features, boxes[:1], 0.25)


@pytest.mark.parametrize("name", ["pool", "align/products", "align/pixels"])
def test_gradients_of_bfloat16_maps_are_added_up_in_float32(monkeypatch, name: str) -> None:
    """1,024 regions of one pixel: in bfloat16, whose steps at 256 are 2, a sum of ones ends at 256."""
    boxes, (name, _, form) = jnp.zeros((1, 1024, 4)), name.partition("/")
    monkeypatch.setattr(roi, "_FEW_PIXELS", FORMS.get(form))
    look = {"pool": roi_pool, "align": partial(roi_align, sampling_ratio=1, aligned=False)}[name]

    def total(features: jax.Array) -> jax.Array:
        return look(features, boxes, (1, 1), 1.0).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(total))(jnp.ones((1, 2, 2, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    assert gradient.astype(jnp.float32).sum() == 1024
