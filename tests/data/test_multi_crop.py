"""DINO's views: their sizes, the frequency and order of operations, and crops of squeezed pictures."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cvjax.data.augment import View, changed_crops, multi_crop, random_resized_crop, view
from cvjax.data.augment.multi_crop import GLOBAL_1, GLOBAL_2, LOCAL
from cvjax.data.crops import RandomResizedCrop, SeveralCrops, Squeeze
from cvjax.data.decode import LazyImage
from tests.data.pictures import encode, photo

STILL = View(size=16, scale=(1.0, 1.0), flip=False, jitter=(0, 0, 0, 0), grayscale=0.0, blur=0.0)
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
COUNT = 400


def views_of(recipe: View, image=PHOTO, count: int = COUNT) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: view(key, image, recipe)))(keys))


def share(happened) -> float:
    return float(np.mean(happened))


def about(probability: float):
    """Within four standard deviations of a share of COUNT draws: one false alarm in 16,000."""
    return pytest.approx(probability, abs=4 * (probability * (1 - probability) / COUNT) ** 0.5)


def test_the_published_recipes():
    """Numbers of Caron et al.'s DataAugmentationDINO."""
    assert GLOBAL_1 == View(224, (0.4, 1.0), True, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, (0.1, 2.0), 0.0)
    assert GLOBAL_2 == View(224, (0.4, 1.0), True, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, (0.1, 2.0), 0.2)
    assert LOCAL == View(96, (0.05, 0.4), True, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.5, (0.1, 2.0), 0.0)


def test_a_whole_image_that_nothing_happens_to_is_itself():
    """A square of ratio 1 is the only box of the whole area; others do not fit and the whole image is the fallback."""
    out = views_of(STILL, count=8)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.broadcast_to(PHOTO, out.shape), atol=1e-3)  # of 255: float32 resizing


def test_half_of_the_views_are_mirrored():
    out = views_of(replace(STILL, flip=True))
    mirrored = np.abs(out - PHOTO[:, ::-1]).max((1, 2, 3)) < 0.01
    assert share(mirrored) == about(0.5)
    assert share(mirrored | (np.abs(out - PHOTO).max((1, 2, 3)) < 0.01)) == 1


@pytest.mark.parametrize("recipe, probability", [
    (replace(STILL, jitter=(0.4, 0, 0, 0)), 0.8), (replace(STILL, grayscale=0.2), 0.2),
    (replace(STILL, blur=0.1), 0.1 * (1 - 0.1 / 1.9)),
    (replace(STILL, blur=1.0), 1.0), (replace(STILL, solarize=0.2), 0.2),
], ids=["jitter", "grey", "blur", "always blur", "solarise"])
def test_each_change_happens_as_often_as_it_should(recipe, probability):
    changed = np.abs(views_of(recipe) - PHOTO).max((1, 2, 3)) > 0.01
    # A blur whose deviation is drawn below 0.2 pixels, one in 19, changes less than a hundredth of a level.
    assert share(changed) == (about(probability) if probability < 1 else pytest.approx(1 - 0.1 / 1.9, abs=0.05))


@pytest.mark.slow
def test_solarising_comes_last_and_inverts_from_128_on():
    """A flat image of 100 is jittered in brightness; values that are then 128 or more are inverted."""
    flat = np.full((8, 8, 3), 100, np.uint8)
    jittered = replace(STILL, size=8, jitter=(0.4, 0, 0, 0), jitter_chance=1.0)
    plain, solar = (views_of(r, flat)[:, 0, 0, 0] for r in (jittered, replace(jittered, solarize=1.0)))
    assert plain.min() < 70 and plain.max() > 130
    np.testing.assert_allclose(solar, np.where(plain >= 128, 255 - plain, plain), atol=1e-3)


@pytest.mark.slow
def test_grey_images_stay_grey_and_lose_nothing():
    grey = PHOTO[..., :1]
    out = views_of(replace(GLOBAL_2, size=16, blur=0.0), grey, count=16)
    assert out.shape == (16, 16, 16, 1) and out.min() >= 0 and out.max() <= 255
    np.testing.assert_allclose(views_of(replace(STILL, grayscale=1.0), grey, 2), np.broadcast_to(grey, (2, 16, 16, 1)),
                               atol=1e-3)


def test_views_come_by_size_each_with_draws_of_its_own():
    small = replace(LOCAL, size=8, blur=0.0)
    recipes = [replace(r, size=16, blur=0.0) for r in (GLOBAL_1, GLOBAL_2)]
    crop = jax.jit(partial(multi_crop, global_views=recipes, local_view=small, local_crops=3))
    global_views, local_views = crop(jax.random.key(1), PHOTO)
    assert global_views.shape == (2, 16, 16, 3) and local_views.shape == (3, 8, 8, 3)
    flat = [np.asarray(v).ravel() for v in local_views]
    assert not any(np.array_equal(a, b) for i, a in enumerate(flat) for b in flat[:i])
    again = crop(jax.random.key(1), PHOTO)
    jax.tree.map(np.testing.assert_array_equal, again, [global_views, local_views])
    assert not np.array_equal(crop(jax.random.key(2), PHOTO)[0], global_views)
    assert len(jax.eval_shape(lambda: multi_crop(jax.random.key(0), PHOTO, recipes, small, 0))) == 1


def test_global_views_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size.*\[16, 32\]"):
        multi_crop(jax.random.key(0), PHOTO, [STILL, replace(STILL, size=32)], STILL, 1)


def test_a_crop_of_a_squeezed_picture_is_the_crop_of_the_picture():
    """A smooth picture of 40x80 pixels, squeezed into 64x64: the same boxes, the same content, but for the resizing."""
    y, x = np.mgrid[:40, :80]
    picture = np.stack([2 * x, 4 * y, 127 + 100 * np.sin(x / 12)], -1).astype(np.uint8)
    squeezed = Squeeze(64)(picture)
    assert squeezed["image"].shape == (64, 64, 3) and squeezed["extent"].tolist() == [40, 80]
    crop = jax.jit(jax.vmap(lambda key, image, extent: random_resized_crop(key, image, 16, (0.3, 1.0), extent=extent),
                            (0, None, None)), static_argnames=())
    keys = jax.random.split(jax.random.key(0), 20)
    direct = crop(keys, jnp.asarray(picture), jnp.asarray([40.0, 80.0]))
    through = crop(keys, jnp.asarray(squeezed["image"]), jnp.asarray(squeezed["extent"]))
    # Gradients of up to 8 levels a pixel, and edges of half a pixel: the middles agree within a level or two.
    difference = np.abs(np.asarray(direct) - np.asarray(through))[:, 2:-2, 2:-2]
    assert difference.max() < 4 and difference.mean() < 0.7
    wrong = crop(keys, jnp.asarray(squeezed["image"]), jnp.asarray([64.0, 64.0]))
    assert np.abs(np.asarray(direct) - np.asarray(wrong)).mean() > 5, "without the extent they are others"


def test_squeezing_gives_about_what_pillow_gives():
    """About as in tests/data/test_resize.py: 3 to 4 grey levels lie between Pillow's own filters on such a picture."""
    picture = photo(60, 100)
    expected = np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BICUBIC))
    assert np.abs(Squeeze(48)(picture)["image"].astype(int) - expected).mean() < 2


@pytest.mark.slow
def test_changed_crops_are_the_views_of_multi_crop_without_its_boxes():
    """With the boxes that `multi_crop` draws cut out beforehand, both give the same views to the last bit."""
    recipe, local = replace(STILL, scale=(0.3, 0.8), flip=True, solarize=0.5), replace(STILL, size=8, scale=(0.2, 0.4))
    key = jax.random.key(3)
    wanted = multi_crop(key, PHOTO, (recipe, STILL), local, 3)

    def cut(key, recipe):
        return random_resized_crop(jax.random.split(key, 6)[0], PHOTO, recipe.size, recipe.scale)

    first, second, rest = jax.random.split(key, 3)
    crops = [jnp.stack([cut(first, recipe), cut(second, STILL)]),
             jnp.stack([cut(k, local) for k in jax.random.split(rest, 3)])]
    for found, expected in zip(changed_crops(key, crops, (recipe, STILL), local), wanted, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)  # of 255: vmap may sum a resizing in another order
    assert len(changed_crops(key, crops[:1], (recipe, STILL), local)) == 1


SEVERAL = SeveralCrops((("global", RandomResizedCrop(12, (0.4, 1.0)), 2),
                        ("local", RandomResizedCrop(6, (0.1, 0.3)), 3)))


def test_several_crops_are_single_ones_of_a_picture_that_is_decoded_once(monkeypatch):
    picture = encode(photo(40, 50))
    found = SEVERAL(picture, np.random.default_rng(5))
    assert {name: x.shape for name, x in found.items()} == {"global": (2, 12, 12, 3), "local": (3, 6, 6, 3)}
    rng = np.random.default_rng(5)
    for (name, crop, count) in SEVERAL.crops:  # a PNG is never decoded smaller, so each agrees to the last bit
        np.testing.assert_array_equal(found[name], [crop(picture, rng) for _ in range(count)])
    again = SEVERAL(picture, np.random.default_rng(5))
    assert all(np.array_equal(found[name], again[name]) for name in found)

    opened, decode = [], LazyImage.pixels
    monkeypatch.setattr(LazyImage, "pixels", lambda self, target=None: opened.append(target) or decode(self, target))
    SEVERAL(picture, np.random.default_rng(5))
    assert len(opened) == 1


def test_crops_from_the_picture_are_sharper_than_crops_from_a_square():
    """A quarter of the area of a picture of 600 pixels, seen at 200: a square of 300 has blurred it."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    crop = RandomResizedCrop(200, (0.25, 0.25), ratio=(1.0, 1.0))
    direct = SeveralCrops((("global", crop, 1),))(noise, np.random.default_rng(0))["global"][0]
    squeezed = crop(Squeeze(300)(noise)["image"], np.random.default_rng(0))

    def energy(image):
        return float((np.diff(image.astype(float), axis=0) ** 2).mean())

    assert energy(squeezed) < 0.9 * energy(direct)
