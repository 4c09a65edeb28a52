"""Faster R-CNN's published names and layouts, and the files of classifiers that its networks start from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, to_state_dict
from cvjax.models import create_model

BACKBONE = dict(depths=(1, 1), width=2)
FPN = create_model("faster_rcnn_resnet50_fpn", backbone_fields=BACKBONE, maps=("layer1", "layer2"), pyramid_width=3,
                   anchor_sizes=((8,),) * 3, rpn_width=3, head_width=4, num_classes=2, image_size=32)
VGG = dict(depths=(1, 1), width=2, fc_width=3)
SINGLE = create_model("faster_rcnn_vgg16", backbone_fields=VGG, maps=("conv2_1",), num_classes=2, image_size=32)


def variables_of(model: nn.Module) -> Any:
    """Random numbers in the place of every parameter and statistic."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


def assert_same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


@pytest.mark.parametrize("layout", ["torchvision", "torchvision_hub"])
def test_torchvisions_names_in_and_out(layout: str) -> None:
    variables = variables_of(FPN)
    names = to_state_dict(variables, FPN, layout)
    inside = ".0" if layout == "torchvision" else ""
    assert {"backbone.body.layer2.0.downsample.1.running_var", "rpn.head.cls_logits.bias", "rpn.head.bbox_pred.weight",
            f"backbone.fpn.inner_blocks.1{inside}.weight", f"backbone.fpn.layer_blocks.0{inside}.bias",
            f"rpn.head.conv{2 * inside}.weight", "roi_heads.box_head.fc6.weight", "roi_heads.box_head.fc7.bias",
            "roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.bias"} < set(names)
    # A flattened region goes channel by channel there.
    theirs = names["roi_heads.box_head.fc6.weight"].reshape(4, 3, 7, 7)
    ours = variables["params"]["box_head"]["fc6"]["kernel"].reshape(7, 7, 3, 4)
    np.testing.assert_array_equal(theirs.transpose(2, 3, 1, 0), ours)
    assert_same(load_weights(FPN, names), variables)


def test_other_classes_start_their_head_fresh(caplog: pytest.LogCaptureFixture) -> None:
    variables = variables_of(FPN)
    loaded = load_weights(FPN.clone(num_classes=5), to_state_dict(variables, FPN))
    assert "fresh: roi_heads.box_predictor" in caplog.messages[0] and "fc6" not in caplog.messages[0]
    assert loaded["params"]["box_predictor"]["cls_score"]["kernel"].shape == (4, 6)
    assert_same(loaded["params"]["rpn"], variables["params"]["rpn"])


@pytest.mark.slow
@pytest.mark.parametrize("name, fields, model", [("resnet50", BACKBONE, FPN), ("vgg16", VGG, SINGLE)])
def test_a_classifier_s_file_starts_the_backbone(name: str, fields: Any, model: nn.Module,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    classifier = create_model(name, **fields, num_classes=5, image_size=32)
    learnt = variables_of(classifier)
    loaded = load_weights(model, to_state_dict(learnt, classifier, "torchvision"))
    fresh, ignored = caplog.messages[0].split("; ")
    assert "rpn.head.conv.0.0.weight" in fresh and "backbone.body" not in fresh and len(ignored.split()) == 3
    expected = {key: layer for key, layer in learnt["params"].items() if key not in ("fc", "fc8")}
    assert_same(loaded["params"]["backbone"], expected)
    assert_same(loaded.get("batch_stats", {}).get("backbone", {}), learnt.get("batch_stats", {}))
