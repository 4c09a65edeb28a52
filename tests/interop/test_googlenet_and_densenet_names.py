"""GoogLeNet's and DenseNet's published names and layouts, on small networks."""

import logging
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, to_state_dict
from cvjax.models.densenet import DenseNet
from cvjax.models.googlenet import GoogLeNet

GOOGLENET = dict(inceptions=(("4a", (2,) * 6), ("4d", (2,) * 6)), num_classes=3, image_size=32)
DENSENET = dict(depths=(2, 1), growth_rate=2, stem_width=4, num_classes=3, image_size=16)


def variables_of(model: nn.Module) -> Any:
    """Random numbers in the place of every parameter and statistic."""
    images = jnp.zeros((1, model.image_size, model.image_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


def assert_same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


def without_heads(tree: Any) -> Any:
    return {collection: {name: leaf for name, leaf in part.items() if not name.startswith("aux")}
            for collection, part in tree.items()}


@pytest.fixture(scope="module")
def googlenet() -> Any:
    return variables_of(GoogLeNet(**GOOGLENET))


def test_googlenet_names_and_the_order_of_a_flattened_map(googlenet: Any) -> None:
    names = to_state_dict(googlenet, GoogLeNet(**GOOGLENET))
    assert {"conv1.conv.weight", "conv1.bn.running_var", "inception4a.branch2.1.conv.weight",
            "inception4d.branch4.1.bn.bias", "aux2.conv.conv.weight", "aux2.fc1.bias", "fc.weight"} < set(names)
    ours, theirs = googlenet["params"]["aux1"]["fc1"]["kernel"], names["aux1.fc1.weight"]
    row, column, channel = 1, 2, 100
    np.testing.assert_array_equal(theirs[:, (channel * 4 + row) * 4 + column], ours[(row * 4 + column) * 128 + channel])
    assert_same(load_weights(GoogLeNet(**GOOGLENET), names), googlenet)


@pytest.mark.parametrize("in_file", [True, False])
def test_googlenet_without_auxiliary_heads_loads_any_file(in_file: bool, googlenet: Any,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    names = to_state_dict(googlenet, GoogLeNet(**GOOGLENET))
    names = {name: array for name, array in names.items() if in_file or not name.startswith("aux")}
    with caplog.at_level(logging.WARNING):
        loaded = load_weights(GoogLeNet(**GOOGLENET, aux_heads=False), names)
    assert_same(loaded, without_heads(googlenet))
    assert [("ignored: aux1.conv" in message) for message in caplog.messages] == [True] * in_file


def test_googlenet_s_heads_of_another_width_or_missing_start_fresh(googlenet: Any,
                                                                   caplog: pytest.LogCaptureFixture) -> None:
    names = to_state_dict(googlenet, GoogLeNet(**GOOGLENET))
    names = {name: array for name, array in names.items() if not name.startswith("aux2.fc1")}
    loaded = load_weights(GoogLeNet(**GOOGLENET | dict(num_classes=4)), names)
    fresh = caplog.messages[0].partition("fresh: ")[2]
    assert sorted(fresh.split(", ")) == ["aux1.fc2.bias", "aux1.fc2.weight", "aux2.fc1.bias", "aux2.fc1.weight",
                                         "aux2.fc2.bias", "aux2.fc2.weight", "fc.bias", "fc.weight"]
    kept = [variables["params"]["aux1"]["fc1"]["kernel"] for variables in (loaded, googlenet)]
    np.testing.assert_array_equal(*kept)
    with pytest.raises(ValueError, match="missing: inception4a.branch1.conv.weight"):
        load_weights(GoogLeNet(**GOOGLENET), {k: v for k, v in names.items() if k != "inception4a.branch1.conv.weight"})


def test_densenet_s_published_files_have_dots_inside_the_layers() -> None:
    model = DenseNet(**DENSENET)
    variables = variables_of(model)
    names = to_state_dict(variables, model)
    assert {"features.conv0.weight", "features.norm0.running_mean", "features.denseblock1.denselayer2.norm1.weight",
            "features.transition1.conv.weight", "features.norm5.bias", "classifier.weight"} < set(names)
    assert to_state_dict(variables, model, "timm").keys() == names.keys()
    dotted = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): array for name, array in names.items()}
    assert "features.denseblock1.denselayer2.norm.2.running_var" in dotted
    assert to_state_dict(variables, model, "torchvision_hub").keys() == dotted.keys()
    for file in (names, dotted):
        assert_same(load_weights(model, file), variables)


def test_densenet_s_head_of_another_width_starts_fresh(caplog: pytest.LogCaptureFixture) -> None:
    model = DenseNet(**DENSENET)
    variables = variables_of(model)
    loaded = load_weights(DenseNet(**DENSENET | dict(num_classes=0)), to_state_dict(variables, model))
    assert "ignored: classifier." in caplog.messages[0]
    assert set(loaded["params"]) == set(variables["params"]) - {"classifier"}
