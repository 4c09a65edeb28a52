"""What Swin V2 has besides the first Swin; its numbers are compared with timm's in tests/parity."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate.attention_rollout import attention_weights
from cvjax.interop import load_weights, to_state_dict
from cvjax.models import create_model
from cvjax.models.swin_v2 import CosineAttention, CosineWindowAttention, SwinTransformerV2
from cvjax.train.optim import decay_mask, leaf_names
from tests.models.drawn import balanced_like

SIZE = (12, 18)  # maps of 6x9 and 3x5: shifted windows, padding, and an odd map to merge


def swin(**fields: Any) -> SwinTransformerV2:
    return SwinTransformerV2(**dict(image_size=SIZE, patch_size=2, width=8, depths=(2, 1), heads=(2, 4), window=3,
                                    num_classes=3) | fields)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, *SIZE, 3))


@pytest.fixture(scope="module")
def variables(images: jax.Array) -> Any:
    return balanced_like(jax.eval_shape(swin().init, jax.random.key(0), images))


@pytest.mark.slow
def test_every_parameter_receives_a_gradient_and_remat_changes_none(variables: Any, images: jax.Array) -> None:
    def gradients(model: SwinTransformerV2) -> Any:
        return jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, images, train=True)).sum()))(variables)

    plain, remat = (gradients(swin(remat=flag)) for flag in ("none", "full"))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(remat), strict=True):
        assert jnp.abs(a).max() > 1e-5, jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())


@pytest.mark.slow
def test_a_fresh_network_is_its_patches_and_merges(images: jax.Array) -> None:
    """Every branch ends in a norm whose scale starts at zero."""
    model = swin(depths=(2,), heads=(2,))
    variables = model.init(jax.random.key(0), images)
    shorter = swin(depths=(0,), heads=(2,))
    kept = {name: variables["params"][name] for name in ("patch_embed", "norm", "head")}
    ours, expected = jax.jit(model.apply)(variables, images), shorter.apply({"params": kept}, images)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@jax.jit
def attention(scale: float, x: jax.Array) -> tuple[jax.Array, Any]:
    module = CosineAttention(2, jnp.float32)
    params = balanced_like(jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(()))["params"])
    params["logit_scale"] = jnp.full(2, scale)
    output, state = module.apply({"params": params}, x, jnp.zeros(()), mutable=["intermediates"])
    q, k = (state["intermediates"][name][0] for name in ("queries", "keys"))
    return output, jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5


def test_scores_are_cosines_over_a_temperature_of_at_least_a_hundredth() -> None:
    """Section 3.2, eq. 2."""
    x = jax.random.normal(jax.random.key(0), (1, 5, 6))
    _, scores = attention(math.log(20), x)
    assert 1 < jnp.abs(scores).max() <= 20 * (1 + 1e-5)
    for scale in (5.0, 50.0):  # beyond log(100), 4.6
        _, colder = attention(scale, x)
        np.testing.assert_allclose(colder, 5 * scores, rtol=1e-4, atol=1e-4)  # of two products in another order
    gradient = jax.grad(lambda scale: jnp.square(attention(scale, x)[0]).sum())
    assert gradient(50.0) == 0 and gradient(1.0) != 0


def test_the_length_of_a_token_does_not_matter_to_its_scores() -> None:
    """Keys have no bias, so they only get longer."""
    x = jax.random.normal(jax.random.key(0), (1, 5, 6))
    module = CosineAttention(2, jnp.float32)
    variables = balanced_like(jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(())))
    both = module.apply(variables, jnp.concatenate([x, x * jnp.array([1, 3, 1, 1, 1])[:, None]]), jnp.zeros(()),
                        mutable=["intermediates"])[1]["intermediates"]["keys"][0]
    np.testing.assert_allclose(both[1], both[0], atol=1e-6)


def test_biases_of_a_larger_window_are_those_of_the_trained_one_and_between_them() -> None:
    """Section 3.3: windows of 3 and of 5 share offsets when both are measured by the first."""
    def biases(window: int) -> np.ndarray:
        module = CosineWindowAttention(2, (window, window), False, jnp.float32, (3, 3))
        x = jnp.zeros((1, window, window, 4))
        params = balanced_like(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
        table = module.apply({"params": params}, method="biases")
        return np.asarray(table).reshape(2 * window - 1, 2 * window - 1, 2)

    np.testing.assert_allclose(biases(5)[2:-2, 2:-2], biases(3), atol=1e-5)
    assert 0 < biases(5).min() and biases(5).max() < 16 and biases(3).std() > 0.1


def test_weights_of_one_window_serve_another(variables: Any, images: jax.Array) -> None:
    """No parameter has a window's size, and a window measured by itself is the trained one."""
    given = to_state_dict(variables, swin())
    for fields in (dict(window=5, pretrained_windows=(3, 3)), dict(image_size=64)):
        loaded = load_weights(swin(**fields), given)
        assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(variables)))
    assert swin(pretrained_windows=(3, 3)).trained_windows == swin().trained_windows == [(3, 3), (3, 3)]


def test_the_authors_names(variables: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = swin()
    theirs = to_state_dict(variables, model, "official")
    attn = {name.removeprefix("layers.0.blocks.0.attn."): array.shape for name, array in theirs.items()
            if name.startswith("layers.0.blocks.0.attn.")}
    assert attn == {"qkv.weight": (24, 8), "q_bias": (8,), "v_bias": (8,), "logit_scale": (2, 1, 1),
                    "cpb_mlp.0.weight": (512, 2), "cpb_mlp.0.bias": (512,), "cpb_mlp.2.weight": (2, 512),
                    "proj.weight": (8, 8), "proj.bias": (8,), "relative_position_index": (9, 9),
                    "relative_coords_table": (1, 5, 5, 2)}
    assert theirs["layers.0.downsample.norm.weight"].shape == (16,) and "head.weight" in theirs
    table = theirs["layers.0.blocks.0.attn.relative_coords_table"][0]
    np.testing.assert_allclose(table[0, :, 1], np.array([-1, -math.log(5, 9), 0, math.log(5, 9), 1]) * math.log(9, 8),
                               rtol=1e-6)
    again = load_weights(model, theirs)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(variables)))
    assert not caplog.records
    load_weights(swin(window=5), theirs)  # buffers of another window
    ignored = caplog.records[-1].message.partition("ignored: ")[2].split(", ")
    assert "layers.0.blocks.0.attn.relative_coords_table" in ignored and "layers.0.blocks.1.attn_mask" in ignored


def test_attention_weights_can_be_looked_at(variables: Any, images: jax.Array) -> None:
    layers = jax.jit(partial(attention_weights, swin()))(variables, images)
    assert [x.shape for x in layers] == [(24, 2, 9, 9), (24, 2, 9, 9), (8, 4, 9, 9)]
    np.testing.assert_allclose(layers[1].sum(-1), 1, rtol=1e-5)


def test_what_makes_positions_does_not_decay(variables: Any) -> None:
    names, decays = (jax.tree.leaves(of(variables["params"])) for of in (leaf_names, decay_mask))
    kernels = {name for name in names if name.endswith("kernel")}
    assert {name for name, does in zip(names, decays) if does} == {name for name in kernels if "cpb_mlp" not in name}


def test_bfloat16_computes_near_float32(variables: Any, images: jax.Array) -> None:
    exact, rough = (jax.jit(swin(dtype=dtype).apply)(variables, images) for dtype in (jnp.float32, jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert 1e-4 < jnp.abs(rough - exact).max() / jnp.abs(exact).max() < 5e-2


def test_impossible_requests_are_refused() -> None:
    def init(**fields: Any) -> Any:
        return jax.eval_shape(swin(**fields).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    with pytest.raises(ValueError, match=r"pretrained_windows \(3,\): there must be one of at least 1 for each of 2"):
        init(pretrained_windows=(3,))
    with pytest.raises(ValueError, match="width 8 cannot be split into 3 heads"):
        init(heads=(3, 3))
    with pytest.raises(ValueError, match=r"window \(3, 3, 3\): it must be one number, or 2, one for every stage"):
        init(window=(3, 3, 3))


def test_windows_of_the_published_names() -> None:
    model = create_model("swinv2_base_window12to24_192to384")
    assert model.windows == [(24, 24)] * 3 + [(12, 12)]
    assert model.trained_windows == [(12, 12)] * 3 + [(6, 6)]
    assert create_model("swinv2_tiny_window16_256").trained_windows == [(16, 16)] * 3 + [(8, 8)]
