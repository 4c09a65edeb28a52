"""Optimizers: which leaves decay, how layers are scaled, and the first update worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model
from cvjax.train.optim import decay_mask, leaf_names, make_optimizer, scale_by_layer, vit_layer_decay


def params_of(name, *noise, **fields):
    model = create_model(name, image_size=8, patch_size=4, width=8, heads=2, **fields)
    images = jnp.zeros((1, 8, 8, model.in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), images, *noise)["params"]


def undecayed(params) -> set[str]:
    names, mask = leaf_names(params), decay_mask(params)
    return {name for name, decays in zip(jax.tree.leaves(names), jax.tree.leaves(mask)) if not decays}


BLOCK = {"norm1/scale", "norm1/bias", "attn/qkv/bias", "attn/proj/bias", "norm2/scale", "norm2/bias",
         "mlp/fc1/bias", "mlp/fc2/bias"}


def test_undecayed_leaves_of_a_vit_with_all_options():
    params = params_of("vit_tiny_patch16_224", depth=2, num_classes=3, qk_norm=True, layer_scale=0.1)
    special = {f"attn/{x}_norm/{leaf}" for x in "qk" for leaf in ("scale", "bias")} | {"ls1/gamma", "ls2/gamma"}
    expected = {f"blocks/{i}/{leaf}" for i in range(2) for leaf in BLOCK | special}
    assert undecayed(params) == expected | {
        "cls_token", "pos_embed", "patch_embed/proj/bias", "norm/scale", "norm/bias", "head/bias"}


def test_undecayed_leaves_of_a_masked_autoencoder():
    params = params_of("mae_vit_tiny_patch16", jnp.zeros((1, 4)), depth=1, decoder_width=8, decoder_depth=1,
                       decoder_heads=2)
    blocks = {f"{part}/blocks/0/{leaf}" for part in ("encoder", "decoder") for leaf in BLOCK}
    assert undecayed(params) == blocks | {
        "encoder/cls_token", "encoder/patch_embed/proj/bias", "encoder/norm/scale", "encoder/norm/bias",
        "decoder/mask_token", "decoder/embed/bias", "decoder/norm/scale", "decoder/norm/bias", "decoder/pred/bias"}


def test_layer_wise_decay_is_the_table_of_mae_fine_tuning():
    """He et al. 2022, Table 9 and their lrd.py: 0.65 ** (layers - layer), with the embeddings at layer 0."""
    params = params_of("vit_tiny_patch16_224", depth=4, num_classes=3, pool="avg")
    scale = vit_layer_decay(0.65, 4)
    table = {"patch_embed": 0.65**5, "cls_token": 0.65**5, "pos_embed": 0.65**5, "blocks/0": 0.65**4,
             "blocks/1": 0.65**3, "blocks/2": 0.65**2, "blocks/3": 0.65, "fc_norm": 1.0, "head": 1.0}
    found = {}
    for name in jax.tree.leaves(leaf_names(params)):
        place = "/".join(name.split("/")[:2]) if name.startswith("blocks") else name.split("/")[0]
        assert found.setdefault(place, scale(name)) == scale(name)
    assert found == pytest.approx(table)


def test_layer_scale_multiplies_updates():
    tree = {"blocks": {"0": {"w": jnp.ones(2)}, "1": {"w": jnp.ones(2)}}, "head": {"w": jnp.ones(2)}}
    transform = scale_by_layer(vit_layer_decay(0.5, 2))
    updates, _ = transform.update(tree, transform.init(tree))
    assert [float(u[0]) for u in jax.tree.leaves(updates)] == [0.25, 0.5, 1.0]


PARAMS = {"kernel": np.array([[1.0, -2.0], [3.0, 0.5]]), "bias": np.array([1.0, -1.0])}
GRADIENTS = {"kernel": np.array([[0.3, -0.4], [0.0, 1.2]]), "bias": np.array([0.5, -0.6])}


def first_update(name, **options):
    params, gradients = (jax.tree.map(jnp.float32, tree) for tree in (PARAMS, GRADIENTS))
    optimizer = make_optimizer(name, lambda step: 0.01, **options)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return updates


def test_first_adamw_step():
    """With m = 0.1 g and v = 0.05 g**2, both bias-corrected to g and g**2, the step is g / (|g| + 1e-8)."""
    updates = first_update("adamw", weight_decay=0.1, b2=0.95)
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        g, p = GRADIENTS[name], PARAMS[name]
        np.testing.assert_allclose(updates[name], -0.01 * (g / (np.abs(g) + 1e-8) + decay * p), rtol=1e-5, atol=1e-9)


def test_first_sgd_step():
    """Nesterov: the trace is g, the step g + 0.9 g; decay belongs to the gradient."""
    updates = first_update("sgd", weight_decay=0.1)
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        np.testing.assert_allclose(updates[name], -0.019 * (GRADIENTS[name] + decay * PARAMS[name]), rtol=1e-5)


def test_second_adamw_step_uses_b2():
    params = {"w": jnp.zeros((1, 1))}
    optimizer = make_optimizer("adamw", lambda step: 1.0, b2=0.5)
    state = optimizer.init(params)
    for gradient in (1.0, 3.0):
        updates, state = optimizer.update({"w": jnp.full((1, 1), gradient)}, state, params)
    m = (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.9**2)
    v = (0.5 * 0.5 * 1 + 0.5 * 9) / (1 - 0.5**2)
    assert float(updates["w"][0, 0]) == pytest.approx(-m / v**0.5, rel=1e-5)


def test_clipping_limits_the_norm_of_all_leaves_together():
    norm = np.sqrt(sum((g**2).sum() for g in GRADIENTS.values()))
    clipped, plain = first_update("sgd", clip_norm=norm / 4), first_update("sgd")
    for name in PARAMS:
        np.testing.assert_allclose(clipped[name], plain[name] / 4, rtol=1e-5, atol=1e-9)
    loose = first_update("sgd", clip_norm=2 * norm)
    np.testing.assert_allclose(loose["kernel"], plain["kernel"], rtol=1e-6)


def test_schedule_is_read_at_the_step():
    params = {"w": jnp.ones((1, 1))}
    optimizer = make_optimizer("sgd", lambda step: jnp.where(step == 0, 0.0, 1.0))
    state = optimizer.init(params)
    first, state = optimizer.update(params, state, params)
    second, _ = optimizer.update(params, state, params)
    assert float(first["w"][0, 0]) == 0 and float(second["w"][0, 0]) != 0


def test_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown optimizer 'adam': it must be one of adamw, sgd"):
        make_optimizer("adam", lambda step: 0.1)
