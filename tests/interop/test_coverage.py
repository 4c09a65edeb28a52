"""timm's models by their names: parameters and statistics here have the names and shapes on timm's list."""

import math

import jax
import pytest

from cvjax.interop.coverage import Covered, coverage, fingerprint, state_shapes
from cvjax.interop.naming import model_images
from cvjax.models import create_model, list_models
from cvjax.timm_weights import about_name, about_weights, timm_weights

LISTED = [name for name in list_models() if name in timm_weights()]
# Each name of a part once, in networks that are quick to trace; one of two hundred layers takes seconds.
QUICK = ("convnext_atto_ols", "convnextv2_atto", "deit_tiny_distilled_patch16_224", "densenet121", "ecaresnet26t",
         "resnet10t", "resnetv2_18d", "resnetv2_50x1_bit", "seresnext26t_32x4d", "swin_tiny_patch4_window7_224",
         "swinv2_tiny_window8_256", "vgg11_bn", "vit_base_patch16_siglip_224",
         "vit_giant_patch14_dinov2", "vit_small_plus_patch16_dinov3_qkvb", "vit_medium_patch16_gap_256",
         "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in LISTED])
def test_names_shapes_and_parameters_are_timms(name: str) -> None:
    entry, shapes = timm_weights()[name], state_shapes(create_model(name, num_classes=1000))
    assert fingerprint(shapes) == entry.fingerprint, shapes
    statistics = ("running_mean", "running_var", "relative_position_index", "attn_mask")
    assert entry.parameters == sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(statistics))


def test_the_first_block_of_a_vit_tells_the_others() -> None:
    model = create_model("vit_small_plus_patch16_dinov3_qkvb", width=8, heads=2, depth=3)
    variables = jax.eval_shape(model.init, jax.random.key(0), *model_images(model))
    shapes = state_shapes(model)
    blocks = [{key.split(".", 2)[2]: shape for key, shape in shapes.items() if key.startswith(f"blocks.{i}.")}
              for i in range(3)]
    assert blocks[0] == blocks[1] == blocks[2]
    assert len(blocks[0]) == len(jax.tree.leaves(variables["params"]["blocks"]["0"]))
    assert sum(map(math.prod, shapes.values())) == sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_weights_are_counted_by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {name: timm_weights()[name] for name in ("vit_tiny_patch16_224", "vgg11", "resnetrs50", "resnet10t")}
    listed["vgg11"] = listed["vgg11"]._replace(fingerprint="of another network")
    monkeypatch.setattr("cvjax.interop.coverage.timm_weights", lambda: listed)
    tags = {name: len(entry.tags) for name, entry in listed.items()}
    assert list(coverage()) == [
        Covered("vision_transformer", tags["vit_tiny_patch16_224"], tags["vit_tiny_patch16_224"], (), ()),
        Covered("vgg", tags["vgg11"], 0, (), ("vgg11",)),
        Covered("resnet", tags["resnetrs50"] + tags["resnet10t"], tags["resnet10t"], ("resnetrs50",), ())]


def test_what_timm_lists_is_said_of_unknown_names_and_tags() -> None:
    assert about_name("efficientnet_b0") == about_name("efficientnet_b0.ra_in1k") == "timm has it"
    assert about_name("efficientnet_b99") == "timm has none of that name"
    assert about_weights("resnet50.a1_in1k") == ""
    assert about_weights("resnet50.a1_in1kk").startswith("timm lists no resnet50.a1_in1kk: did you mean a1_in1k, ")
    assert about_weights("resnet10t.z").startswith("timm lists no resnet10t.z: its tags are c3_in1k")
    assert about_weights("resnet5O.a1_in1k").startswith("timm lists no weights of resnet5O: did you mean resnet50, ")
    assert len(timm_weights()) > 1000
