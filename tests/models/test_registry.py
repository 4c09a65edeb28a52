"""Models by name: what they are called, how many parameters they have, and what importing them costs."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from cvjax.models import create_model, list_models
from cvjax.models.images import as_pair
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.registry import register
from cvjax.timm_weights import timm_weights

# timm's, with 1000 classes; tests/interop/test_coverage.py counts them, with their names and shapes.
LISTED = {name: entry.parameters for name, entry in timm_weights().items() if name in list_models()}
# MAE: the authors' models without their two fixed position tables; `tiny` and `small` are not theirs.
COUNTS = {
    **LISTED,
    "airbench94": 1_971_640,  # 1,152 fewer than the authors' count, which has norm scales of one
    "airbench96": 9_915_704,
    "alexnet": 61_100_840,
    "alexnet_grouped": 60_965_224,
    "dense_probe": 11_188_309,  # ResNet-18's 11,176,512 without a head, 1,024 of a norm and 21 * 513 of the scores
    "densenet40_k12": 1_019_722,
    "densenet_bc100_k12": 769_162,
    "fast_rcnn": 16_786_089,
    "fast_rcnn_vgg16": 134_690_729,  # VGG's 14,714,688, fc6 and fc7, and 4,097 for each of 21 scores and 84 codes
    "faster_rcnn": 17_387_734,
    "faster_rcnn_resnet50": 28_465_366,
    "faster_rcnn_resnet50_fpn": 41_808_406,  # torchvision's 41,755,286 and the 53,120 of its frozen norms
    "faster_rcnn_resnet50_fpn_coco": 41_808_406,
    "faster_rcnn_vgg16": 137_073_622,
    "fast_yolov1": 45_089_374,
    "fcn": 11_769_301,
    "fcn16s_vgg16": 134_364_410,
    "fcn32s_vgg16": 134_346_581,  # VGG's 14,714,688 and its fc6 and fc7, and 21 * 4,097 of the score layer
    "fcn8s_vgg16": 134_376_863,
    "fcn_resnet101": 54_314_346,  # with the auxiliary head, as torchvision says of both
    "fcn_resnet50": 35_322_218,
    "googlenet": 13_004_888,  # with both auxiliary heads, as Caffe's of the next line
    "googlenet_lrn": 13_378_280,
    "lenet5": 61_706,
    "linear": 30_730,
    "mae_vit_base_patch16": 111_655_680,
    "mae_vit_huge_patch14": 656_613_964,
    "mae_vit_large_patch16": 329_239_296,
    "mae_vit_small_patch16": 47_401_728,
    "mae_vit_tiny_patch16": 31_200_000,
    "mlp": 1_841_162,
    "rcnn_alexnet": 56_868_224,  # without heads: SVMs and regressions are no part of the network
    "rcnn_vgg16": 134_260_544,
    "resnet110": 1_727_962,
    "resnet9": 6_573_120,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "sppnet": 136_916_520,
    "sppnet_alexnet": 75_780_904,  # AlexNet's 2,469,696 up to conv5, and fc6 of 50 * 256 inputs
    "yolo": 12_496_478,
    "yolov1": 271_703_550,  # the authors' first network, of 7 x 7 cells with 2 boxes and 20 classes
    "yolov1_classifier": 23_428_136,
}


def test_every_name_has_a_count() -> None:
    assert list_models() == sorted(COUNTS)


# A hundred layers and more take a second to trace.
DEEP = ("densenet_bc100_k12", "fcn_resnet101")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name
                                  for name in list_models() if name not in LISTED])
def test_parameter_count(name: str) -> None:
    model = create_model(name)
    inputs = [jax.ShapeDtypeStruct((1, *as_pair(model.image_size), model.in_channels), jnp.float32)]
    if isinstance(model, MaskedAutoencoder):
        inputs.append(jax.ShapeDtypeStruct((1, math.prod(model.grid)), jnp.float32))
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == COUNTS[name]
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


def test_patterns() -> None:
    assert list_models("mae_*") == [name for name in sorted(COUNTS) if name.startswith("mae_")]
    assert list_models("vit_tiny*224") == ["vit_tiny_patch16_224"]
    assert list_models("nothing*") == []


def test_fields_are_replaced() -> None:
    model = create_model("vit_tiny_patch16_224", num_classes=7, image_size=(32, 48))
    assert (model.num_classes, model.image_size, model.width, model.patch_size) == (7, (32, 48), 192, 16)


def test_an_unknown_name_is_met_with_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown model 'vit_smal_patch16': did you mean vit_small_patch16_"):
        create_model("vit_smal_patch16")
    with pytest.raises(ValueError, match=r"unknown model 'qqq': list_models\(\) names all \(timm has none"):
        create_model("qqq")


def test_an_unknown_name_is_looked_up_in_timms_list() -> None:
    with pytest.raises(ValueError, match=r"^unknown model 'mobilenetv3_small_100': .*\(timm has it\)$"):
        create_model("mobilenetv3_small_100")
    with pytest.raises(ValueError, match="^unknown model 'resnet50.a1_in1k': the model is resnet50, and hf-hub:timm/res"
                                         "net50.a1_in1k are weights of it$"):
        create_model("resnet50.a1_in1k")


def test_an_unknown_field_is_met_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 has no field classes, parent; it has .*num_classes"):
        create_model("vit_tiny_patch16_224", classes=10, parent=None)


def test_a_name_belongs_to_one_family() -> None:
    with pytest.raises(ValueError, match="^models linear are registered twice: each name must belong to one family$"):
        register({"linear": (MaskedAutoencoder, {})})


def test_models_need_jax_flax_and_numpy_alone() -> None:
    heavy = ("tensorflow", "torch", "matplotlib", "sklearn", "grain", "orbax.checkpoint", "optax", "PIL",
             "cvjax.data", "cvjax.train", "cvjax.losses", "cvjax.interop")
    program = f"import sys, cvjax.models; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
