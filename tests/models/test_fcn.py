"""FCN's properties; its numbers are compared with torchvision's and with the paper's layers in tests/parity."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import feature_maps
from cvjax.models import create_model
from cvjax.models.fcn import FCN, FCNVGG, Upsample, bilinear_kernel, convolutionalized, resize_bilinear
from cvjax.models.vgg import VGG
from tests.models.drawn import balanced_like

# Compiled for a call or two: optimising would take longer than it saves.
once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def fcn(**fields: Any) -> FCN:
    """A ResNet of three stages at strides 4, 8 and 16, the last two of which are scored; an auxiliary head."""
    return FCN(**dict(backbone_fields=dict(depths=(1, 1, 1), width=4), maps=2, auxiliary_map="layer2", num_classes=3,
                      dropout=0.0, image_size=64) | fields)


def fcn_vgg(**fields: Any) -> FCNVGG:
    return FCNVGG(**dict(skips=2, skip_scales=(0.5, 0.25), depths=(1, 1, 1, 1), width=2, fc_width=4, num_classes=3,
                         dropout=0.0) | fields)


def shapes_of(model: nn.Module, *size: int) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *(size or (32, 32)), 3)))


def variables_of(model: nn.Module) -> Any:
    return balanced_like(shapes_of(model))


def in_training(model: nn.Module, variables: Any, images: jax.Array, **options: Any) -> tuple[jax.Array, Any]:
    return model.apply(variables, images, train=True, mutable=["batch_stats", "intermediates"], **options)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, 37, 50, 3))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(fcn())


@pytest.fixture(scope="module")
def logits_and_maps(variables: Any, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    def both(model: FCN) -> tuple[jax.Array, dict[str, jax.Array]]:
        return model(images), model.network(images, maps=("stem", "layer1", "layer2", "layer3"))

    return once(lambda v: fcn().apply(v, method=both))(variables)


@pytest.fixture(scope="module")
def logits(logits_and_maps: tuple[jax.Array, dict[str, jax.Array]]) -> jax.Array:
    return logits_and_maps[0]


def slow_resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel: the centre of each, on the map; between four neighbours, of which the edge's stand for those
    outside."""
    out = np.zeros((*size, x.shape[-1]))
    for i, j in np.ndindex(size):
        row, column = ((n + 0.5) * old / new - 0.5 for n, old, new in zip((i, j), x.shape, size))
        for r, c in np.ndindex(2, 2):
            r, c = int(np.floor(row)) + r, int(np.floor(column)) + c
            value = x[min(max(r, 0), len(x) - 1), min(max(c, 0), x.shape[1] - 1)]
            out[i, j] += (1 - abs(row - r)) * (1 - abs(column - c)) * value
    return out


@pytest.mark.parametrize("size", [(7, 11), (24, 5), (2, 40)])
def test_resizing_is_bilinear_between_pixel_centres(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(resize_bilinear(x, size)[0], slow_resize(x[0], size), atol=1e-6)  # sums of four, near 1


def test_upsampling_by_hand() -> None:
    up2, up4 = ([float(v) for v in resize_bilinear(jnp.array(row).reshape(1, 1, 2, 1), (1, 2 * factor)).ravel()]
                for row, factor in (([0.0, 4.0], 2), ([0.0, 8.0], 4)))
    assert up2 == [0, 1, 3, 4] and up4 == [0, 0, 1, 3, 5, 7, 8, 8]


def test_a_bilinear_transposed_convolution_interpolates_and_keeps_constants() -> None:
    factor = 4
    layer, kernel = Upsample(factor, jnp.float32), bilinear_kernel(None, (2 * factor, 2 * factor, 2, 2))
    x = jax.random.normal(jax.random.key(0), (1, 3, 5, 2))
    variables = {"params": {"kernel": kernel}}
    np.testing.assert_allclose(layer.apply(variables, x), resize_bilinear(x, (3 * factor, 5 * factor)), atol=1e-6)
    constant = layer.apply(variables, jnp.full((1, 3, 5, 2), 1.5))
    np.testing.assert_array_equal(constant, np.full((1, 3 * factor, 5 * factor, 2), 1.5))  # eighths: exact


def test_logits_have_the_images_size_and_type_and_any_size_is_taken(images: jax.Array, logits: jax.Array) -> None:
    assert logits.shape == (2, 37, 50, 3) and logits.dtype == jnp.float32
    for model in (fcn(), fcn_vgg(skips=0), fcn_vgg(batch_norm=True)):
        for size in ((1, 1), (33, 9)):
            x = jnp.zeros((1, *size, 3))
            out = jax.eval_shape(model.apply, shapes_of(model), x)
            assert (out.shape, out.dtype) == ((1, *size, 3), jnp.float32)


@pytest.mark.slow
def test_vgg_images_are_filled_with_zeros_to_whole_strides(images: jax.Array) -> None:
    variables = variables_of(fcn_vgg())
    filled = jnp.pad(images, ((0, 0), (0, 11), (0, 14), (0, 0)))  # 48x64
    apply = once(fcn_vgg().apply)
    np.testing.assert_allclose(apply(variables, images), apply(variables, filled)[:, :37, :50], atol=1e-5)


def test_all_streams_of_a_vgg_are_aligned_with_the_image(images: jax.Array) -> None:
    """With kernels that are mirror images of themselves the logits of a mirrored image are mirrored: no stream is off,
    not by half a pixel."""
    def mirrored(x: jax.Array) -> jax.Array:
        return (x + x[::-1] + x[:, ::-1] + x[::-1, ::-1]) / 4 if x.ndim == 4 else x

    model, x = fcn_vgg(), images[:1, :32, :48]
    x = jnp.concatenate([x, x[:, ::-1, ::-1]])
    variables = jax.tree.map(mirrored, variables_of(model))
    apply = once(model.apply)
    out = apply(variables, x)
    assert jnp.std(out, axis=(1, 2)).min() > 0.02
    np.testing.assert_allclose(out[1, ::-1, ::-1], out[0], atol=1e-5)
    for name, layer in variables["params"].items():  # and each of them matters
        if name.startswith("score_"):
            without = {"params": {**variables["params"], name: jax.tree.map(jnp.zeros_like, layer)}}
            assert jnp.abs(apply(without, x) - out).max() > 0.01, name


@pytest.mark.slow
def test_an_image_moved_by_32_pixels_has_its_logits_moved_by_32() -> None:
    """FCN-8s at its own strides. Without biases what is black stays zero, so borders play no part; an object's logits
    reach 3 * 32 pixels by fc6, 16 and 8 by upsampling and fewer than 64 by the convolutions before."""
    model = fcn_vgg(depths=(1,) * 5)
    variables = jax.tree.map(lambda x: x * (x.ndim > 1), balanced_like(shapes_of(model)))
    picture = jax.random.normal(jax.random.key(0), (1, 20, 24, 3))
    here, there = (jnp.zeros((1, 480, 448, 3)).at[:, row:row + 20, column:column + 24].set(picture)
                   for row, column in ((230, 190), (230 + 32, 190 + 32)))
    here, there = jax.jit(model.apply)(variables, jnp.concatenate([here, there]))
    assert jnp.abs(here).max() > 1e-3
    np.testing.assert_allclose(there[32:, 32:], here[:-32, :-32], atol=1e-6 * jnp.abs(here).max())
    assert jnp.abs(there - here).max() > 0.1 * jnp.abs(here).max()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_classifier_s_layers_as_convolutions_give_its_numbers(batch_norm: bool) -> None:
    """At the centre of a map of 7x7 the convolution fc6 sees all of it and no padding."""
    same = dict(depths=(1, 1), width=3, fc_width=6, batch_norm=batch_norm)
    vgg, model = VGG(**same, num_classes=5), FCNVGG(**same)
    classifier = balanced_like(shapes_of(vgg, 28, 28))
    variables = convolutionalized(classifier, variables_of(model))
    x = jax.random.normal(jax.random.key(2), (2, 28, 28, 3))
    fc7, expected = once(lambda: (feature_maps(model, variables, x)["fc7"],
                                  vgg.apply(classifier, x, method="features")))()
    assert fc7.shape == (2, 7, 7, 6) and jnp.std(fc7, axis=(1, 2)).min() > 0
    np.testing.assert_allclose(fc7[:, 3, 3], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"the classifier does not fit the FCN: .*'fc7'.* differ"):
        convolutionalized(classifier, shapes_of(FCNVGG(**same | dict(fc_width=7))))
    with pytest.raises(ValueError, match="the classifier has no fc6, fc7: it must be a VGG; it has conv1"):
        convolutionalized({"params": {"conv1": {}}}, variables)


def test_a_vgg_starts_with_scores_of_zero_and_bilinear_kernels() -> None:
    params = once(fcn_vgg().init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 8, 8, 3)))["params"]
    for name in ("score_fr", "score_pool3", "score_pool2"):
        assert not any(map(jnp.any, jax.tree.leaves(params[name])))
    for name in ("upscore2", "upscore_pool3"):
        np.testing.assert_array_equal(params[name]["kernel"][:, :, 1, 1], np.outer(*2 * [[0.25, 0.75, 0.75, 0.25]]))
        np.testing.assert_array_equal(params[name]["kernel"][:, :, 1, 0], 0)


def test_names_have_the_paper_s_streams_and_the_reference_s_constants() -> None:
    assert [create_model(f"fcn{stride}s_vgg16").skips for stride in (32, 16, 8)] == [0, 1, 2]
    assert create_model("fcn8s_vgg16").skip_scales == (0.01, 0.0001)


@pytest.mark.parametrize("model", [fcn(), fcn_vgg()], ids=["any", "vgg"])
def test_every_parameter_receives_a_gradient(model: nn.Module, images: jax.Array) -> None:
    variables = variables_of(model)

    def loss(params: Any) -> jax.Array:
        logits, state = in_training(model, {**variables, "params": params}, images)
        heads = state.get("intermediates", {}).get("auxiliary", ())
        return sum(jnp.square(head).sum() for head in (logits, *heads))

    gradients = once(jax.grad(loss))(variables["params"])
    none = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
            if not jnp.abs(leaf).max() > 1e-5]
    assert none == []


BACKBONES = {  # name -> fields, the maps that three levels are, and the modules that there are
    "resnet18": ({}, ["layer2", "layer3"], "bn1 conv1 layer1 layer2 layer3 layer4"),
    "resnet20": (dict(depths=(1, 1, 1)), ["layer1", "layer2"], "bn1 conv1 layer1 layer2 layer3"),
    "vgg11": ({}, ["conv4_2", "conv5_2"], "conv1_1 conv2_1 conv3_1 conv3_2 conv4_1 conv4_2 conv5_1 conv5_2"),
    "densenet121": (dict(depths=(1, 1, 1)), ["denseblock1", "denseblock2"],
                    "conv0 denseblock1 denseblock2 denseblock3 norm0 norm5 transition1 transition2"),
    "swin_tiny_patch4_window7_224": (dict(depths=(1, 1, 1), heads=(1, 1, 1)), ["layers_0", "layers_1"],
                                     "layers patch_embed"),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_any_model_that_names_maps_is_a_backbone_without_what_comes_after(name: str) -> None:
    fields, skips, modules = BACKBONES[name]
    model = create_model("fcn", backbone=name, backbone_fields=fields, maps=3, num_classes=4)
    shapes = shapes_of(model, 75, 101)
    assert sorted(shapes["params"]) == ["backbone", "classifier", *(f"score_{skip}" for skip in skips)]
    assert sorted(shapes["params"]["backbone"]) == modules.split()
    out = jax.eval_shape(model.apply, shapes, jnp.zeros((2, 75, 101, 3)))
    assert out.shape == (2, 75, 101, 4)


def test_named_maps_are_scored_and_nothing_comes_after(variables: Any, logits_and_maps: Any) -> None:
    assert jax.tree.structure(shapes_of(fcn(maps=("layer2", "layer3")))) == jax.tree.structure(variables)
    shapes = shapes_of(fcn(maps=("stem", "layer1"), auxiliary_map=""))["params"]
    assert sorted(shapes) == ["backbone", "classifier", "score_stem"]
    assert sorted(shapes["backbone"]) == ["bn1", "conv1", "layer1"]
    # By hand from the maps: the head's logits resized to the skip's, and both to the image.
    logits, maps = logits_and_maps
    assert set(maps) == {"stem", "layer1", "layer2", "layer3"}
    params, stats = variables["params"]["classifier"], variables["batch_stats"]["classifier"]["1"]
    x = jax.lax.conv_general_dilated(maps["layer3"], params["0"]["kernel"], (1, 1), "SAME",
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * params["1"]["scale"] + params["1"]["bias"]
    x = nn.relu(x) @ params["4"]["kernel"][0, 0] + params["4"]["bias"]
    skip = variables["params"]["score_layer2"]
    x = resize_bilinear(x, (5, 7)) + maps["layer2"] @ skip["kernel"][0, 0] + skip["bias"]
    np.testing.assert_allclose(resize_bilinear(x, (37, 50)), logits, atol=1e-5 * jnp.abs(logits).max())


def test_skips_start_at_zero() -> None:
    model = fcn(backbone_fields=dict(depths=(1,), width=2), auxiliary_map="")
    params = once(model.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 9, 9, 3)))["params"]
    assert not any(map(jnp.any, jax.tree.leaves(params["score_stem"])))
    assert params["classifier"]["4"]["kernel"].any()


def test_auxiliary_logits_are_sown_in_training_alone(variables: Any, images: jax.Array) -> None:
    out, state = jax.eval_shape(lambda v: in_training(fcn(), v, images), variables)
    auxiliary, = state["intermediates"]["auxiliary"]
    assert auxiliary.shape == out.shape == (2, 37, 50, 3) and auxiliary.dtype == jnp.float32
    assert fcn().auxiliary_weight == 0.5
    _, state = jax.eval_shape(lambda v: fcn().apply(v, images, mutable=["intermediates"]), variables)
    assert state == {}
    without = {kind: {name: leaf for name, leaf in tree.items() if name != "aux_classifier"}
               for kind, tree in variables.items()}
    assert jax.tree.structure(without) == jax.tree.structure(shapes_of(fcn(auxiliary_map="")))
    jax.eval_shape(lambda v: fcn().apply(v, images), without)  # not computed


def test_dropout_acts_in_training_only(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    np.testing.assert_array_equal(once(fcn(dropout=0.5).apply)(variables, images), logits)
    for model in (fcn(dropout=0.5), fcn_vgg(dropout=0.5)):
        with pytest.raises(Exception, match="dropout"):
            jax.eval_shape(lambda v, model=model: in_training(model, v, images), shapes_of(model))


def test_type_and_axis_pass_to_all_parts(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    seen = []

    def note(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        seen.extend((getattr(module, name), want) for name, want in (("dtype", jnp.bfloat16), ("axis_name", "shards"))
                    if hasattr(module, name))
        return call(*arguments, **options)

    rough = fcn(dtype=jnp.bfloat16)
    with nn.intercept_methods(note):
        jax.eval_shape(rough.clone(axis_name="shards").init, jax.random.key(0), images)
    assert len(seen) > 40 and all(value == want for value, want in seen)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(rough))} == {jnp.dtype(jnp.float32)}
    near = once(rough.apply)(variables, images)
    assert near.dtype == jnp.float32
    assert 1e-4 < jnp.abs(near - logits).max() / jnp.abs(logits).max() < 5e-2


@pytest.mark.slow
def test_a_batch_split_over_a_named_axis_is_normalised_as_one(images: jax.Array) -> None:
    fields = dict(backbone_fields=dict(depths=(1,), width=2), maps=1, auxiliary_map="")
    variables = variables_of(fcn(**fields))

    def train(axis_name: str | None, images: jax.Array) -> jax.Array:
        return in_training(fcn(**fields, axis_name=axis_name), variables, images)[0]

    split = once(jax.vmap(partial(train, "shards"), axis_name="shards"))(images[:, None])
    whole = once(partial(train, None))(images)
    np.testing.assert_allclose(split[:, 0], whole, atol=1e-5 * jnp.abs(whole).max())


@pytest.mark.parametrize("block", ["basic", pytest.param("bottleneck", marks=pytest.mark.slow)])
def test_a_dilated_resnet_computes_the_strided_one_s_pixels_and_those_between(block: str, images: jax.Array) -> None:
    """Every fourth pixel of the last map with stride 8 is the map with stride 32."""
    fields = dict(block=block, depths=(1, 1, 1, 2), width=2, num_classes=0)
    strided, half, dilated = (create_model("resnet18", **fields, output_stride=stride) for stride in (32, 16, 8))
    variables = variables_of(strided)
    maps = [once(partial(feature_maps, model))(variables, images) for model in (strided, half, dilated)]
    assert [x["layer4"].shape[1:3] for x in maps] == [(2, 2), (3, 4), (5, 7)]
    for name, steps in (("layer3", (1, 2)), ("layer4", (2, 4))):
        expected = maps[0][name]
        for x, step in zip(maps[1:], steps, strict=True):
            np.testing.assert_allclose(x[name][:, ::step, ::step], expected, atol=1e-5 * jnp.abs(expected).max())


@pytest.mark.parametrize("model", [fcn(), fcn_vgg()], ids=["any", "vgg"])
def test_a_training_step_lowers_for_accelerators(model: nn.Module) -> None:
    def loss(params: Any, rest: Any, images: jax.Array) -> jax.Array:
        return in_training(model, {**rest, "params": params}, images)[0].sum()

    shapes = shapes_of(model)
    params, images = shapes.pop("params"), jax.ShapeDtypeStruct((2, 48, 40, 3), jnp.float32)
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=("tpu", "cuda"))(params, shapes, images)
    assert exported.platforms == ("tpu", "cuda")


def test_impossible_requests_are_refused() -> None:
    def init(model: nn.Module, *shape: int) -> Any:
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape or (1, 32, 32, 3)))

    for model, message in (
        (fcn(backbone="resnet17"), "unknown model 'resnet17': did you mean resnet"),
        (fcn(backbone_fields=dict(wide=3)), "resnet18 has no field wide; it has "),
        (fcn(backbone_fields=dict(dtype=1, num_classes=3)), "backbone_fields dtype, num_classes: the backbone has "),
        (fcn(maps=("layer9", "layer2")), "no map layer9: the model names stem, layer1, layer2, layer3"),
        (fcn(maps=5), "maps=5: ResNet names maps of 4 sizes"), (fcn(maps=0), "maps=0: ResNet names maps of 4 sizes"),
        (fcn(auxiliary_map="x"), "no map x: the model names stem, layer1, layer2, layer3"),
        (fcn_vgg(skips=3), "skips 3: it must be 0 to 2, for VGG has 4 poolings"),
        (fcn_vgg(skip_scales=(1.0,)), r"skip_scales \(1.0,\): there must be one for each of the 2 skips"),
    ):
        with pytest.raises(ValueError, match=message):
            init(model)
    with pytest.raises(ValueError, match="images of 31x40 pixels are too small: both sides must be at least 32"):
        init(FCN("vgg11"), 1, 31, 40, 3)
    for model in (fcn(), fcn_vgg()):
        with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
            init(model, 1, 32, 32, 1)
    with pytest.raises(ValueError, match="output_stride=4: it must be one of 8, 16, 32"):
        create_model("resnet50", output_stride=4)
