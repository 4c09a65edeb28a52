"""The dense probe: its numbers by hand, sizes of images, and that its backbone is frozen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from cvjax.models.dense_probe import DenseProbe
from cvjax.models.fcn import resize_bilinear
from tests.models.drawn import balanced_like

VIT = dict(backbone="vit_tiny_patch16_224", backbone_fields=FrozenDict(patch_size=8, width=16, depth=2, heads=2,
                                                                       registers=2))
RESNET = dict(backbone="resnet18", backbone_fields=FrozenDict(width=4, depths=(1, 1)))


def probe(**fields: Any) -> DenseProbe:
    return DenseProbe(**dict(num_classes=3, image_size=16) | fields)


def variables_of(model: DenseProbe) -> Any:
    return balanced_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3))))


def draw(*size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)


def test_patch_tokens_after_the_last_norm_are_scored():
    """Without the class token and the registers, in rows of patches."""
    model, images = probe(**VIT), draw(16, 24)
    variables = variables_of(model)
    params, stats = variables["params"], variables["batch_stats"]["norm"]

    def tokens(model: DenseProbe) -> jax.Array:
        return model.network.tokens(images)

    found, seen = jax.jit(lambda v: (model.apply(v, images), model.apply(v, method=tokens)))(variables)
    patches = np.asarray(seen)[:, 3:].reshape(2, 2, 3, 16)
    normed = (patches - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    scores = normed @ params["score"]["kernel"][0, 0] + params["score"]["bias"]
    np.testing.assert_allclose(found, resize_bilinear(jnp.asarray(scores), (16, 24)), atol=1e-4)  # scores of about 10


@pytest.mark.parametrize("fields", [VIT, RESNET, dict(VIT, map="blocks/0"), dict(RESNET, map="layer1")])
def test_any_size_gives_a_score_for_each_pixel(fields):
    model = probe(**fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    assert jax.eval_shape(model.apply, shapes, jnp.zeros((2, 21, 35, 3))).shape == (2, 21, 35, 3)
    backbone = shapes["params"]["backbone"]
    assert "layer2" in backbone or fields.get("map") == "layer1" or "cls_token" in backbone


@pytest.mark.parametrize("fields", [pytest.param(VIT, marks=pytest.mark.slow), RESNET], ids=["vit", "resnet"])
def test_neither_gradients_nor_statistics_reach_the_backbone(fields):
    model, images = probe(**fields), draw(16, 16)
    variables = variables_of(model)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits, state = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum(), state

    gradient, state = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient["backbone"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves({name: gradient[name] for name in ("norm", "score")}))
    before = variables["batch_stats"]
    assert np.any(state["batch_stats"]["norm"]["mean"] != before["norm"]["mean"])
    if "backbone" in before:
        jax.tree.map(np.testing.assert_array_equal, state["batch_stats"]["backbone"], before["backbone"])


@pytest.mark.parametrize("fields, words", [
    (dict(backbone="linear"), "linear names no maps: it must be a ViT or a network that does"),
    (dict(RESNET, map="layer9"), "no map layer9: the model names stem, layer1, layer2"),
])
def test_what_has_no_map_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        variables_of(probe(**fields))
