"""In bfloat16 every long sum, of gradients too, is float32: of ones, a bfloat16 sum would stop growing at 256."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead

FEW = 16  # terms that a bfloat16 sum may have: those of a small window

MODELS = {
    "resnet18": {}, "resnet50": dict(depths=(1, 1)), "seresnetaa50d": dict(depths=(1, 1)),
    "resnetblur50d": dict(depths=(1, 1), gate="eca", normalization="group"),
    "convnextv2_tiny": dict(depths=(1,), widths=(8,)), "lenet5": {}, "alexnet": {}, "vgg11": {},
    "vit_tiny_patch16_224": dict(depth=1, layer_scale=0.1, qk_norm=True),
    "swin_tiny_patch4_window7_224": dict(depths=(1, 2), heads=(3, 6)),
    "swinv2_tiny_window8_256": dict(depths=(1, 2), heads=(3, 6)), "resnetv2_50x1_bit": dict(depths=(1, 1)),
    "convnext_tiny": dict(depths=(1, 1, 1, 1)),
    "vgg11_bn": {}, "googlenet_lrn": {}, "densenet121": dict(depths=(2, 1)), "airbench94": {}, "resnet9": {}, "mlp": {},
    "linear": {}, "mae_vit_tiny_patch16": dict(depth=1, decoder_depth=1), "fcn_resnet50": {},
}


def sums(jaxpr: Any) -> Iterator[tuple[int, str]]:
    """Terms and place of each sum of bfloat16 numbers in a program."""
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sums(inner)
        if equation.primitive.name == "reduce_sum" and equation.invars[0].aval.dtype == jnp.bfloat16:
            terms = equation.invars[0].aval.size // max(equation.outvars[0].aval.size, 1)
            yield terms, f"{equation.source_info.name_stack}"


def long_sums(model: Any, *inputs: jax.ShapeDtypeStruct) -> set[str]:
    variables = dict(jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x), *inputs))
    params = variables.pop("params")

    def loss(params: Any, state: Any, *x: jax.Array) -> jax.Array:
        outputs = model.apply({"params": params, **state}, *x, train=True, mutable=[*state, "intermediates"],
                              rngs={"dropout": jax.random.key(0)})
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(outputs[0]))

    program = jax.make_jaxpr(jax.grad(loss))(params, variables, *inputs)
    return {place for terms, place in sums(program.jaxpr) if terms > FEW}


@pytest.mark.parametrize("name", MODELS)
def test_no_long_sum_is_bfloat16(name):
    model = create_model(name, dtype=jnp.bfloat16, **MODELS[name])
    height, width = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    images = jax.ShapeDtypeStruct((32, height, width, model.in_channels), jnp.float32)
    noise = [jax.ShapeDtypeStruct((32, 196), jnp.float32)] if name.startswith("mae") else []
    assert long_sums(model, images, *noise) == set()


def test_nor_in_dinos_head():
    model = DINO(create_model("resnet20", num_classes=0, dtype=jnp.bfloat16),
                 DINOHead(64, batch_norm=True, norm_last_layer=False, dtype=jnp.bfloat16))
    assert long_sums(model, [jax.ShapeDtypeStruct((32, 2, 32, 32, 3), jnp.float32)]) == set()


def test_a_bfloat16_sum_is_found():
    from flax import linen as nn

    class Biased(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(3, dtype=jnp.bfloat16)(x)

    assert long_sums(Biased(), jax.ShapeDtypeStruct((32, 4), jnp.float32))
