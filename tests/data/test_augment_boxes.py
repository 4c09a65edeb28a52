"""Boxes painted over and pasted, and batches mixed, against slow twins of the papers' algorithms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cvjax.data import augment
from tests.data.augmenting import LIKELY, photo, quick

KEYS = jax.random.split(jax.random.key(0), 1000)


def for_all_keys(function):
    return jax.tree.map(np.asarray, quick(jax.vmap(function))(KEYS))


def same_law(ours, theirs):
    return stats.ks_2samp(ours, theirs).pvalue > LIKELY


def boxes_of(masks):
    """`(N, 4)` of top, left, height, width of masks `(N, H, W)`, each of which is a full box."""
    rows, columns = masks.any(2), masks.any(1)
    found = np.stack([rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)], 1)
    assert (masks.sum((1, 2)) == found[:, 2] * found[:, 3]).all()
    for mask, (top, left, height, width) in zip(masks, found):
        assert mask[top : top + height, left : left + width].all()
    return found


@pytest.mark.parametrize("size", [3, 4])
def test_cutout_centres_its_square_anywhere(size):
    image = jnp.full((6, 5, 3), 9, jnp.uint8)
    out = for_all_keys(lambda key: augment.cutout(key, image, size, (1, 2, 3)))
    erased = (out == [1, 2, 3]).all(-1)
    assert out.dtype == np.uint8 and (out[~erased] == 9).all()
    squares = []
    for y in range(6):
        for x in range(5):
            square = np.zeros((6, 5), bool)
            square[max(0, y - size // 2) : y - size // 2 + size, max(0, x - size // 2) : x - size // 2 + size] = True
            squares.append(square)
    drawn = [[bool((mask == square).all()) for square in squares].index(True) for mask in erased]
    assert stats.chisquare(np.bincount(drawn, minlength=30)).pvalue > LIKELY


@pytest.mark.parametrize("size", [4, 5])
def test_cutout_inside_is_anywhere_where_it_fits(size):
    image = jnp.full((6, 5, 1), 9.0)
    out = for_all_keys(lambda key: augment.cutout(key, image, size, inside=True))[..., 0]
    corners = [(y, x) for y in range(7 - size) for x in range(6 - size)]
    expected = np.full((len(corners), 6, 5), 9.0)
    for i, (y, x) in enumerate(corners):
        expected[i, y:y + size, x:x + size] = 0
    drawn = [[bool((each == square).all()) for square in expected].index(True) for each in out]
    assert stats.chisquare(np.bincount(drawn, minlength=len(corners))).pvalue > LIKELY
    with pytest.raises(ValueError, match="size must be at most the image's 6x5 to lie inside, got 6"):
        augment.cutout(jax.random.key(0), image, 6, inside=True)


def erased_by_the_paper(rng, height, width, scale, ratio):
    for _ in range(10):
        area, aspect = height * width * rng.uniform(*scale), math.exp(rng.uniform(*np.log(ratio)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    return 0, 0, 0, 0


@pytest.mark.parametrize("scale, ratio", [((0.02, 1 / 3), (0.3, 1 / 0.3)), ((0.3, 0.5), (2.0, 4.0))])
def test_random_erasing_draws_the_boxes_of_the_paper(scale, ratio):
    image = jnp.full((20, 30, 1), 5.0)
    out = for_all_keys(lambda key: augment.random_erasing(key, image, 1.0, scale, ratio, value=-3.0))[..., 0]
    assert set(np.unique(out)) == {-3, 5}
    ours = boxes_of(out == -3)
    rng = np.random.default_rng(0)
    theirs = np.array([erased_by_the_paper(rng, 20, 30, scale, ratio) for _ in KEYS])
    for name, column in zip(("top", "left", "height", "width"), range(4)):
        assert same_law(ours[:, column], theirs[:, column]), name
    assert same_law(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    if ratio[0] > 1:
        assert (ours[:, 2] > 1.4 * ours[:, 3])[ours[:, 2] > 0].all(), "boxes are higher than wide"
        assert 0.01 < (ours[:, 2] == 0).mean(), "ten tries do not always do"


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_random_erasing_happens_with_its_probability(probability):
    out = for_all_keys(lambda key: augment.random_erasing(key, jnp.ones((8, 8, 1)), probability))
    assert stats.binomtest(int((out == 0).any((1, 2, 3)).sum()), len(KEYS), probability).pvalue > LIKELY


def test_random_erasing_by_pixel_paints_normal_noise():
    out = for_all_keys(lambda key: augment.random_erasing(key, jnp.full((8, 8, 3), 100.0), 1.0, mode="pixel"))
    painted = out[(out != 100).all(-1)]
    assert stats.kstest(painted.ravel(), stats.norm.cdf).pvalue > LIKELY
    assert np.abs(np.corrcoef(painted.T) - np.eye(3)).max() < 4 / math.sqrt(len(painted))
    boxes_of((out != 100).all(-1))


def test_a_photograph_loses_one_box():
    erase = quick(lambda key, image: augment.random_erasing(key, image, 1.0))
    cut = quick(lambda key, image: augment.cutout(key, image, 20))
    for function, image in ((erase, photo().astype(np.float32) + 1), (cut, photo() // 2 + 1)):
        out = np.asarray(function(KEYS[0], jnp.asarray(image)))
        gone = (out == 0).all(-1)
        assert 0.02 <= gone.mean() < 0.4 and out.dtype == image.dtype and (out[~gone] == image[~gone]).all()
        boxes_of(gone[None])


# Four examples, whose values and targets say which they are; all pixels differ.
IMAGES = jnp.arange(4 * 10 * 14, dtype=jnp.float32).reshape(4, 10, 14, 1)
TARGETS = jnp.eye(4)


def boxes_by_the_paper(rng, height, width, alpha):
    share = rng.beta(alpha, alpha)
    h, w = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
    top, left = rng.integers(height) - h // 2, rng.integers(width) - w // 2
    bottom, right = min(top + h, height), min(left + w, width)
    top, left = max(top, 0), max(left, 0)
    return (top, left, bottom - top, right - left) if h and w else (0, 0, 0, 0)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_cutmix_pastes_the_boxes_of_the_paper_and_counts_their_area(alpha):
    mixed, soft = for_all_keys(lambda key: augment.cutmix(key, IMAGES, TARGETS, alpha))
    pasted = mixed == np.asarray(IMAGES)[::-1]
    assert (pasted | (mixed == np.asarray(IMAGES))).all() and (pasted == pasted[:, :1]).all()
    ours = boxes_of(pasted[:, 0, :, :, 0])
    shares = 1 - ours[:, 2] * ours[:, 3] / 140
    expected = shares[:, None, None] * np.eye(4) + (1 - shares)[:, None, None] * np.eye(4)[::-1]
    np.testing.assert_allclose(soft, expected, atol=1e-6)
    rng = np.random.default_rng(0)
    theirs = np.array([boxes_by_the_paper(rng, 10, 14, alpha) for _ in KEYS])
    seen = theirs[:, 2] * theirs[:, 3] > 0
    assert stats.binomtest(int((shares < 1).sum()), len(KEYS), seen.mean()).pvalue > LIKELY
    for column in range(4):
        assert same_law(ours[shares < 1][:, column], theirs[seen][:, column])


@pytest.fixture
def fast_beta(monkeypatch):
    """Beta(a, 1) for Beta(a, a): it still tells the alphas apart, and compiles in a tenth of the time."""
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jax.random.uniform(key) ** (1 / a))


@pytest.mark.parametrize("mixup_alpha, cutmix_alpha, switch, probability, shares", [
    (0.8, 1.0, 0.3, 0.9, (0.1, 0.63, 0.27)),
    (0.8, 0.0, 0.3, 1.0, (0, 1, 0)),
    (0.0, 1.0, 0.3, 1.0, (0, 0, 1)),
])
def test_mixup_or_cutmix_does_each_as_often_as_asked(mixup_alpha, cutmix_alpha, switch, probability, shares,
                                                     fast_beta):
    mixed, soft = for_all_keys(lambda key: augment.mixup_or_cutmix(key, IMAGES, TARGETS, mixup_alpha, cutmix_alpha,
                                                                   switch, probability))
    images, partners = np.asarray(IMAGES), np.asarray(IMAGES)[::-1]
    same = (mixed == images).all((1, 2, 3, 4))
    cut = ((mixed == images) | (mixed == partners)).all((1, 2, 3, 4)) & ~same
    blended = ~same & ~cut
    weight = soft[blended, 0, 0][:, None, None, None, None]
    np.testing.assert_allclose(mixed[blended], weight * images + (1 - weight) * partners, atol=1e-3)
    area = (mixed[cut, 0] == images[0]).mean((1, 2, 3))
    np.testing.assert_allclose(soft[cut, 0, 0], area, atol=1e-6)
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)
    # A box without a pixel, one in a hundred, where 1 - lambda < 1 / 10 ** 2, cuts nothing that can be seen.
    invisible = 0.03 * shares[2]
    for found, share in zip((same, blended, cut), shares):
        slack = invisible + 3.3 * math.sqrt(share * (1 - share) / len(KEYS))
        assert abs(found.mean() - share) <= slack
    if mixup_alpha:
        lambdas = soft[blended, 0, 0]
        assert stats.kstest(lambdas, stats.beta(mixup_alpha, 1).cdf).pvalue > LIKELY


def test_mixing_accepts_uint8_and_an_odd_number_of_examples(fast_beta):
    images = np.stack([photo()[:12, :12], photo()[20:32, :12], photo()[40:52, :12]])
    mixed, soft = for_all_keys(lambda key: augment.mixup_or_cutmix(key, jnp.asarray(images), jnp.eye(3), 1.0, 1.0))
    assert mixed.dtype == soft.dtype == np.float32
    np.testing.assert_allclose(mixed[:, 1], np.broadcast_to(images[1], mixed[:, 1].shape), atol=1e-3)
    assert (mixed[:, 0] != images[0]).any((1, 2, 3)).mean() > 0.9  # but the middle one is its own partner


def test_cutmix_keeps_an_odd_side(monkeypatch):
    """Of 8 x 8 pixels a box with 3.5 / 8 of each side has 3 x 3; the authors' code and timm make it 2 x 2."""
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jnp.float32(1 - (3.5 / 8) ** 2))
    images = jnp.stack([jnp.zeros((8, 8, 1)), jnp.ones((8, 8, 1))])
    mixed, _ = for_all_keys(lambda key: augment.cutmix(key, images, jnp.eye(2), 1.0))
    assert mixed[:, 0].sum((1, 2, 3)).max() == 9


ONE = jnp.zeros((4, 4, 1))


@pytest.mark.parametrize("call, message", [
    (lambda key: augment.cutout(key, ONE, 0), "size must be at least 1, got 0"),
    (lambda key: augment.random_erasing(key, ONE, 1.5), r"a probability must be in \[0, 1\], got 1.5"),
    (lambda key: augment.random_erasing(key, ONE, scale=(0.0, 0.3)), r"0 < least <= greatest <= 1, got \(0.0, 0.3\)"),
    (lambda key: augment.random_erasing(key, ONE, scale=(0.3, 1.3)), r"0 < least <= greatest <= 1, got \(0.3, 1.3\)"),
    (lambda key: augment.random_erasing(key, ONE, ratio=(3, 2)), r"0 < least <= greatest, got \(3, 2\)"),
    (lambda key: augment.random_erasing(key, ONE, mode="rand"), "mode must be 'const' or 'pixel', got 'rand'"),
    (lambda key: augment.random_erasing(key, ONE.astype(jnp.uint8)), "normalised float images, got uint8"),
    (lambda key: augment.mixup(key, IMAGES, TARGETS, 0.0), "alpha must be above 0, got 0.0"),
    (lambda key: augment.cutmix(key, IMAGES, TARGETS, -1.0), "alpha must be above 0, got -1.0"),
    (lambda key: augment.mixup_or_cutmix(key, IMAGES, TARGETS, 0.0, 0.0), "one above 0, got mixup 0.0, cutmix 0.0"),
    (lambda key: augment.mixup_or_cutmix(key, IMAGES, TARGETS, -1.0, 1.0), "one above 0, got mixup -1.0, cutmix 1.0"),
    (lambda key: augment.mixup_or_cutmix(key, IMAGES, TARGETS, 1, 1, -1), r"probability must be in \[0, 1\], got -1"),
    (lambda key: augment.mixup_or_cutmix(key, IMAGES, TARGETS, 1, 1, 1, 2), r"probability must be in \[0, 1\], got 2"),
])
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, KEYS[0])
