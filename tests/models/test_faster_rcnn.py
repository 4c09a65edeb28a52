"""The forms of Faster R-CNN's network; its numbers are compared with torchvision's in tests/parity."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model
from cvjax.models.faster_rcnn import region_levels, resize_nearest

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = dict(rpn_width=6, head_width=5, num_classes=2, image_size=64)
RESNET = dict(backbone="resnet50", backbone_fields=dict(depths=(1, 1, 1, 1), width=2))
FORMS = {  # name -> fields, the parts that there are, those of the backbone, and the anchors of an image of 64x80
    "faster_rcnn_vgg16": (dict(backbone_fields=dict(depths=(1, 1, 2), width=2, fc_width=4), maps=("conv3_2",)),
                          "backbone box_predictor rpn", "conv1_1 conv2_1 conv3_1 conv3_2 fc6 fc7", 16 * 20 * 9),
    "faster_rcnn_resnet50": (RESNET, "backbone box_predictor rpn", "bn1 conv1 layer1 layer2 layer3 layer4", 4 * 5 * 9),
    "faster_rcnn_resnet50_fpn": (RESNET | dict(pyramid_width=4), "backbone box_head box_predictor fpn rpn",
                                 "bn1 conv1 layer1 layer2 layer3 layer4",
                                 (16 * 20 + 8 * 10 + 4 * 5 + 2 * 3 + 1 * 2) * 3),
    "faster_rcnn": (dict(backbone="swin_tiny_patch4_window7_224", maps=("layers/1", "layers/2"), pyramid_width=4,
                         backbone_fields=dict(depths=(1, 1, 1), heads=(1, 1, 1), width=6),
                         anchor_sizes=((8, 12), (16, 24), (32, 48)), aspect_ratios=(1.0,)),
                    "backbone box_head box_predictor fpn rpn", "layers patch_embed", (8 * 10 + 4 * 5 + 2 * 3) * 2),
}


def model(name: str = "faster_rcnn", **fields: Any) -> nn.Module:
    return create_model(name, **SMALL | fields)


def outputs(network: nn.Module, *size: int, **options: Any) -> Any:
    """Shapes of the variables and of what the network gives for two images and seven regions of each."""
    def run(images: jax.Array, boxes: jax.Array) -> Any:
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        (result, maps), variables = network.init_with_output(rngs, images, boxes, method=both, **options)
        return result, maps, variables

    def both(module: nn.Module, images: jax.Array, boxes: jax.Array, **options: Any) -> Any:
        maps = module.features(images)
        return module(images, boxes, **options), module.anchors(maps, images.shape[1:3])[0]

    return jax.eval_shape(run, jnp.zeros((2, *size, 3)), jnp.zeros((2, 7, 4)))


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    fields, parts, layers, anchors = FORMS[name]
    found, places, variables = outputs(model(name, **fields), 64, 80, train=True)
    assert sorted(variables["params"]) == parts.split()
    assert sorted(variables["params"]["backbone"]) == layers.split()
    assert {key: value.shape for key, value in found.items()} == {
        "objectness": (2, anchors), "anchor_codes": (2, anchors, 4), "logits": (2, 7, 3), "codes": (2, 7, 3, 4)}
    assert places.shape == (anchors, 4) and {value.dtype for value in found.values()} == {jnp.dtype(jnp.float32)}


def test_names_have_the_papers_numbers() -> None:
    vgg, fpn = create_model("faster_rcnn_vgg16"), create_model("faster_rcnn_resnet50_fpn")
    assert (vgg.candidates, vgg.proposals, vgg.sampled_anchors, vgg.sampled_regions) == (
        (12000, 6000), (2000, 300), 256, 128)
    assert (fpn.candidates, fpn.proposals, fpn.sampled_anchors, fpn.sampled_regions) == (
        (2000, 1000), (2000, 1000), 256, 512)
    assert vgg.region_pooling == "pool" and not vgg.crossing_anchors and fpn.crossing_anchors


def test_a_region_is_seen_in_the_map_of_its_size() -> None:
    sides = jnp.float32([0, 20, 111, 112, 224, 447, 448, 9000])
    boxes = jnp.stack([sides - sides, sides - sides, sides / 2, 2 * sides], axis=-1)
    np.testing.assert_array_equal(region_levels(boxes, (2, 3, 4, 5), 224), [2, 2, 2, 3, 4, 4, 5, 5])
    np.testing.assert_array_equal(region_levels(boxes, (3, 4), 28), [3, 3, 4, 4, 4, 4, 4, 4])


@pytest.mark.parametrize("old, new", [(3, 6), (3, 5), (3, 7), (4, 3)])
def test_pixels_are_repeated_as_torch_does(old: int, new: int) -> None:
    expected = [int(np.floor(i * old / new)) for i in range(new)]
    x = jnp.arange(2.0 * old).reshape(1, old, 2, 1)
    np.testing.assert_array_equal(resize_nearest(x, (new, 2))[0, :, :, 0], np.asarray(x)[0, expected, :, 0])
    x = x.transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(resize_nearest(x, (2, new))[0, :, :, 0], np.asarray(x)[0, :, expected, 0].T)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn_vgg16", "faster_rcnn_resnet50"])
def test_a_backbone_s_own_last_layers_are_the_second_head(name: str) -> None:
    """For a region that is the whole image, on a map with as many pixels as the region has bins, they give the same as
    the whole backbone does for the image, because every bin is then one pixel."""
    side = {"faster_rcnn_vgg16": 28, "faster_rcnn_resnet50": 32}[name]
    fields = dict(FORMS[name][0], region_pooling="pool", region_size={28: 7, 32: 2}[side])
    network = model(name, **fields)
    images = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    variables = once(network.init)(jax.random.key(1), images)
    variables = jax.tree.map(lambda x: x + 0.1, variables)

    def described(module: nn.Module) -> jax.Array:
        # pooled regions cover both corner pixels
        boxes = jnp.broadcast_to(jnp.float32([0, 0, side - 4, side - 4]), (2, 1, 4))
        if side == 32:
            boxes = jnp.broadcast_to(jnp.float32([0, 0, 16, 16]), (2, 1, 4))
        regions = module.region_features(module.features(images), boxes, (side, side))
        return module._describe(regions[:, 0], False)

    def whole(module: nn.Module) -> jax.Array:
        if name == "faster_rcnn_vgg16":  # without the last pooling
            return module._describe(module.features(images)[0], False)
        return module.network(images)

    found, expected = once(lambda v: (network.apply(v, method=described), network.apply(v, method=whole)))(variables)
    assert jnp.std(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * jnp.abs(expected).max())


def test_held_statistics_stay_as_they_are_and_are_used() -> None:
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    fields = dict(backbone_fields=dict(depths=(1,), width=2), maps=("layer1",), anchor_sizes=((8,),))
    variables = once(model(**fields).init)(jax.random.key(1), images)

    def train(variables: Any) -> Any:
        return [network.apply(variables, images, train=True, mutable=["batch_stats"], method="features")
                for network in (model(**fields), model(**fields, batch_statistics=False))] + [
                    model(**fields).apply(variables, images, method="features")]

    (moving, moved), (held, kept), evaluated = once(train)(variables)
    np.testing.assert_array_equal(held[0], evaluated[0])
    assert jnp.abs(moving[0] - held[0]).max() > 0.1
    changed = [jax.tree.map(lambda a, b: bool((a != b).any()), new["batch_stats"], variables["batch_stats"])
               for new in (moved, kept)]
    assert [any(jax.tree.leaves(tree)) for tree in changed] == [True, False]


def test_impossible_requests_are_refused() -> None:
    for fields, message in (
        (dict(maps=("layer2", "layer3")), r"maps \('layer2', 'layer3'\): it must be one, or more with a pyramid_width"),
        (dict(maps=()), r"maps \(\): it must be one"),
        (dict(pyramid_width=4), r"anchor_sizes \(\(128, 256, 512\),\): there must be as many for each of 2 maps"),
        (dict(pyramid_width=4, anchor_sizes=((8,), (9, 10))), "there must be as many for each of 2 maps"),
        (dict(head="backbone", backbone="densenet121", maps=("denseblock1",)),
         "head 'backbone': it takes a VGG or a ResNet without a pyramid, received densenet121 with pyramid_width=0"),
        (dict(maps=("layer9",)), "no map layer9: the model names stem, layer1"),
        (dict(backbone_fields=dict(dtype=1)), "backbone_fields dtype: the backbone has this model's"),
    ):
        with pytest.raises(ValueError, match=message):
            outputs(model(**fields), 32, 32)
    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        jax.eval_shape(model().init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
