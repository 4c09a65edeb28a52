"""MAE's target and loss against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.losses.mae import masked_reconstruction_loss, patch_statistics, pixel_target


def test_loss_is_the_mean_over_masked_patches_only():
    target = jnp.zeros((2, 3, 2))
    prediction = jnp.array([[[1, 1], [2, 4], [100, 100]], [[3, 1], [9, 9], [9, 9]]], jnp.float32)
    mask = jnp.array([[1, 1, 0], [1, 0, 0]], jnp.float32)
    # Patches' mean squares: 1 and (4 + 16) / 2 = 10; (9 + 1) / 2 = 5.
    np.testing.assert_array_equal(masked_reconstruction_loss(prediction, target, mask), [5.5, 5.0])


def test_visible_patches_get_no_gradient():
    numbers = np.random.default_rng(0)
    prediction, target = jnp.asarray(numbers.normal(size=(2, 1, 4, 3)), jnp.float32)
    mask = jnp.array([[1.0, 0.0, 0.0, 1.0]])
    gradient = jax.grad(lambda x: masked_reconstruction_loss(x, target, mask).sum())(prediction)
    assert (np.abs(gradient[0, [0, 3]]) > 0).all() and (gradient[0, [1, 2]] == 0).all()


def test_half_precision_predictions_are_compared_in_float32():
    prediction = jnp.full((1, 1, 1), 300.0, jnp.float16)  # its square overflows float16
    assert float(masked_reconstruction_loss(prediction, jnp.zeros((1, 1, 1)), jnp.ones((1, 1)))[0]) == 90000


def test_patch_statistics_use_the_unbiased_variance():
    mean, std = patch_statistics(jnp.array([[[1.0, 2.0, 3.0, 6.0]]]))
    # Deviations -2, -1, 0, 3: squares sum to 14, over 4 - 1.
    np.testing.assert_allclose(mean, [[[3.0]]])
    np.testing.assert_allclose(std, [[[np.sqrt(14 / 3 + 1e-6)]]], rtol=1e-6)


def test_normalised_target():
    image = jnp.array([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 2, 2, 1)
    target = pixel_target(image, 2, normalize=True)
    np.testing.assert_allclose(target, np.array([[[-2, -1, 0, 3]]]) / np.sqrt(14 / 3 + 1e-6), rtol=1e-6)
    np.testing.assert_array_equal(pixel_target(image, 2, normalize=False), [[[1, 2, 3, 6]]])


def test_a_flat_patch_has_target_zero():
    target = pixel_target(jnp.full((1, 4, 4, 3), 0.3), 2, normalize=True)
    # A mean of 12 equal float32 may be off by a unit of 2**-24; divided by sqrt(1e-6) that is 6e-5.
    np.testing.assert_allclose(target, np.zeros((1, 4, 12)), atol=1e-4)


def test_target_is_float32_and_in_patch_order():
    image = jnp.arange(16, dtype=jnp.bfloat16).reshape(1, 4, 4, 1)
    target = pixel_target(image, 2, normalize=False)
    assert target.dtype == jnp.float32
    np.testing.assert_array_equal(target[0], [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
