"""The head, the backbone and the order of layers, as `--freeze` and the learning rates by layer see them."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import pytest

from cvjax.errors import ConfigError
from cvjax.models import create_model
from cvjax.workflow.classification.transfer import frozen_parameters, is_head, learning_rates, module_order

SMALL = {
    "linear": dict(image_size=8), "mlp": dict(image_size=8), "lenet5": {}, "alexnet": dict(image_size=63),
    "vgg11_bn": dict(image_size=32, fc_width=16), "googlenet": dict(image_size=32), "resnet18": dict(image_size=32),
    "densenet121": dict(image_size=32, depths=(1, 1, 1, 1)), "vit_tiny_patch16_224": dict(image_size=32, depth=2),
    "swin_tiny_patch4_window7_224": dict(image_size=32, depths=(1, 1, 1, 1)),
}


def paths(model) -> set[str]:
    size = model.image_size
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, model.in_channels)))
    return set(flax.traverse_util.flatten_dict(shapes.get("params", {}), sep="/"))


@pytest.mark.parametrize("name", SMALL)
def test_the_head_is_what_a_model_without_classes_lacks(name):
    model = create_model(name, **SMALL[name], num_classes=3)
    whole, bare = paths(model), paths(model.clone(num_classes=0))
    assert {path for path in whole if is_head(model, path)} == whole - bare


def test_up_to_a_module_freezes_it_and_all_before_it():
    model = create_model("resnet18", image_size=32)
    frozen = frozen_parameters("up-to:layer2", model)
    held = {path.split("/")[0] for path in paths(model) if frozen(path)}
    assert held == {"conv1", "bn1", "layer1", "layer2"}
    inside = frozen_parameters("up-to:layer2/0/conv1", model)
    assert {path for path in paths(model) if inside(path) and path.startswith("layer2")} == {"layer2/0/conv1/kernel"}


def test_up_to_a_block_of_a_vit_freezes_tokens_and_positions_too():
    model = create_model("vit_tiny_patch16_224", image_size=32, depth=3)
    frozen = frozen_parameters("up-to:blocks/1", model)
    assert {"/".join(path.split("/")[:2]) for path in paths(model) if frozen(path)} == {
        "cls_token", "pos_embed", "patch_embed/proj", "blocks/0", "blocks/1"}


def test_up_to_a_stage_leaves_later_tables_free_which_belong_to_modules_with_parts_of_their_own():
    model = create_model("swin_tiny_patch4_window7_224", image_size=32, depths=(1, 1, 1, 1))
    order, frozen = module_order(model), None
    stages = list(dict.fromkeys("/".join(path.split("/")[:2]) for path in order if path.startswith("layers/")))
    frozen = frozen_parameters(f"up-to:{stages[1]}", model)
    tables = {"/".join(path.split("/")[:2]): frozen(path) for path in paths(model) if path.endswith("bias_table")}
    assert [tables[stage] for stage in stages] == [True, True, False, False]


def test_what_cannot_be_frozen_is_refused():
    model = create_model("resnet18", image_size=32)
    assert frozen_parameters("none", model) is None
    with pytest.raises(ConfigError, match="--freeze up-to:layer9: the model has no such module; it has conv1, bn1, "):
        frozen_parameters("up-to:layer9", model)
    for wrong in ("everything", "up-to:", "up-to"):
        with pytest.raises(ConfigError, match=f"--freeze {wrong}: it must be none, backbone or up-to:NAME"):
            frozen_parameters(wrong, model)


def test_learning_rates_fall_with_the_distance_from_the_head():
    model = create_model("resnet18", image_size=32)
    assert learning_rates(1.0, 1.0, model) is None
    order = list(dict.fromkeys(path.split("/")[0] for path in module_order(model)))
    assert order == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    scale = learning_rates(0.5, 1.0, model)
    assert scale("fc/kernel") == 1.0 and scale("layer4/0/conv1/kernel") == 0.5
    assert scale("layer3/0/conv1/kernel") == 0.25 and scale("conv1/kernel") < scale("layer1/0/conv1/kernel")
    both = learning_rates(0.5, 0.1, model)
    assert both("fc/kernel") == 1.0 and both("layer4/0/conv1/kernel") == pytest.approx(0.05)
    vit = create_model("vit_tiny_patch16_224", image_size=32, depth=2)
    assert learning_rates(0.5, 1.0, vit)("blocks/1/mlp/fc1/kernel") == 0.5
    swin = create_model("swin_tiny_patch4_window7_224", image_size=32, depths=(1, 1, 1, 1))
    scale = learning_rates(0.5, 1.0, swin)
    assert [scale(f"layers/{i}/blocks/0/mlp/fc1/kernel") for i in range(4)] == [0.5**5, 0.5**4, 0.5**3, 0.5**2]
    assert scale("norm/scale") == 0.5 and scale("head/kernel") == 1.0
