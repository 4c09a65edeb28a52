import numpy as np
import pytest
from sklearn.datasets import load_digits

from cvjax.losses.mae import pixel_target
from cvjax.visualize import reconstruction_images, reconstruction_panel
from tests.visualize.figures import misplaced, read, texts


def example(count=2, channels=1, seed=0):
    """Digits, three quarters of their 2x2 patches removed, and an unrelated prediction."""
    rng = np.random.default_rng(seed)
    tint = np.linspace(1, 0.5, channels, dtype=np.float32)
    images = np.float32(load_digits().images[:count] / 16)[..., None] * tint
    mask = np.stack([rng.permutation(16) < 12 for _ in range(count)]).astype(np.float32)
    return images, mask, rng.uniform(0.1, 0.9, size=(count, 16, 4 * channels)).astype(np.float32)


def removed_pixels(mask):
    """`(B, 16)` -> `(B, 8, 8, 1)`: each entry covers 2x2 pixels."""
    return mask.reshape(-1, 4, 4).repeat(2, axis=1).repeat(2, axis=2)[..., None] == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_removed_is_grey_and_visible_is_exact(channels):
    images, mask, prediction = example(channels=channels)
    masked, pasted = reconstruction_images(images, mask, prediction, patch_size=2, normalized_pixels=False)
    removed = np.broadcast_to(removed_pixels(mask), images.shape)
    assert (masked[removed] == 0.5).all()
    np.testing.assert_array_equal(masked[~removed], images[~removed])
    np.testing.assert_array_equal(pasted[~removed], images[~removed])
    assert pasted.dtype == masked.dtype == np.float32


def test_a_predicted_patch_lies_where_it_belongs():
    images, mask, prediction = example(channels=3)
    mask[0] = np.arange(16) == 6  # row 1, column 2 of the 4x4 grid
    _, pasted = reconstruction_images(images, mask, prediction, patch_size=2, normalized_pixels=False)
    np.testing.assert_array_equal(pasted[0, 2:4, 4:6], prediction[0, 6].reshape(2, 2, 3))


@pytest.mark.parametrize("normalized_pixels", [False, True])
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.1]))])
def test_a_perfect_prediction_gives_the_original(normalized_pixels, mean, std):
    images, mask, _ = example(channels=3)
    target = np.asarray(pixel_target((images - mean) / std, 2, normalize=normalized_pixels))
    _, pasted = reconstruction_images(
        images, mask, target, patch_size=2, normalized_pixels=normalized_pixels, pixel_mean=mean,
        pixel_std=std,
    )
    np.testing.assert_allclose(pasted, images, atol=1e-5)


def test_predictions_beyond_white_are_clipped():
    images, mask, prediction = example()
    _, pasted = reconstruction_images(images, mask, prediction + 5, patch_size=2, normalized_pixels=False)
    assert (pasted[removed_pixels(mask)] == 1).all()


@pytest.mark.parametrize("count, columns, channels", [(1, 1, 1), (2, 1, 3), (8, 2, 1), (9, 3, 3)])
def test_the_png_shows_each_pixel_enlarged_and_unblurred(tmp_path, saved, count, columns, channels):
    images, mask, prediction = example(count, channels)
    settings = dict(patch_size=2, normalized_pixels=False)
    reconstruction_panel(tmp_path / "panel.png", images, mask, prediction, title="digits", **settings)
    assert misplaced(saved[0]) == []
    png = read(tmp_path / "panel.png")
    side, gap, margin, rows = 96, 6, 18, -(-count // columns)  # 8 pixels, 12 times enlarged
    first = 16 + 2 + gap + 16  # a line of title, and the headings
    width = columns * (3 * side + 2 * gap + margin) + margin
    assert png.shape == (first + rows * (side + gap) - gap + margin, width, 3)

    masked, pasted = reconstruction_images(images, mask, prediction, **settings)
    for number in range(count):
        row, column = divmod(number, columns)
        top = first + row * (side + gap)
        for place, picture in enumerate((images[number], masked[number], pasted[number])):
            left = margin + column * (3 * side + 2 * gap + margin) + place * (side + gap)
            shown = png[top : top + side, left : left + side]
            enlarged = np.kron(np.broadcast_to(picture, (8, 8, 3)), np.ones((12, 12, 1)))
            np.testing.assert_allclose(shown, enlarged, atol=1 / 255)
    assert (png[first:, :margin] == 1).all()  # the margin is white


def test_the_title_tells_of_true_statistics(tmp_path, saved):
    images, mask, prediction = example(8)
    for normalized_pixels in (False, True):
        reconstruction_panel(
            tmp_path / "p.png", images, mask, prediction,
            patch_size=2, normalized_pixels=normalized_pixels, title="MAE on digits",
        )
        joined = " ".join(texts(saved.pop()))
        assert "MAE on digits" in joined and joined.count("original masked reconstruction") == 2
        assert ("reconstruction uses each patch's true mean and variance" in joined) == normalized_pixels


def test_pyplot_is_left_alone(tmp_path):
    import matplotlib.pyplot as plt

    images, mask, prediction = example()
    before = plt.get_fignums()
    reconstruction_panel(
        tmp_path / "p.png", images, mask, prediction, patch_size=2, normalized_pixels=True, title="t"
    )
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(images=np.zeros((2, 8, 8, 2))), r"prediction must be \(B, L, p\*p\*C\)"),
        (dict(images=np.full((2, 8, 8, 1), 255.0)), r"\[0, 1\], received 255 to 255"),
        (dict(images=np.full((2, 8, 8, 1), np.nan)), r"\[0, 1\], received nan"),
        (dict(mask=np.zeros((2, 15))), r"mask must be \(B, L\) = \(2, 16\), received \(2, 15\)"),
        (dict(prediction=np.zeros((2, 16, 3))), r"= \(2, 16, 4\), received \(2, 16, 3\)"),
        (dict(patch_size=3), "multiples of 3"),
    ],
)
def test_errors_say_what_came_and_what_is_allowed(change, message):
    images, mask, prediction = example()
    arguments = dict(images=images, mask=mask, prediction=prediction, patch_size=2, normalized_pixels=False)
    with pytest.raises(ValueError, match=message):
        reconstruction_images(**arguments | change)
