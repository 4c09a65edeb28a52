"""FCN's published names and layouts, and the files of classifiers that its networks start from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, to_state_dict
from cvjax.models.fcn import FCN, FCNVGG, convolutionalized
from cvjax.models.resnet import ResNet
from cvjax.models.vgg import VGG

RESNET = dict(block="bottleneck", depths=(1, 1), width=2)
MODEL = FCN("resnet50", dict(depths=(1, 1), width=2), ("layer2",), "layer1", num_classes=3, image_size=32)
SMALL = dict(depths=(1, 1, 1), width=2, fc_width=4)
VGG_MODEL = FCNVGG(1, (1.0,), **SMALL, num_classes=3, image_size=56)


def variables_of(model: nn.Module) -> Any:
    """Random numbers in the place of every parameter and statistic."""
    images = jnp.zeros((1, model.image_size, model.image_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


def assert_same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(MODEL)


def test_torchvisions_names_in_and_out(variables: Any) -> None:
    names = to_state_dict(variables, MODEL, "torchvision")
    assert {"backbone.conv1.weight", "backbone.layer2.0.downsample.1.running_var", "classifier.0.weight",
            "classifier.1.running_mean", "classifier.4.bias", "aux_classifier.0.weight"} < set(names)
    assert names["classifier.0.weight"].shape == (4, 16, 3, 3) and names["classifier.4.weight"].shape == (3, 4, 1, 1)
    assert_same(load_weights(MODEL, names), variables)


def test_a_file_with_an_auxiliary_head_serves_a_model_without(variables: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_weights(MODEL.clone(auxiliary_map=""), to_state_dict(variables, MODEL))
    assert "aux_classifier" not in loaded["params"] and "ignored: aux_classifier.1" in caplog.messages[0]


def test_a_classifier_s_file_starts_the_backbone(variables: Any, caplog: pytest.LogCaptureFixture) -> None:
    resnet = ResNet(**RESNET, num_classes=5, image_size=32)
    classifier = variables_of(resnet)
    loaded = load_weights(MODEL, to_state_dict(classifier, resnet))
    fresh, ignored = caplog.messages[0].split("; ")
    assert "fresh: aux_classifier.1" in fresh and "classifier.4.bias" in fresh and "backbone" not in fresh
    assert ignored == "ignored: fc.weight, fc.bias" or ignored == "ignored: fc.bias, fc.weight"
    expected = {name: layer for name, layer in classifier["params"].items() if name != "fc"}
    there = load_weights(MODEL, to_state_dict(classifier, resnet, "transformers"))
    for each in (loaded, there):
        assert_same(each["params"]["backbone"], expected)
        assert_same(each["batch_stats"]["backbone"], classifier["batch_stats"])
    with pytest.raises(ValueError, match="missing: .*layer1.0.conv1.weight"):
        names = to_state_dict(classifier, resnet)
        del names["layer1.0.conv1.weight"]
        load_weights(MODEL, names)


def test_an_fcn_s_backbone_serves_a_classifier(variables: Any) -> None:
    loaded = load_weights(ResNet(**RESNET, num_classes=0, image_size=32), to_state_dict(variables, MODEL))
    assert_same(loaded["params"], variables["params"]["backbone"])


def test_caffes_names_and_the_fixed_kernel() -> None:
    variables = variables_of(VGG_MODEL)
    names = to_state_dict(variables, VGG_MODEL)
    assert {"conv1_1.weight", "fc6.weight", "score_fr.bias", "score_pool2.weight", "upscore2.weight"} < set(names)
    theirs, ours = names["upscore2.weight"], variables["params"]["upscore2"]["kernel"]
    assert theirs[0, 2, 0, 1] == ours[3, 2, 0, 2]  # (in, out, row, column), not flipped
    assert_same(load_weights(VGG_MODEL, names), variables)
    # What is left of a stride of 8 after one skip.
    kernel = names.pop("upscore4.weight")
    tent = np.array([1, 3, 5, 7, 7, 5, 3, 1]) / 8
    np.testing.assert_array_equal(kernel[1, 1], np.outer(tent, tent))
    np.testing.assert_array_equal(kernel[1, 0], 0)
    assert_same(load_weights(VGG_MODEL, names), variables)
    with pytest.raises(ValueError, match="of other values than the model computes: upscore4.weight"):
        load_weights(VGG_MODEL, names | {"upscore4.weight": kernel + 0.1})


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_a_vgg_s_file_gives_what_convolutionalized_gives(layout: str, caplog: pytest.LogCaptureFixture) -> None:
    vgg = VGG(**SMALL, num_classes=5, image_size=56)
    classifier = variables_of(vgg)
    loaded = load_weights(VGG_MODEL, to_state_dict(classifier, vgg, layout))
    assert "fresh: score_" in caplog.messages[0] and "ignored: " in caplog.messages[0]
    assert_same(loaded, convolutionalized(classifier, loaded))
    np.testing.assert_array_equal(loaded["params"]["fc7"]["kernel"][0, 0], classifier["params"]["fc7"]["kernel"])
    assert not loaded["params"]["score_fr"]["kernel"].any()
    assert_same(load_weights(VGG_MODEL, to_state_dict(loaded, VGG_MODEL, layout)), loaded)
