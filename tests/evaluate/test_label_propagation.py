"""Labels carried from frame to frame, against the authors' protocol in loops: a list of frames that grows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate.label_propagation import grid_labels, pixel_labels, propagate, propagate_video, start_memory

T, ROWS, COLUMNS, D, K = 6, 4, 5, 6, 3
_DRAW = np.random.default_rng(0)
# Frames that are noisy shifts of one another, of any scale, so that queue and radius both matter.
SCENE = _DRAW.normal(size=(ROWS, COLUMNS, D))
FEATURES = np.stack([np.roll(SCENE, t, axis=1) + 0.6 * _DRAW.normal(size=SCENE.shape) for t in range(T)]) * 3
LABELS = _DRAW.integers(0, K, (ROWS, COLUMNS))
# Float32 cosines are off by about D * 6e-8 = 4e-7, divided by the temperature 0.1 that is 4e-6 of each weight, and the
# errors of a frame pass on to the next 5.
CLOSE = dict(rtol=0, atol=5e-5)


def slow(features, first, queue: int, radius: int, temperature: float, top_k: int) -> np.ndarray:
    """Patch by patch in float64; every frame in `kept` is there, none is reserved for later."""
    def unit(x):
        length = np.sqrt((x**2).sum())
        return x / length if length else x

    done, kept = [first], []
    for frame in features[1:]:
        sources = [(features[0], first), *kept]
        labels = np.zeros_like(first)
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                candidates = [(unit(frame[y, x]) @ unit(source[v, u]), given[v, u]) for source, given in sources
                              for v in range(frame.shape[0]) for u in range(frame.shape[1])
                              if abs(v - y) <= radius and abs(u - x) <= radius]
                candidates.sort(key=lambda pair: -pair[0])
                least = candidates[min(top_k, len(candidates)) - 1][0]
                chosen = [(np.exp(s / temperature), label) for s, label in candidates if s >= least]
                labels[y, x] = sum(w * label for w, label in chosen) / sum(w for w, _ in chosen)
        kept = [*kept, (frame, labels)][-queue:] if queue else []
        done.append(labels)
    return np.stack(done)


@pytest.mark.parametrize("options", [
    dict(queue=2, radius=1, temperature=0.1, top_k=3),  # the ring goes round twice
    dict(queue=7, radius=12, temperature=0.1, top_k=5),  # it never fills, and nothing is out of reach
    dict(queue=0, radius=2, temperature=0.5, top_k=50),  # more than there are within reach
])
def test_labels_equal_the_protocol_in_loops(options: dict) -> None:
    propagated = propagate_video(FEATURES, LABELS, **options)
    assert propagated.shape == (T, ROWS, COLUMNS, K) and propagated.dtype == np.float32
    np.testing.assert_allclose(propagated, slow(FEATURES, np.eye(K)[LABELS], **options), **CLOSE)
    np.testing.assert_array_equal(propagated[0], np.eye(K)[LABELS])
    np.testing.assert_allclose(propagated.sum(axis=-1), 1, rtol=1e-5)


def test_the_defaults_are_the_papers() -> None:
    np.testing.assert_array_equal(propagate_video(FEATURES, LABELS),
                                  propagate_video(FEATURES, LABELS, queue=7, radius=12, temperature=0.1, top_k=5))


def test_frame_by_frame_is_the_same_and_labels_may_be_shares() -> None:
    shares = np.random.default_rng(1).dirichlet(np.ones(K), (ROWS, COLUMNS))
    memory = start_memory(FEATURES[0], shares)
    frames = [np.float32(shares)]
    for frame in FEATURES[1:]:
        memory, labels = propagate(memory, jnp.asarray(frame))
        frames.append(np.asarray(labels))
    np.testing.assert_array_equal(np.stack(frames), propagate_video(FEATURES, shares))
    assert int(memory.count) == T and memory.features.shape == (8, ROWS, COLUMNS, D)


def test_an_object_is_followed() -> None:
    """Each patch of the object has a feature of its own, so the labels move with it, by one column a frame."""
    features = np.zeros((4, ROWS, COLUMNS, D))
    features[..., 0] = 1
    for t in range(4):
        features[t, 1:3, t] = np.eye(D)[[1, 2]]
    labels = np.zeros((ROWS, COLUMNS), int)
    labels[1:3, 0] = 1, 2
    # At this temperature only the most similar patch decides, and exp(1 / temperature) is beyond float32.
    propagated = propagate_video(features, labels, queue=2, radius=1, top_k=3, temperature=1e-3)
    for t in range(4):
        np.testing.assert_allclose(propagated[t], np.eye(K)[np.roll(labels, t, axis=1)], atol=1e-6)
    # With only its own place within reach, and compared only with the first frame, it stays where it was.
    still = propagate_video(features, labels, queue=0, radius=0, top_k=3)
    np.testing.assert_array_equal(still, np.stack([still[0]] * 4))


def test_equally_similar_patches_all_count() -> None:
    """A feature of zeros is like nothing: all patches within reach tie, whatever top_k says."""
    labels = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % K
    propagated = propagate_video(np.zeros((2, ROWS, COLUMNS, D)), labels, queue=2, radius=1, top_k=3)
    np.testing.assert_allclose(propagated[1, 0, 0], np.eye(K)[labels[:2, :2]].mean(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(propagated[1, 2, 2], np.eye(K)[labels[1:4, 1:4]].mean(axis=(0, 1)), rtol=1e-6)


def slow_pixels(shares: np.ndarray, patch: int, height: int, width: int) -> np.ndarray:
    rows, columns, classes = shares.shape

    def at(y: int, x: int, k: int) -> float:
        value = 0.0
        for v in range(rows):
            for u in range(columns):
                # Coordinates of the pixel's centre among the patches' centres; beyond the outermost it stays there.
                down = min(max((y + 0.5) / patch - 0.5, 0), rows - 1) - v
                right = min(max((x + 0.5) / patch - 0.5, 0), columns - 1) - u
                value += max(0, 1 - abs(down)) * max(0, 1 - abs(right)) * shares[v, u, k]
        return value

    big = np.array([[[at(y, x, k) for k in range(classes)] for x in range(columns * patch)]
                    for y in range(rows * patch)])
    for k in range(classes):
        if big[..., k].max() > 0:
            big[..., k] = (big[..., k] - big[..., k].min()) / np.ptp(big[..., k])
    winner = big.argmax(axis=-1)
    return np.array([[winner[int((y + 0.5) * rows * patch / height), int((x + 0.5) * columns * patch / width)]
                      for x in range(width)] for y in range(height)])


def test_pixels_take_the_largest_share_on_each_classes_own_scale() -> None:
    shares = np.random.default_rng(3).dirichlet([2, 0.5, 0.2], (3, 4)) * [1, 1, 0.2]  # the last is rare and stretched
    labels = pixel_labels(jnp.asarray(shares, jnp.float32), patch_size=4, height=13, width=17)
    assert labels.shape == (13, 17) and labels.dtype == jnp.int32
    np.testing.assert_array_equal(labels, slow_pixels(shares, 4, 13, 17))
    assert (np.asarray(labels) == 2).any()


@pytest.mark.parametrize("everywhere, expected", [([0, 0, 1], 2), ([1, 0, 0], 0), ([0, 0, 0], 0), ([0.5, 0.5, 0], 0)])
def test_a_class_that_is_the_same_everywhere_wins(everywhere: list, expected: int) -> None:
    shares = jnp.broadcast_to(jnp.asarray(everywhere, jnp.float32), (3, 4, 3))
    assert (pixel_labels(shares, patch_size=4, height=13, width=17) == expected).all()
    with jax.debug_nans(True):
        pixel_labels(shares, patch_size=4, height=13, width=17)


def test_a_grid_takes_the_pixels_in_the_middle_of_its_patches() -> None:
    label_map = np.arange(6 * 8).reshape(6, 8)
    np.testing.assert_array_equal(grid_labels(label_map, 2, 2), label_map[[1, 4]][:, [2, 6]])


@pytest.mark.parametrize("call, message", [
    (lambda: start_memory(SCENE, LABELS), r"\(gh, gw, D\) and \(gh, gw, K\) of one grid, received \(4, 5, 6\) and"),
    (lambda: start_memory(SCENE, SCENE[:3]), r"of one grid, received \(4, 5, 6\) and \(3, 5, 6\)"),
    (lambda: start_memory(SCENE, SCENE, queue=-1), "queue must be 0 or more frames, received -1"),
    (lambda: propagate(start_memory(SCENE, SCENE), jnp.ones((4, 5, 7))), r"\(4, 5, 6\) as in the memory, received"),
    (lambda: propagate_video(FEATURES, LABELS, top_k=0), "received radius=12, top_k=0"),
    (lambda: propagate_video(FEATURES, LABELS, radius=-1), "received radius=-1, top_k=5"),
    (lambda: propagate_video(FEATURES, LABELS, temperature=0), "temperature above 0, received .* temperature=0"),
    (lambda: propagate_video(SCENE, LABELS), r"features must be \(T, gh, gw, D\) with T > 0, received shape \(4, 5, 6"),
    (lambda: propagate_video(FEATURES, LABELS / 2), "integers from 0, received float64"),
    (lambda: propagate_video(FEATURES, LABELS - 1), "integers from 0, received int64 from -1")])
def test_errors_say_what_came(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
