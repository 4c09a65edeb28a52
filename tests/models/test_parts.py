"""Masking, position embeddings and drop path, the parts whose mistakes a trained model would hide."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers import transformer
from cvjax.layers.drop_path import DropPath
from cvjax.layers.transformer import Blocks
from cvjax.ops.masking import gather_tokens, num_visible, random_masking
from cvjax.ops.patches import patchify, unpatchify
from cvjax.ops.position import resize_positions, sincos_2d


@pytest.mark.parametrize("ratio, visible", [(0.75, 49), (0.0, 196), (0.9, 19), (0.5, 98), (0.99, 1)])
def test_every_example_hides_exactly_its_share(ratio: float, visible: int) -> None:
    noise = jax.random.uniform(jax.random.key(0), (8, 196))
    masking = random_masking(noise, ratio)
    assert masking.keep.shape == (8, visible) and num_visible(196, ratio) == visible
    np.testing.assert_array_equal(masking.mask.sum(axis=1), 196 - visible)
    kept = np.zeros((8, 196))
    np.put_along_axis(kept, np.asarray(masking.keep), 1.0, axis=1)
    np.testing.assert_array_equal(masking.mask, 1.0 - kept)


def test_every_patch_is_hidden_equally_often_and_independently() -> None:
    draws, ratio = 4000, 0.75
    mask = np.asarray(random_masking(jax.random.uniform(jax.random.key(0), (draws, 16)), ratio).mask)
    deviation = np.sqrt(ratio * (1 - ratio) / draws)
    assert np.abs(mask.mean(axis=0) - ratio).max() < 4 * deviation
    correlation = np.corrcoef(mask.T)[~np.eye(16, dtype=bool)]
    assert np.abs(correlation + 1 / 15).max() < 4 / np.sqrt(draws)  # drawing without return: -1 / (L - 1)
    assert len(np.unique(mask, axis=0)) > 1000


def test_restore_undoes_the_shuffle() -> None:
    tokens = jax.random.normal(jax.random.key(0), (5, 12, 3))
    noise = jax.random.uniform(jax.random.key(1), (5, 12))
    keep, restore, mask = random_masking(noise, 0.5)
    everything = random_masking(noise, 0.0).keep
    np.testing.assert_array_equal(keep, everything[:, :6])
    np.testing.assert_array_equal(jnp.sort(restore, axis=1), np.tile(np.arange(12), (5, 1)))
    np.testing.assert_array_equal(gather_tokens(gather_tokens(tokens, everything), restore), tokens)
    np.testing.assert_array_equal(mask == 1, restore >= 6)


def test_patches_are_rows_of_row_column_channel() -> None:
    images = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    for index in range(6):
        row, column = divmod(index, 3)
        patch = images[:, 4 * row:4 * row + 4, 4 * column:4 * column + 4]
        np.testing.assert_array_equal(patches[:, index], patch.reshape(2, 48))
    np.testing.assert_array_equal(unpatchify(patches, 4, 8, 12), images)
    with pytest.raises(ValueError, match="do not tile an image of 8x8 pixels"):
        unpatchify(patches, 4, 8, 8)


def test_fixed_positions_are_the_formula() -> None:
    """Column then row, each as sines then cosines of the coordinate over 10000^(2i/(D/2))."""
    rows, columns, dim = 3, 5, 16
    table = sincos_2d(dim, (rows, columns)).reshape(rows, columns, 2, 2, dim // 4)
    for row in range(rows):
        for column in range(columns):
            for half, coordinate in enumerate((column, row)):
                for i in range(dim // 4):
                    angle = coordinate / 10000 ** (2 * i / (dim / 2))
                    expected = np.sin(angle), np.cos(angle)
                    np.testing.assert_allclose(table[row, column, half, :, i], expected, atol=1e-7)


def test_fixed_positions_of_another_grid_sample_the_same_field() -> None:
    trained = sincos_2d(32, (4, 6))
    np.testing.assert_array_equal(sincos_2d(32, (4, 6), trained_grid=(4, 6)), trained)
    coarse = sincos_2d(32, (2, 3), trained_grid=(4, 6)).reshape(2, 3, 2, 2, 8)
    angle = np.arctan2(coarse[..., 0, 0], coarse[..., 1, 0])  # the fastest frequency is the coordinate itself
    np.testing.assert_allclose(angle[:, :, 0], [[0.5, 2.5, 4.5 - 2 * np.pi]] * 2, atol=1e-6)
    np.testing.assert_allclose(angle[:, :, 1].T, [[0.5, 2.5]] * 3, atol=1e-6)
    odd = sincos_2d(32, (12, 18), trained_grid=(4, 6)).reshape(12, 18, 32)  # centres of threes fall on the trained
    np.testing.assert_allclose(odd[1::3, 1::3].reshape(24, 32), trained, atol=1e-6)


def test_learned_positions_keep_what_is_smooth() -> None:
    table = jnp.asarray(sincos_2d(8, (6, 6)))
    np.testing.assert_array_equal(resize_positions(table, (6, 6), (6, 6)), table)
    constant = jnp.full((36, 8), 1.5)
    np.testing.assert_allclose(resize_positions(constant, (6, 6), (9, 4)), np.full((36, 8), 1.5), rtol=1e-6)
    mirrored = resize_positions(table.reshape(6, 6, 8)[::-1].reshape(36, 8), (6, 6), (9, 4)).reshape(9, 4, 8)[::-1]
    np.testing.assert_allclose(mirrored.reshape(36, 8), resize_positions(table, (6, 6), (9, 4)), atol=1e-6)


def test_drop_path_drops_whole_examples_and_keeps_the_mean() -> None:
    layer, x = DropPath(0.3), jnp.ones((20_000, 2, 3))
    y = np.asarray(layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    assert np.all(y == y[:, :1, :1])
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.7], rtol=1e-6)
    deviation = np.sqrt(0.3 / 0.7 / len(x))
    assert abs(y.mean() - 1.0) < 4 * deviation
    np.testing.assert_array_equal(layer.apply({}, x, train=False), x)
    np.testing.assert_array_equal(DropPath(0.0).apply({}, x, train=True), x)  # needs no random stream


def test_drop_path_grows_with_depth() -> None:
    rates = []

    def watch(module: object, _: str) -> bool:
        rates.extend([module.rate] if isinstance(module, DropPath) else [])
        return False

    x, blocks = jnp.zeros((2, 3, 8)), Blocks(depth=3, heads=2, drop_path=0.4)
    shapes = jax.eval_shape(lambda: blocks.init(jax.random.key(0), x, train=False))
    jax.eval_shape(lambda variables: blocks.apply(variables, x, train=False, capture_intermediates=watch), shapes)
    np.testing.assert_allclose(rates, [0.0, 0.0, 0.2, 0.2, 0.4, 0.4])


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_that_drops_everything_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"^drop path {rate}: the rate must be in \[0, 1\)"):
        DropPath(rate).apply({}, jnp.ones((2, 3)), train=True, rngs={"dropout": jax.random.key(0)})


def test_scanned_blocks_start_with_train_too() -> None:
    blocks, x = Blocks(2, heads=2, scan=True), jnp.ones((2, 3, 8))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    started, plain = (jax.jit(partial(blocks.init, train=train))(keys, x) for train in (True, False))
    jax.tree.map(np.testing.assert_array_equal, started, plain)


@pytest.mark.parametrize("scan, rotary", [(False, False), (True, False), (True, True)])
def test_a_hidden_token_changes_nothing(scan: bool, rotary: bool, monkeypatch) -> None:
    """Neither the others' outputs nor any gradient, up to the rounding of other products."""
    blocks, x = Blocks(2, heads=2, scan=scan, qk_norm=True), jax.random.normal(jax.random.key(1), (2, 3, 8))
    angles = jax.random.normal(jax.random.key(2), (1, 3, 2)) if rotary else None
    params = jax.jit(partial(blocks.init, train=False))(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)

    def numbers() -> Any:
        def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            outputs = blocks.apply(params, x, train=True, angles=angles)
            return jnp.sin(outputs[-1]).sum() + outputs[0].sum(), outputs

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    plain = numbers()
    seen = []
    monkeypatch.setattr(transformer, "hidden_tokens", lambda *arguments: seen.append(arguments) or 1)
    hiding = numbers()
    assert seen == [((2, 3, 8), 2, jnp.float32, "auto")]
    # Gradients are sums of at most 30 numbers around 1, each with some roundings of 6e-8.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=30 * 1e-6), hiding, plain)


def test_attention_maps_leave_hidden_tokens_out(monkeypatch) -> None:
    blocks, x = Blocks(1, heads=2), jnp.ones((2, 3, 8))
    monkeypatch.setattr(transformer, "hidden_tokens", lambda *arguments: 1)
    params = blocks.init(jax.random.key(0), x, train=False)["params"]
    _, kept = blocks.apply({"params": params}, x, train=False, mutable="intermediates")
    assert kept["intermediates"]["0"]["attn"]["queries"][0].shape == (2, 3, 2, 4)
