"""The class token's attention, the masks that hold most of it, and their fit to objects."""

from fractions import Fraction
from itertools import combinations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate.attention_maps import best_head_jaccard, class_attention, mass_mask
from cvjax.evaluate.attention_rollout import attention_weights
from cvjax.layers.attention import SelfAttention
from cvjax.models.vit import VisionTransformer
from tests.models.drawn import random_like

MODEL = VisionTransformer(image_size=8, patch_size=4, width=12, depth=2, heads=3, num_classes=0)
IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))  # not the size that positions are made for


@pytest.fixture(scope="module")
def variables():
    return random_like(jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES))


def test_it_is_the_class_tokens_row_of_the_last_block(variables) -> None:
    def both(variables, images):
        _, state = MODEL.apply(variables, images, capture_intermediates=lambda m, _: m.name == "qkv",
                               mutable=["intermediates"])
        return (class_attention(MODEL, variables, images),
                state["intermediates"]["blocks"]["1"]["attn"]["qkv"]["__call__"][0])

    attention, qkv = jax.jit(both)(variables, IMAGES)
    assert attention.shape == (2, 3, 2, 3) and attention.dtype == jnp.float32
    queries, keys, _ = (np.asarray(x, np.float64) for x in qkv)  # (B, T, heads, D / heads)
    for image in range(2):
        for head in range(3):
            q, k = queries[image, :, head], keys[image, :, head]
            weights = np.exp(k @ q[0] / np.sqrt(4))
            expected = (weights / weights.sum())[1:].reshape(2, 3)
            # Scores of up to about 10 in float32: off by some 10 * 6e-8, a softmax's shares by as much of themselves.
            np.testing.assert_allclose(attention[image, head], expected, rtol=1e-4, atol=1e-6)
    assert np.std(attention) > 0.02  # a uniform answer would not pass unnoticed


def test_registers_are_no_patches() -> None:
    model = MODEL.clone(registers=2, prefix_positions=False)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), IMAGES))
    found, last = jax.jit(lambda variables: (  # the latter is (B, heads, 1 + 2 + 6, 9)
        class_attention(model, variables, IMAGES), attention_weights(model, variables, IMAGES)[-1]))(variables)
    np.testing.assert_array_equal(found, last[:, :, 0, 3:].reshape(2, 3, 2, 3))


def test_other_models_are_refused(variables) -> None:
    class Pixels(nn.Module):
        patch_size: int = 4
        class_token: bool = True
        prefix: int = 1

        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            return SelfAttention(3)(images[:, 0])

    with pytest.raises(ValueError, match="needs a ViT with a class token, received a Dense"):
        class_attention(nn.Dense(3), {}, IMAGES)
    with pytest.raises(ValueError, match="needs a ViT with a class token, received a VisionTransformer"):
        class_attention(MODEL.clone(class_token=False, pool="avg"), variables, IMAGES)
    with pytest.raises(ValueError, match="cannot be cut into patches of 4"):
        class_attention(MODEL, variables, IMAGES[:, :7])
    with pytest.raises(ValueError, match=r"needs 1 \+ 2x3 tokens in the last block, received 12 tokens"):
        jax.eval_shape(lambda x: class_attention(Pixels(), Pixels().init(jax.random.key(0), x), x), IMAGES)


def test_masks_by_hand() -> None:
    attention = np.array([[4, 1], [2, 1]]) / 16  # the class token keeps half: shares of the patches are doubled
    for mass, kept in ((0.5, [[1, 0], [0, 0]]), (0.51, [[1, 0], [1, 0]]), (0.6, [[1, 0], [1, 0]]),
                       (0.75, [[1, 0], [1, 0]]), (0.8, [[1, 1], [1, 0]]), (1, [[1, 1], [1, 1]])):
        np.testing.assert_array_equal(mass_mask(attention, mass), np.array(kept, bool), err_msg=str(mass))
    np.testing.assert_array_equal(mass_mask(attention), mass_mask(attention, 0.6))
    np.testing.assert_array_equal(mass_mask(np.zeros((1, 2, 2))), np.zeros((1, 2, 2), bool))
    np.testing.assert_array_equal(mass_mask(np.ones((2, 2)), 0.5), [[True, True], [False, False]])  # ties: in order


@pytest.mark.parametrize("mass", [0.25, 0.6, 0.9])
def test_no_smaller_set_holds_as_much(mass: float) -> None:
    attention = np.random.default_rng(1).random((2, 3, 2, 3)).astype(np.float32)
    masks = mass_mask(attention, mass)
    assert masks.shape == attention.shape and masks.dtype == bool
    for values, mask in zip(attention.reshape(6, 6), masks.reshape(6, 6)):
        exact = [Fraction(float(value)) for value in values]
        enough = [set(chosen) for size in range(1, 7) for chosen in combinations(range(6), size)
                  if sum(exact[i] for i in chosen) >= Fraction(mass) * sum(exact)]
        assert set(np.flatnonzero(mask)) in enough and mask.sum() == min(map(len, enough))


def test_the_rule_of_the_authors_code() -> None:
    """The authors' rule: sort ascending, and keep a patch if the sum up to and with it exceeds the mass left out."""
    attention = np.random.default_rng(2).random((4, 5, 7))
    for values, mask in zip(attention.reshape(4, -1), mass_mask(attention, 0.6).reshape(4, -1)):
        order = np.argsort(values)
        expected = np.empty(35, bool)
        expected[order] = np.cumsum(values[order] / values.sum()) > 1 - 0.6
        np.testing.assert_array_equal(mask, expected)


def test_the_best_head_is_chosen_for_each_object() -> None:
    """Patches of 2x2 pixels. Object 1 fills patch 0, object 7 patches 2 and 3 but for a void pixel."""
    label_map = np.zeros((4, 4), int)
    label_map[:2, :2], label_map[2:], label_map[3, 3] = 1, 7, 255
    heads = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [1, 0]]], bool)
    # Object 1: 4 of 8 pixels of head 0. Object 7: head 2 has 4 of its 7 pixels, head 1 has 3, the void one apart.
    empty = np.zeros((4, 4), int)
    empty[0, 0] = 255
    scores = best_head_jaccard(np.stack([heads, heads, heads[[1, 1, 1]]]), np.stack([label_map, empty, label_map]))
    np.testing.assert_allclose(scores, [(4 / 8 + 4 / 7) / 2, np.nan, (0 + 3 / 7) / 2])


def test_masks_take_the_size_of_the_truth() -> None:
    """Rows of 3 patches on 4 pixels: the centres 0.5, 1.5, 2.5, 3.5 lie in patches 0, 1, 1, 2."""
    masks = np.array([0, 1, 0], bool).reshape(1, 1, 3, 1)
    label_map = np.array([0, 1, 1, 0]).reshape(1, 4, 1)
    assert best_head_jaccard(masks, label_map) == 1
    assert best_head_jaccard(masks, label_map.repeat(5, axis=2)) == 1


@pytest.mark.parametrize("call, message", [
    (lambda: mass_mask(np.ones(3)), r"attention must be finite .* received shape \(3,\)"),
    (lambda: mass_mask(np.full((2, 2), np.nan)), "attention must be finite"),
    (lambda: mass_mask(-np.ones((2, 2))), "0 or more"),
    (lambda: mass_mask(np.ones((2, 2)), 0), r"mass must be a share in \(0, 1\], received 0"),
    (lambda: mass_mask(np.ones((2, 2)), 60), "received 60"),
    (lambda: best_head_jaccard(np.ones((1, 1, 2, 2)), np.zeros((1, 4, 4), int)), "masks must be bool .* float64"),
    (lambda: best_head_jaccard(np.ones((1, 0, 2, 2), bool), np.zeros((1, 4, 4), int)), r"bool of shape \(1, 0"),
    (lambda: best_head_jaccard(np.ones((1, 1, 2, 2), bool), np.zeros((2, 4, 4), int)), "B = 1, received int64"),
    (lambda: best_head_jaccard(np.ones((1, 1, 2, 2), bool), np.zeros((1, 4, 4))), "label_map must be integers"),
    (lambda: best_head_jaccard(np.ones((1, 1, 2, 2), bool), np.full((1, 4, 4), 256)), r"in \[0, 255\], received 256"),
])
def test_errors_say_what_came(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
