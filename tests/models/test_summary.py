"""The layer table against hand arithmetic, XLA's own count, gradients and published figures."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.conv import Conv
from cvjax.layers.feature_maps import NamedMaps, feature_maps, with_maps
from cvjax.layers.pool import AveragePool, MaxPool
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel
from cvjax.models.summary import NOT_CALLED, Layer, summarize, table


class Chain(nn.Module):
    """Convolutions without padding, grouped too, and a dense layer; nothing else costs anything."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Conv(8, (3, 2), 2, padding="VALID", use_bias=False, name="first")(images)
        x = nn.Conv(12, (3, 3), padding="VALID", feature_group_count=4, use_bias=False, name="grouped")(x)
        return nn.Dense(5, use_bias=False, name="head")(x.reshape(len(x), -1))


class Inception(nn.Module):
    """Branches of several sizes side by side, one pooled, one dilated, one looking aside."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branches = [Conv(2, 1, name="one")(x), Conv(2, 3, padding=1, name="three")(nn.relu(x)),
                    Conv(2, (1, 5), padding=(0, 2), name="wide")(x),
                    Conv(2, 3, padding=2, dilation=2, name="dilated")(x),
                    nn.avg_pool(jnp.pad(x, ((0, 0), (4, 0), (0, 0), (0, 0))), (5, 1), (1, 1))]
        return jnp.concatenate(branches, axis=-1)


class Residual(nn.Module):
    """A strided branch and the parameter-free shortcut of CIFAR's ResNets; a norm over the channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(12, 3, 1, padding=1, name="conv2")(nn.gelu(Conv(12, 3, 2, padding=1, name="conv1")(x)))
        y = nn.Dense(12, name="pointwise")(y)
        return nn.relu(y + x[:, ::2, ::2]) * nn.sigmoid(y)


class Branches(ImageModel):
    """All of them in a row, then a head."""

    map_names = ("last",)

    norm: bool = True

    def setup(self) -> None:
        self.stem = Conv(4, 5, 2, padding=1)
        self.norm1 = nn.LayerNorm()
        self.pool = AveragePool(3, 2)
        self.inception = Inception()
        self.residual = Residual()
        self.last = Conv(3, 3, 1, padding=1)
        self.head = nn.Dense(2)

    @with_maps
    def __call__(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        x = self.stem(images)
        x = self.pool(self.norm1(x) if self.norm else x)
        x = yield "last", self.last(self.residual(self.inception(x)))
        return self.head(x.mean(axis=(1, 2)))


def rows(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, Layer]:
    return {layer.path: layer for layer in summarize(model, shape).layers}


def test_every_number_of_a_small_chain_by_hand() -> None:
    summary = summarize(Chain(), (9, 11, 3))
    assert summary.layers == [
        Layer("first", "Conv", (1, 4, 5, 8), 3 * 2 * 3 * 8, 4 * 5 * 8 * (3 * 2 * 3), (3, 2), (2, 2)),
        Layer("grouped", "Conv", (1, 2, 3, 12), 3 * 3 * 2 * 12, 2 * 3 * 12 * (3 * 3 * 2), (7, 6), (2, 2)),
        Layer("head", "Dense", (1, 5), 72 * 5, 72 * 5, None, None)]
    assert summary.parameters == 144 + 216 + 360 and summary.macs == 2880 + 1296 + 360


def test_multiplications_are_half_of_the_compilers_flops() -> None:
    images = jnp.zeros((1, 9, 11, 3))
    variables = jax.eval_shape(Chain().init, jax.random.key(0), images)
    flops = jax.jit(Chain().apply).lower(variables, images).compile().cost_analysis()["flops"]
    assert 2 * summarize(Chain(), (9, 11, 3)).macs == flops


def test_receptive_fields_through_branches_are_what_the_gradient_sees() -> None:
    size = (129, 142)
    model = Branches(norm=False)  # a norm makes gradients of either sign, which may cancel
    images = jax.random.uniform(jax.random.key(0), (1, *size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(1), images)
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.05), shapes)  # positive: no two paths cancel

    def centre(images: jax.Array) -> jax.Array:
        last = feature_maps(model, variables, images)["last"]
        return last[0, last.shape[1] // 2, last.shape[2] // 2].sum()

    seen = np.abs(jax.jit(jax.grad(centre))(images))[0].sum(axis=-1)
    spans = tuple(int(np.ptp(np.flatnonzero(seen.sum(axis=axis)))) + 1 for axis in (1, 0))
    assert max(spans) < min(size)  # not cut off
    assert rows(model, (*size, 3))["last"].receptive_field == spans and spans[0] != spans[1]


def test_a_norm_over_the_channels_looks_no_further() -> None:
    plain, normed = rows(Branches(norm=False), (64, 64, 3)), rows(Branches(), (64, 64, 3))
    for path, layer in plain.items():
        assert normed[path] == layer
    assert normed["norm1"].receptive_field == (5, 5) and normed["norm1"].macs == 0 and normed["norm1"].parameters == 8


def test_rows_of_branches() -> None:
    layers = rows(Branches(), (64, 64, 3))
    assert list(layers) == [
        "stem", "norm1", "pool", "inception", *(f"inception/{n}" for n in ("one", "three", "wide", "dilated")),
        *(f"residual/{n}" for n in ("conv1", "conv2", "pointwise")), "last", "head"]
    # Pools by itself, so it has a row; a branch of it looks up by four rows, and the others down by two.
    assert layers["inception"] == Layer("inception", "Inception", (1, 15, 15, 12), 0, 0, (33, 25), (4, 4))
    assert layers["pool"] == Layer("pool", "AveragePool", (1, 15, 15, 4), 0, 0, (9, 9), (4, 4))
    assert layers["inception/wide"].receptive_field == (9, 25)
    assert layers["inception/dilated"].receptive_field == (25, 25)
    assert layers["residual/conv1"].stride == (8, 8) == layers["last"].stride
    assert layers["head"].receptive_field is None and layers["head"].stride is None


class Calls(nn.Module):
    """Cases that a plain list of layers would get wrong."""

    def setup(self) -> None:
        self.conv = Conv(4, 3, padding=1)
        self.unused = Conv(4, 3)
        self.pool = MaxPool(3, 1, 1)
        self.dropout = nn.Dropout(0.5)
        self.same = nn.Dense(4)
        self.scale = self.param("scale", nn.initializers.ones, (4,))

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        if self.is_initializing():
            self.unused(images)
        x = self.dropout(self.pool(self.conv(images)), deterministic=not train)
        x = self.same(jax.jit(nn.relu)(self.same(x))) * self.scale
        gate = nn.sigmoid(x.mean(axis=(1, 2), keepdims=True))
        return self.pool(x * gate)


def test_shared_called_twice_and_not_called() -> None:
    summary = summarize(Calls(), (8, 8, 3))
    assert [(layer.path, layer.type, layer.parameters, layer.macs) for layer in summary.layers] == [
        ("", "Calls", 4, 0), ("conv", "Conv", 112, 64 * 108), ("pool", "MaxPool", 0, 0), ("same", "Dense", 20, 64 * 16),
        ("same", "Dense", 0, 64 * 16), ("pool", "MaxPool", 0, 0), ("unused", NOT_CALLED, 112, 0)]
    assert summary.parameters == 4 + 112 + 20 + 112
    assert [layer.receptive_field for layer in summary.layers] == [
        None, (3, 3), (5, 5), (5, 5), (5, 5), None, None]  # the gate saw everything


class Once(nn.Module):
    """Applies one operation to what has had a 3x3 window."""

    operation: Any

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return Conv(8, 1, name="after")(self.operation(Conv(8, 3, padding=1)(images)))


@pytest.mark.parametrize("name, operation, field", [
    ("nothing", lambda x: x, (3, 3)), ("maximum over channels", lambda x: x.max(axis=-1, keepdims=True), (3, 3)),
    ("split", lambda x: jnp.split(x, 2, axis=-1)[1], (3, 3)), ("crop", lambda x: x[:, 1:-1], (3, 3)),
    ("shifted", lambda x: x[:, 1:] + x[:, :-1], (4, 3)), ("strided", lambda x: x[:, ::2, 1::2], (3, 3)),
    ("crop somewhere", lambda x: jax.lax.dynamic_slice_in_dim(x, jnp.int32(x[0, 0, 0, 0]), 4, axis=1), None),
    ("groups", lambda x: x.reshape(1, 8, 8, 2, 4).sum(axis=3), (3, 3)), ("transpose", lambda x: x.swapaxes(1, 2), None),
    ("mean of rows", lambda x: x.mean(axis=1)[..., None], None), ("running sum", lambda x: jnp.cumsum(x, axis=1), None),
    ("flip", lambda x: x[:, ::-1], None), ("roll", lambda x: jnp.roll(x, 1, axis=2), None),
    ("mixed places", lambda x: jnp.einsum("bhwc,hk->bkwc", x, jnp.ones((8, 8))), None),
    ("loop", lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jnp.pad(x, 1)[1:-1, 2:, 1:-1, 1:-1], x), None),
    ("remat", jax.checkpoint(lambda x: nn.max_pool(x, (2, 2))), (4, 4)),
    ("branches", lambda x: x + nn.avg_pool(x, (3, 3), padding="SAME"), (5, 5))])
def test_what_an_operation_does_to_the_field(name, operation, field) -> None:
    assert rows(Once(operation), (8, 8, 3))["after"].receptive_field == field


def test_a_transposed_convolution_multiplies_its_input_once() -> None:
    class Up(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            return nn.ConvTranspose(5, (2, 2), (2, 2), name="up")(images)

    layer = rows(Up(), (6, 6, 3))["up"]
    assert layer.shape == (1, 12, 12, 5) and layer.macs == 36 * 3 * 5 * 4 and layer.receptive_field is None


def test_loops_count_each_round() -> None:
    class Loop(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            kernel = self.param("kernel", nn.initializers.ones, (3, 3))
            return jax.lax.scan(lambda x, _: (x @ kernel, None), images, None, length=7)[0]

    assert summarize(Loop(), (4, 4, 3)).macs == 7 * 16 * 9


@pytest.mark.parametrize("remat", ["none", "full"])
def test_vit_small_has_the_known_cost(remat) -> None:
    """4.6 GMAC and 22.05 M parameters (timm); attention's two products belong to the attention itself."""
    summary = summarize(create_model("vit_small_patch16_224", remat=remat), (224, 224, 3))
    tokens, width = 197, 384
    block = tokens * width * (3 + 1 + 4 + 4) * width + 2 * tokens * tokens * width
    assert summary.macs == 196 * 768 * width + 12 * block + width * 1000
    assert summary.parameters == 22_050_664
    attention = {layer.path: layer for layer in summary.layers}["blocks/3/attn"]
    assert (attention.type, attention.shape, attention.parameters) == ("SelfAttention", (1, tokens, width), 0)
    assert attention.macs == 2 * tokens**2 * width and attention.receptive_field is None


def test_resnet50_has_the_known_cost_and_field() -> None:
    """4.09 GMAC and 25.557 M parameters (torchvision); 427 pixels with the stride in the 3x3 convolution."""
    summary = summarize(create_model("resnet50"), (224, 224, 3))
    assert summary.macs == 4_089_184_256 and summary.parameters == 25_557_032
    last = [layer for layer in summary.layers if layer.type == "Conv"][-1]
    assert last.receptive_field == (427, 427) and last.stride == (32, 32) and last.shape == (1, 7, 7, 2048)


def test_the_table_is_aligned_text_with_totals() -> None:
    text = table(summarize(Chain(), (9, 11, 3))).splitlines()
    assert text[0].split() == ["layer", "type", "output", "parameters", "MACs", "receptive", "field", "stride"]
    assert text[2].split() == ["first", "Conv", "4x5x8", "144", "2,880", "3x2", "2"]
    assert text[4].split() == ["head", "Dense", "5", "360", "360", "-", "-"]
    assert text[-1].split() == ["total", "720", "4,536"] and len(text) == 7
    assert {line.index("Conv") for line in text[2:4]} == {text[4].index("Dense")} == {text[0].index("type")}
    assert "(model)" in table(summarize(Calls(), (8, 8, 3)))


@pytest.mark.parametrize("shape", [(8, 8), (0, 8, 3), (1, 8, 8, 3)])
def test_image_shapes_are_checked(shape) -> None:
    with pytest.raises(ValueError, match=r"image_shape must be \(H, W, C\)"):
        summarize(Chain(), shape)
