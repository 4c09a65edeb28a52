import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cvjax.data import augment, crops
from cvjax.data.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD
from tests.data.augmenting import LIKELY, quick
from tests.data.pictures import gradient

KEYS = jax.random.split(jax.random.key(0), 2000)
PICTURE = jnp.asarray(gradient(24, 32))


@pytest.mark.parametrize(
    "mean, std", [(IMAGENET_MEAN, IMAGENET_STD), (HALF, HALF)]
)
def test_normalize_and_its_inverse(mean, std):
    out = augment.normalize(PICTURE, mean, std)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, (np.asarray(PICTURE) / 255 - np.array(mean)) / np.array(std), atol=1e-6)
    np.testing.assert_allclose(augment.denormalize(out, mean, std), PICTURE, atol=1e-3)
    np.testing.assert_allclose(augment.normalize(PICTURE.astype(jnp.float32), mean, std), out, atol=1e-6)


def test_flip_is_half_of_the_time_and_mirrors():
    flipped = np.asarray(quick(jax.vmap(augment.random_flip, (0, None)))(KEYS, PICTURE))
    is_same = (flipped == PICTURE).all((1, 2, 3))
    assert abs(is_same.mean() - 0.5) < 0.04
    mirrored = flipped[~is_same]
    assert (mirrored[:, :, ::-1] == PICTURE).all() and mirrored.dtype == jnp.uint8
    key = KEYS[int(np.argmin(is_same))]
    assert (augment.random_flip(key, augment.random_flip(key, PICTURE)) == PICTURE).all()


def test_alternating_flip_shows_each_side_in_every_other_epoch():
    flip = quick(jax.vmap(jax.vmap(augment.alternating_flip, (None, None, 0)), (0, None, None)))
    sides = np.asarray(flip(KEYS[:200], PICTURE, jnp.arange(4)))
    assert sides.dtype == np.uint8
    is_same = (sides == np.asarray(PICTURE)).all((2, 3, 4))
    assert (sides[~is_same] == np.asarray(PICTURE)[:, ::-1]).all()
    assert (is_same[:, 0] != is_same[:, 1]).all() and (is_same[:, :2] == is_same[:, 2:]).all()
    assert abs(is_same[:, 0].mean() - 0.5) < 0.12  # 200 coins: more than three deviations of 0.035


def test_shift_moves_by_every_offset_up_to_the_limit():
    dot = jnp.zeros((9, 9, 1), jnp.uint8).at[4, 4].set(1)
    moved = quick(jax.vmap(lambda key: augment.random_shift(key, dot, 2)))(KEYS)
    places, counts = np.unique(np.argwhere(np.asarray(moved))[:, 1:3], axis=0, return_counts=True)
    assert len(places) == 25 and places.min() == 2 and places.max() == 6
    assert counts.sum() == len(KEYS) and counts.min() > 40
    assert (augment.random_shift(KEYS[0], PICTURE, 0) == PICTURE).all()


def test_boxes_follow_the_law_of_the_host():
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    box = quick(jax.vmap(lambda key: jnp.stack(augment.random_box(key, 50, 40, scale, ratio))))
    on_device = np.asarray(box(KEYS))
    rng = np.random.default_rng(0)
    on_host = np.array([crops.random_box(rng, 50, 40, scale, ratio) for _ in KEYS])
    top, left, h, w = on_device.T
    assert (
        (on_device == np.round(on_device)).all()
        and on_device[:, :2].min() >= 0
        and on_device[:, 2:].min() >= 1
    )
    assert (top + h <= 50).all() and (left + w <= 40).all()
    np.testing.assert_allclose(on_device.mean(0), on_host.mean(0), atol=1.0)
    np.testing.assert_allclose(on_device.std(0), on_host.std(0), rtol=0.1)


@pytest.mark.parametrize("height, width", [(10, 1000), (1000, 9), (1, 50)])
def test_fallback_is_that_of_the_host(height, width):
    box = quick(lambda key: augment.random_box(key, height, width, (0.9, 1.0), (3 / 4, 4 / 3)))(KEYS[0])
    expected = crops.random_box(np.random.default_rng(0), height, width, (0.9, 1.0), (3 / 4, 4 / 3))
    assert tuple(map(int, box)) == expected


def test_random_resized_crop_shows_its_box_as_pillow_would():
    crop = quick(lambda key: augment.random_resized_crop(key, PICTURE, 12))
    draw = quick(lambda key: augment.random_box(key, 24, 32, (0.08, 1.0), (3 / 4, 4 / 3)))
    for key in KEYS[:8]:
        top, left, h, w = map(int, draw(key))
        box = (left, top, left + w, top + h)
        expected = Image.fromarray(np.asarray(PICTURE)).resize((12, 12), Image.Resampling.BICUBIC, box=box)
        out = crop(key)
        assert out.shape == (12, 12, 3) and out.dtype == jnp.float32 and out.min() >= 0 and out.max() <= 255
        # Pillow cuts its filter at the border of the image a little otherwise.
        assert np.abs(np.asarray(out) - np.asarray(expected)).max() < 4


def test_random_resized_crop_of_everything_is_a_plain_resize():
    square = PICTURE[:, :24]
    out = quick(lambda key: augment.random_resized_crop(key, square, 24, (1.0, 1.0), (1.0, 1.0)))(KEYS[0])
    np.testing.assert_allclose(out, square, atol=1e-3)


def test_augmentations_vmap_inside_jit():
    batch = jnp.stack([PICTURE] * 4)

    @quick
    def run(keys, images):
        one = lambda key, image: augment.random_flip(key, augment.random_resized_crop(key, image, 8))  # noqa: E731
        return augment.normalize(jax.vmap(one)(keys, images))

    out = run(KEYS[:4], batch)
    assert out.shape == (4, 8, 8, 3) and not (out[0] == out[1]).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_mixes_pairs_by_a_beta_law_and_keeps_targets_sums(alpha):
    images = jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 2, 2, 1))
    targets = jnp.eye(4)
    mixed, soft = map(np.asarray, quick(jax.vmap(lambda key: augment.mixup(key, images, targets, alpha)))(KEYS))
    share = soft[:, 0, 0]
    by_share = lambda values: np.multiply.outer(share, values) + np.multiply.outer(1 - share, values[::-1])  # noqa: E731
    np.testing.assert_allclose(soft, by_share(np.eye(4)), atol=1e-6)
    np.testing.assert_allclose(mixed, by_share(np.asarray(images)), atol=1e-6)
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > LIKELY
