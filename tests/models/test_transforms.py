"""Every transform of JAX on every family: what each gives agrees with gradients, and exported programs with the model.

Networks are small, float32 and in evaluation mode; `jit` is part of every one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from cvjax.ops import cpu_convolution

SMALL_VIT = dict(patch_size=8, width=8, depth=1, heads=2)
SMALL_MAPS = dict(backbone="resnet18", backbone_fields=dict(depths=(1, 1), width=4))

FAMILIES: dict[str, dict[str, Any]] = {  # name -> fields; images of 16 pixels where no other size is given
    "linear": {}, "mlp": dict(hidden=(8,)), "lenet5": {}, "alexnet": dict(widths=(4,) * 5, fc_width=8, image_size=67),
    "alexnet_grouped": dict(widths=(4,) * 5, fc_width=8, image_size=67), "vgg11_bn": dict(depths=(1, 1), width=4,
                                                                                         fc_width=8),
    "googlenet": dict(inceptions=(("3a", (4, 2, 4, 2, 4, 4)), ("4a", (4, 2, 4, 2, 4, 4)), ("5a", (4, 2, 4, 2, 4, 4)))),
    "googlenet_lrn": dict(inceptions=(("3a", (4, 2, 4, 2, 4, 4)),), image_size=32),
    "resnet18": dict(depths=(1, 1), width=4), "resnext50_32x4d": dict(depths=(1,), width=8, groups=2),
    "densenet121": dict(depths=(1, 2), growth_rate=4, stem_width=4), "resnet9": dict(channels=(4, 4, 4, 4)),
    "airbench94": dict(widths=(4, 4, 4)), "vit_tiny_patch16_224": SMALL_VIT, "vit_base_patch16_gap_224": SMALL_VIT,
    "mae_vit_tiny_patch16": dict(SMALL_VIT, decoder_width=8, decoder_depth=1, decoder_heads=2),
    "swin_tiny_patch4_window7_224": dict(patch_size=2, width=8, depths=(2,), heads=(2,), window=2),
    "swinv2_tiny_window8_256": dict(patch_size=2, width=8, depths=(2,), heads=(2,), window=2),
    "resnetv2_50": dict(depths=(1,), width=4, weight_standardization=1e-8, zero_padded_pool=True),
    "convnext_tiny": dict(patch_size=2, widths=(4, 8), depths=(1, 1), kernel_size=3, layer_scale=0.5),
    "dino": {}, "fcn": SMALL_MAPS, "fcn8s_vgg16": dict(depths=(1, 1, 1), width=4, fc_width=8, skips=1),
    "rcnn_alexnet": dict(backbone="lenet5", backbone_fields={}, crop_size=16, context=2),
    "sppnet": dict(SMALL_MAPS, map="layer2", fc_width=8, levels=(2, 1)),
    "fast_rcnn": dict(SMALL_MAPS, map="layer2", fc_width=8, bins=2),
    "faster_rcnn": dict(SMALL_MAPS, maps=("layer1", "layer2"), pyramid_width=4, anchor_sizes=((8,), (16,), (32,)),
                        rpn_width=4, head_width=8, image_size=32),
    "yolo": dict(SMALL_MAPS, head_width=4, head_depth=1),
    "fast_yolov1": dict(layers=((4, 3, 1), None, (4, 3, 1), None), fc_widths=(8,)),
}


def network(name: str) -> tuple[Callable[[Any, jax.Array], jax.Array], Any, np.ndarray]:
    """`value(params, images) -> (B, ...)` of a small network, its parameters, and two images."""
    fields: dict[str, Any] = dict(image_size=16, in_channels=1 if name in ("lenet5", "rcnn_alexnet") else 3)
    fields |= FAMILIES[name]
    draw = np.random.default_rng(0)
    images = np.float32(draw.standard_normal((2, fields["image_size"], fields["image_size"], fields["in_channels"])))
    noise = np.float32(draw.random(4))  # of the autoencoder's patches

    def inputs(images: jax.Array) -> tuple[Any, ...]:
        if name == "dino":
            return [images[:, None], images[:, None, ::2, ::2]],
        return (images, jnp.broadcast_to(noise, (images.shape[0], 4))) if name.startswith("mae") else (images,)

    if name == "dino":
        backbone = create_model("vit_tiny_patch16_224", num_classes=0, image_size=16, **SMALL_VIT)
        model: Any = DINO(backbone, DINOHead(out_dim=4, hidden=8, bottleneck=4))
    else:
        classes = {} if name.startswith(("mae", "rcnn")) else dict(num_classes=3)
        model = create_model(name, **fields, **classes)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs(images)))
    params = jax.tree.map(lambda x: np.float32(draw.standard_normal(x.shape) / max(1, x.size // x.shape[-1]) ** 0.5),
                          variables["params"])
    rest = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), {k: v for k, v in variables.items() if k != "params"})

    def value(params: Any, images: jax.Array) -> jax.Array:
        """One number for each image."""
        outputs = model.apply({"params": params, **rest}, *inputs(images), train=False)
        return sum(jnp.sin(x).reshape(images.shape[0], -1).mean(1) for x in jax.tree.leaves(outputs))

    return value, params, images


@pytest.fixture(autouse=True)
def large_maps(monkeypatch):
    """Small maps take the way of large ones on a CPU."""
    monkeypatch.setattr(cpu_convolution, "WORTHWHILE", 0)


def dot(a: Any, b: Any) -> float:
    return sum(float(np.vdot(np.asarray(x, np.float64), np.asarray(y, np.float64)))
               for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def transformed(value: Callable[[Any, jax.Array], jax.Array], params: Any, along: Any, images: jax.Array
                ) -> dict[str, Any]:
    """The same few numbers by all ways."""
    def loss(params: Any) -> jax.Array:
        return value(params, images).sum()

    def moved(steps: jax.Array) -> Any:
        return jax.tree.map(lambda x, d: x + steps.sum() * d, params, along)

    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    shared, split = PartitionSpec(), PartitionSpec("data")
    by_devices = jax.shard_map(lambda p, x: jax.lax.psum(value(p, x).sum(), "data"), mesh=mesh,
                               in_specs=(shared, split), out_specs=shared)
    two = jax.tree.map(lambda x, d: jnp.stack([x, x + d]), params, along)
    return {
        "value": value(params, images),
        "vmap over images": jax.vmap(lambda x: value(params, x[None])[0])(images),
        "scan": jax.lax.scan(lambda carry, x: (carry, value(params, x[None])[0]), 0, images)[1],
        "vmap over parameters": jax.vmap(loss)(two),
        "one by one": jnp.stack([loss(params), loss(moved(jnp.ones(1)))]),
        "grad": jax.grad(loss)(params),
        "checkpoint": jax.grad(jax.checkpoint(loss))(params),
        "shard_map": jax.grad(by_devices)(params, images),
        "jvp": jax.jvp(loss, (params,), (along,))[1],
        "jacfwd": jax.jacfwd(lambda steps: loss(moved(steps)))(jnp.zeros(2)),
        "jvp of grad": jax.jvp(jax.grad(loss), (params,), (along,))[1],
        "vjp of jvp": jax.grad(lambda p: jax.jvp(loss, (p,), (along,))[1])(params),
    }


def arguments(name: str) -> tuple[Callable[[Any, jax.Array], jax.Array], tuple[Any, Any, np.ndarray]]:
    value, params, images = network(name)
    draw = np.random.default_rng(1)
    return value, (params, jax.tree.map(lambda x: np.float32(0.1 * draw.standard_normal(x.shape)), params), images)


SHORT = ("linear", "mlp", "lenet5", "resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "rcnn_alexnet",
         "fast_rcnn")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name not in SHORT else name
                                  for name in FAMILIES])
def test_all_transforms_lower(name):
    """For a CPU and for a TPU: nothing is compiled. The batch is symbolic where programs are exported."""
    value, inputs = arguments(name)
    jax.jit(partial(transformed, value)).trace(*inputs).lower(lowering_platforms=("cpu", "tpu"))
    params, _, images = inputs
    batch, = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    jax.export.export(jax.jit(partial(outputs_and_gradient, value)), platforms=("cpu", "tpu"))(params, images)


def outputs_and_gradient(value: Callable[[Any, jax.Array], jax.Array], params: Any, images: jax.Array) -> Any:
    return value(params, images), jax.grad(lambda p: value(p, images).sum())(params)


# Compiled are one network of each family; the others differ in parts that lower all the same.
TWINS = ("alexnet", "googlenet_lrn", "resnext50_32x4d", "vit_base_patch16_gap_224", "fcn8s_vgg16", "fast_yolov1")
COMPILED = [name if name in ("lenet5", "vit_tiny_patch16_224") else pytest.param(name, marks=pytest.mark.slow)
            for name in FAMILIES if name not in TWINS]


@pytest.mark.parametrize("name", COMPILED)
def test_all_transforms_agree(name):
    value, inputs = arguments(name)
    params, along, images = inputs
    found = jax.device_get(jax.jit(partial(transformed, value))(*inputs))

    def same(a: Any, b: Any) -> None:
        """To the rounding of float32 sums in another order."""
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5 * max(1, np.abs(y).max()))

    same([found["vmap over images"], found["scan"]], [found["value"]] * 2)
    same(found["vmap over parameters"], found["one by one"])
    same([found["checkpoint"], found["shard_map"]], [found["grad"]] * 2)
    same([found["jvp"], found["jacfwd"]], [dot(found["grad"], along), np.full(2, dot(found["grad"], along))])
    same(found["jvp of grad"], found["vjp of jvp"])
    assert np.abs(found["jvp"]) > 0


@pytest.mark.parametrize("name", COMPILED)
def test_a_program_for_any_batch_gives_the_models_numbers(name):
    value, (params, _, images) = arguments(name)
    both, (batch,) = jax.jit(partial(outputs_and_gradient, value)), jax.export.symbolic_shape("batch")
    exported = jax.export.export(both)(params, jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype))
    for a, b in zip(jax.tree.leaves(exported.call(params, images)), jax.tree.leaves(both(params, images)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * max(1, np.abs(b).max()))
