"""Fast R-CNN's network: RoI pooling between a map and VGG's layers, and its start from a classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model
from cvjax.models.fast_rcnn import FastRCNN, from_classifier
from cvjax.ops.roi import roi_pool

SMALL_VGG = dict(depths=(1, 1), width=4)


@pytest.fixture(scope="module")
def from_vgg():
    """A detector on a VGG of two stages, with that VGG's layers."""
    classifier = create_model("vgg16", **SMALL_VGG, fc_width=6, num_classes=5, image_size=28)
    detector = FastRCNN("vgg16", SMALL_VGG, "conv2_1", fc_width=6, num_classes=3, image_size=40)
    first = jax.jit(classifier.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
    second = jax.jit(detector.init)(jax.random.key(1), jnp.zeros((1, 40, 40, 3)))
    return classifier, first, detector, second


@pytest.mark.slow
def test_regions_go_through_the_classifiers_own_layers(from_vgg):
    classifier, known, detector, fresh = from_vgg
    variables = from_classifier(known, fresh)
    images = jax.random.normal(jax.random.key(2), (2, 32, 44, 3))
    boxes = jnp.float32([[[0, 0, 20, 30], [10, 4, 40, 25]], [[3, 3, 9, 30], [0, 0, 44, 32]]])
    outputs = detector.apply(variables, images, boxes)
    assert outputs.logits.shape == (2, 2, 4) and outputs.codes.shape == (2, 2, 4, 4)

    def by_hand(module):
        x = module(images, maps=["conv2_1"])["conv2_1"]
        return module.fully_connected(roi_pool(x, boxes, (7, 7), 1 / 2).reshape(4, 7, 7, -1))

    head = variables["params"]["box_predictor"]
    x = classifier.apply(known, method=by_hand)
    for layer, values in (("cls_score", outputs.logits), ("bbox_pred", outputs.codes)):
        wanted = x @ head[layer]["kernel"] + head[layer]["bias"]
        np.testing.assert_allclose(values.reshape(4, -1), wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(variables["params"]["fc7"]["kernel"], known["params"]["fc7"]["kernel"])
    assert set(variables["params"]["backbone"]) == {"conv1_1", "conv2_1"}


@pytest.mark.slow
def test_layers_of_other_shapes_stay_and_a_foreign_backbone_is_refused(from_vgg):
    classifier, known, detector, fresh = from_vgg
    narrow = {"params": known["params"] | {"fc6": {"kernel": jnp.zeros((3, 6)), "bias": jnp.zeros(6)}}}
    kept = from_classifier(narrow, fresh)["params"]
    np.testing.assert_array_equal(kept["fc6"]["kernel"], fresh["params"]["fc6"]["kernel"])
    with pytest.raises(ValueError, match=r"does not fit the backbone: params/conv1_1/bias, params/conv1_1/kernel .2 a"):
        from_classifier({"params": {name: x for name, x in known["params"].items() if name != "conv1_1"}}, fresh)


@pytest.mark.slow
def test_batch_statistics_come_along():
    fields = dict(width=4, depths=(1, 1))
    detector = FastRCNN("resnet20", fields, "layer2", fc_width=4, image_size=16)
    fresh, known = (jax.jit(m.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3))) for m in
                    (detector, create_model("resnet20", **fields)))
    known = known | {"batch_stats": jax.tree.map(lambda x: x + 3, known["batch_stats"])}
    stats = from_classifier(known, fresh)["batch_stats"]["backbone"]
    assert jax.tree.leaves(stats) and all((leaf >= 3).all() for leaf in jax.tree.leaves(stats))


def test_there_must_be_a_class():
    with pytest.raises(ValueError, match="num_classes 0: there must be a class besides the background"):
        jax.eval_shape(create_model("fast_rcnn", num_classes=0).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
