"""The losses of the region-based detectors against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.detection import proposal_losses, region_losses, smooth_l1


def test_smooth_l1_is_a_parabola_that_goes_on_as_a_line():
    # beta 1: 0.25^2 / 2, 2 - 1/2; beta 1/9: 9/2 * 0.04^2, 0.5 - 1/18; at beta itself both are beta / 2
    np.testing.assert_allclose(smooth_l1(jnp.float32([0.25, -2, 0, 1])), [0.03125, 1.5, 0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(smooth_l1(jnp.float32([0.04, -0.5, 1 / 9]), 1 / 9), [0.0072, 4 / 9, 1 / 18], rtol=1e-6)
    slope = jax.vmap(jax.grad(lambda d: smooth_l1(d, 0.5)))(jnp.float32([-3, -0.25, 0, 0.25, 3]))
    np.testing.assert_allclose(slope, [-1, -0.5, 0, 0.5, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="beta must be above 0, received 0"):
        smooth_l1(jnp.zeros(2), 0)


LOG3, NAN = np.log(3), np.nan
# Of the first image three samples count, of which two are positive; of the second one, negative; of the third none.
VALID = np.array([[True, True, True, False], [True, False, False, False], [False] * 4])
POSITIVE = np.array([[True, True, False, False], [False] * 4, [False] * 4])


def test_a_proposal_network_s_sums_are_divided_by_the_samples():
    logits = np.float32([[LOG3, -LOG3, 0, NAN], [LOG3, NAN, NAN, NAN], [NAN] * 4])
    codes, targets = np.full((3, 4, 4), NAN, np.float32), np.zeros((3, 4, 4), np.float32)
    codes[0, 0], codes[0, 1], targets[0, 1] = [1, 0, 0, -2], [0.5, 3, 3, 3], [0.5, 3, 3, 2.5]
    objectness, boxes = proposal_losses(logits, codes, targets, VALID, POSITIVE, beta=1.0)
    # -ln 3/4, -ln 1/4, -ln 1/2; a negative of probability 3/4
    np.testing.assert_allclose(objectness, [np.log(4 / 3 * 4 * 2) / 3, np.log(4), 0], rtol=1e-6)
    # 1/2 + 3/2 and 1/8
    np.testing.assert_allclose(boxes, [2.125 / 3, 0, 0], rtol=1e-6)
    # 9/2 becomes 1 - 1/18 and 2 - 1/18, and 1/2 - 1/18
    _, boxes = proposal_losses(logits, codes, targets, VALID, POSITIVE)
    np.testing.assert_allclose(boxes, [(3.5 - 3 / 18) / 3, 0, 0], rtol=1e-6)


def test_a_region_learns_its_class_and_the_box_of_that_class():
    logits = np.full((3, 4, 3), NAN, np.float32)
    logits[0, :3] = np.log([[1, 2, 5], [2, 1, 1], [4, 3, 3]])
    logits[1, 0] = np.log([1, 1, 2])
    labels = np.int32([[1, 0, 1, 1], [1, 1, 1, 1], [0] * 4])
    codes, targets = np.full((3, 4, 3, 4), NAN, np.float32), np.zeros((3, 4, 4), np.float32)
    codes[0, 0, 2], codes[0, 1, 1] = [1, 0, 0, -2], [0, 0, 0, 0.5]
    classes, boxes = region_losses(logits, codes, labels, targets, VALID, POSITIVE)
    # class 1 is output 2: 5/8, class 0 output 1: 1/4, background 4/10; and 1/4
    np.testing.assert_allclose(classes, [-np.log(5 / 8 / 4 * 0.4) / 3, np.log(4), 0], rtol=1e-6)
    np.testing.assert_allclose(boxes, [2.125 / 3, 0, 0], rtol=1e-6)
    _, boxes = region_losses(logits, codes, labels, targets, VALID, POSITIVE, beta=0.5)
    np.testing.assert_allclose(boxes, [(0.75 + 1.75 + 0.25) / 3, 0, 0], rtol=1e-6)


def test_what_does_not_count_has_no_gradient_though_it_is_nan():
    logits = np.where(VALID, 0.5, NAN).astype(np.float32)
    codes = np.where(POSITIVE[..., None], 0.5, NAN) * np.ones(4, np.float32)

    classes = np.broadcast_to(logits[..., None], (*logits.shape, 2))

    @jax.jit
    @jax.grad
    def gradient(given):
        logits, codes, classes = given
        first = proposal_losses(logits, codes, jnp.zeros_like(codes), VALID, POSITIVE)
        second = region_losses(classes, jnp.stack([codes] * 2, axis=2), jnp.zeros(VALID.shape, jnp.int32),
                               jnp.zeros_like(codes), VALID, POSITIVE)
        return sum(x.sum() for x in (*first, *second))

    by_logits, by_codes, by_classes = gradient((logits, codes, classes))
    assert ((by_logits != 0) == VALID).all() and ((by_classes != 0).all(-1) == VALID).all()
    assert ((by_codes != 0).all(-1) == POSITIVE).all()
    assert all(np.isfinite(x).all() for x in (by_logits, by_codes, by_classes))
