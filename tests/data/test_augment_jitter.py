"""Random colour, blur and noise: the numbers, and the laws by which they are drawn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from cvjax.data import augment
from cvjax.data.augment import colour
from tests.data.augmenting import LIKELY, photo, quick

KEYS = jax.random.split(jax.random.key(0), 2000)
PHOTO = jnp.asarray(photo())
STRENGTHS = {"brightness": 0.4, "contrast": 0.8, "saturation": 1.5, "hue": 0.1}
RANGES = {"brightness": (0.6, 1.4), "contrast": (0.2, 1.8), "saturation": (0, 2.5), "hue": (-0.1, 0.1)}


def for_all_keys(function, keys=KEYS):
    return np.asarray(quick(jax.vmap(function))(keys))


def assert_uniform(values, low, high):
    assert low <= values.min() and values.max() <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LIKELY


@pytest.mark.parametrize("name", STRENGTHS)
def test_factors_of_jitter_are_uniform_in_their_ranges(name, monkeypatch):
    monkeypatch.setattr(colour, name, lambda image, factor: image + factor)
    factors = for_all_keys(lambda key: augment.color_jitter(key, jnp.zeros((1, 1, 3)), **{name: STRENGTHS[name]}))
    assert_uniform(factors[:, 0, 0, 0], *RANGES[name])


def test_factors_are_independent_and_all_orders_equally_likely(monkeypatch):
    for digit, name in enumerate(STRENGTHS, 1):
        def record(image, factor, digit=digit):
            return (image * jnp.array([10, 1])).at[0, 0].add(jnp.array([digit, 0])).at[0, digit, 1].set(factor)

        monkeypatch.setattr(colour, name, record)
    drawn = for_all_keys(lambda key: augment.color_jitter(key, jnp.zeros((1, 5, 2)), **STRENGTHS))[:, 0]
    orders, counts = np.unique(drawn[:, 0, 0], return_counts=True)
    assert orders.tolist() == sorted(int("".join(order)) for order in itertools.permutations("1234"))
    assert stats.chisquare(counts).pvalue > LIKELY
    correlations = np.corrcoef(drawn[:, 1:, 1].T) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(len(KEYS))


def test_jitter_applies_the_operations_of_colour():
    key = KEYS[3]
    jitter = quick(augment.color_jitter, static_argnums=range(2, 6))
    factor = jitter(key, jnp.full((1, 1, 1), 100.0), 0.4).item() / 100
    brighter = quick(augment.brightness)(PHOTO, factor)
    assert (np.asarray(jitter(key, PHOTO, 0.4)) == np.asarray(brighter)).mean() > 0.99
    changed = np.asarray(jitter(key, PHOTO, 0.4, 0.4, 0.2, 0.1))
    assert changed.dtype == np.uint8 and (changed != photo()).mean() > 0.5
    one_channel = jax.ShapeDtypeStruct((9, 7, 1), jnp.uint8)
    assert jax.eval_shape(lambda x: augment.color_jitter(key, x, 0.4, 0.4, 0.2, 0.1), one_channel) == one_channel
    assert augment.color_jitter(key, PHOTO) is PHOTO


def by_darknet(image, saturation, value):
    """Darknet's distort_image on an image in [0, 1], in double precision: to HSV, its factors, and back."""
    red, green, blue = (image[..., i].astype(float) for i in range(3))
    v, low = image.max(-1).astype(float), image.min(-1).astype(float)
    delta = v - low
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(v == 0, 0, delta / v)
        h = np.where(red == v, (green - blue) / delta,
                     np.where(green == v, 2 + (blue - red) / delta, 4 + (red - green) / delta))
    h = np.where(delta == 0, 0, h) % 6
    s, v = s * saturation, v * value
    sextant = np.floor(h)
    f = h - sextant
    p, q, t = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    table = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)]
    return np.clip(np.stack([np.select([sextant == k for k in range(6)], [row[c] for row in table]) for c in range(3)],
                            -1), 0, 1)


@pytest.mark.parametrize("saturation, value", [(1.5, 1.0), (1 / 1.5, 1.5), (1.0, 1 / 1.5), (3.0, 2.0)])
def test_exposure_is_darknets(saturation, value):
    change = quick(augment.exposure)
    expected = 255 * by_darknet(photo() / 255, saturation, value)
    as_float = np.asarray(change(PHOTO.astype(jnp.float32), saturation, value))
    np.testing.assert_allclose(as_float, expected, atol=2e-4)  # float32: a few units of 2**-24 of 6 * 255
    # Rounded to the nearest level, where Darknet keeps fractions.
    np.testing.assert_allclose(np.asarray(change(PHOTO, saturation, value), float), expected, atol=0.5 + 2e-4)
    grey = jnp.full((2, 3, 1), 100.0)
    np.testing.assert_allclose(change(grey, saturation, value), min(100 * value, 255), rtol=1e-6)


def test_exposure_factors_are_drawn_as_darknet_draws_them(monkeypatch):
    """Uniform in [1, s], and inverted in half of the cases; one independent of the other."""
    monkeypatch.setattr(colour, "exposure", lambda image, *factors: jnp.stack(factors))
    drawn = for_all_keys(lambda key: augment.exposure_jitter(key, PHOTO, 1.5, 2.0))
    for factors, most in zip(drawn.T, (1.5, 2.0)):
        up = factors > 1
        assert stats.binomtest(int(up.sum()), len(KEYS), 0.5).pvalue > LIKELY
        assert_uniform(factors[up], 1, most)
        assert_uniform(1 / factors[~up], 1, most * (1 + 1e-6))
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 4 / np.sqrt(len(KEYS))
    with pytest.raises(ValueError, match="value must be at least 1, got 0.5"):
        augment.exposure_jitter(KEYS[0], PHOTO, 1.5, 0.5)


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_grayscale_and_any_function_happen_with_their_probability(probability):
    pixel = jnp.array([[[200, 100, 50]]], jnp.uint8)
    for function, result in [
        (lambda key: augment.random_grayscale(key, pixel, probability), [124] * 3),
        (lambda key: augment.random_apply(key, pixel, probability, lambda key, x: augment.invert(x)), [55, 155, 205]),
    ]:
        out = for_all_keys(function)[:, 0, 0]
        happened = (out == result).all(-1)
        assert (out[~happened] == [200, 100, 50]).all()
        assert stats.binomtest(int(happened.sum()), len(KEYS), probability).pvalue > LIKELY


def test_the_choice_is_independent_of_what_the_function_draws():
    draw = lambda key, image: jax.random.uniform(key, image.shape)  # noqa: E731
    out = for_all_keys(lambda key: augment.random_apply(key, jnp.zeros(()), 0.5, draw))
    assert_uniform(out[out > 0], 0, 1)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_that_of_scipy(sigma):
    blur = quick(lambda image: augment.gaussian_blur(KEYS[0], image, (sigma, sigma)))
    expected = ndimage.gaussian_filter(photo().astype(float), (sigma, sigma, 0), mode="nearest", truncate=8)
    precise = blur(PHOTO.astype(jnp.float32))
    # What lies beyond four deviations weighs less than 1e-4 of 255 levels.
    np.testing.assert_allclose(precise, expected, atol=0.02)
    whole = blur(PHOTO)
    assert whole.dtype == jnp.uint8 and np.abs(np.asarray(whole) - expected).max() < 0.52
    assert abs(float(precise.mean()) - photo().mean()) < 0.5
    if sigma > 0.5:
        slope = lambda image: np.abs(np.diff(np.asarray(image, float), axis=0)).mean()  # noqa: E731
        assert slope(precise) < 0.8 * slope(PHOTO)


def test_blur_works_on_images_smaller_than_its_kernel():
    small = jnp.asarray(photo()[:3, :4])
    expected = ndimage.gaussian_filter(photo()[:3, :4].astype(float), (2, 2, 0), mode="nearest", truncate=8)
    blurred = quick(lambda image: augment.gaussian_blur(KEYS[0], image, (2.0, 2.0)))(small)
    assert np.abs(np.asarray(blurred) - expected).max() < 0.52


def test_deviations_of_blur_are_uniform():
    dot = jnp.zeros((1, 41, 1)).at[0, 20].set(255)
    spread = for_all_keys(lambda key: augment.gaussian_blur(key, dot, (1.0, 4.0)))[:, 0, :, 0] / 255
    # The variance of the blurred dot; sampled in whole pixels, a kernel of deviation 1 and more keeps its own.
    deviations = np.sqrt((spread * (np.arange(41) - 20) ** 2).sum(1))
    assert_uniform(deviations, 0.999, 4.0)


def test_noise_is_normal_independent_and_clipped():
    add = quick(augment.gaussian_noise, static_argnums=2)
    grey = jnp.full((40, 50, 3), 128.0)
    noise = np.asarray(add(KEYS[0], grey, 10.0)) - 128
    assert stats.kstest(noise.ravel(), stats.norm(0, 10).cdf).pvalue > LIKELY
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 4 / np.sqrt(2000)
    noisy = add(KEYS[0], grey.astype(jnp.uint8), 10.0)
    assert noisy.dtype == jnp.uint8 and (np.asarray(noisy) == np.round(noise + 128)).all()
    for level in (0.0, 255.0):
        clipped = np.asarray(add(KEYS[0], jnp.full((40, 50, 3), level), 10.0))
        assert clipped.min() >= 0 and clipped.max() <= 255 and 0.4 < (clipped == level).mean() < 0.6
    assert (add(KEYS[0], PHOTO, 0.0) == PHOTO).all()


@pytest.mark.parametrize("call, message", [
    (lambda key: augment.color_jitter(key, PHOTO, brightness=-0.1), "brightness must be at least 0, got -0.1"),
    (lambda key: augment.color_jitter(key, PHOTO, hue=0.6), r"hue must be in \[0, 0.5\], got 0.6"),
    (lambda key: augment.random_grayscale(key, PHOTO, 1.2), r"a probability must be in \[0, 1\], got 1.2"),
    (lambda key: augment.gaussian_blur(key, PHOTO, (0.0, 1.0)), r"0 < least <= greatest, got \(0.0, 1.0\)"),
    (lambda key: augment.gaussian_blur(key, PHOTO, (2.0, 1.0)), r"0 < least <= greatest, got \(2.0, 1.0\)"),
    (lambda key: augment.gaussian_noise(key, PHOTO, -1.0), "std must be at least 0, got -1.0"),
])
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, KEYS[0])
