"""YOLO's networks: sizes, counts, what a grid follows from, and that all of them learns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model
from cvjax.models.yolo import ADDED, EXTRACTION, FAST, YOLO, YOLOv1

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

TINY = dict(layers=((4, 3, 2), None, (8, 1, 1)), more_layers=((6, 3, 2), (6, 3, 1)), fc_widths=(16,),
            image_size=(32, 48), num_classes=3)
SMALL = dict(backbone_fields=dict(width=4, depths=(1, 1)), head_width=8, head_depth=1, image_size=(32, 48),
             num_classes=3)


def shapes_of(model, *size):
    return jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, *size, 3)))


def count(layers, channels=3):
    total = 0
    for layer in filter(None, layers):
        total += layer[0] * (layer[1] ** 2 * channels + 1)
        channels = layer[0]
    return total


@pytest.mark.parametrize("name, layers, fc", [
    ("yolov1", EXTRACTION + ADDED, (50_176, 4096, 1470)), ("fast_yolov1", FAST, (50_176, 256, 4096, 1470))])
def test_the_papers_networks_at_their_size(name, layers, fc):
    """Counted layer by layer: k x k x channels + 1 for each filter, inputs + 1 for each unit; 1470 = 7 * 7 * 30."""
    model = create_model(name)
    output, variables = shapes_of(model, 448, 448)
    assert output.shape == (1, 7, 7, 30) and output.dtype == jnp.float32
    expected = count(layers) + sum((a + 1) * b for a, b in zip(fc, fc[1:]))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
    assert len([*filter(None, layers)]) == (24 if name == "yolov1" else 9)


def test_other_grids_boxes_and_classes():
    assert shapes_of(create_model("yolov1", image_size=(448, 320), num_boxes=3, num_classes=7), 448, 320)[0].shape == (
        1, 7, 5, 22)
    odd = YOLOv1(**TINY | dict(image_size=(37, 49)))  # 19, 9 and 5 rows: convolutions round up, poolings down
    assert shapes_of(odd, 37, 49)[0].shape == (1, 5, 6, 13)
    assert shapes_of(create_model("yolo", maps=2), 240, 320)[0].shape == (1, 15, 20, 30)
    assert shapes_of(create_model("yolo"), 250, 330)[0].shape == (1, 8, 11, 30), "sizes are rounded up"


def test_the_classifier_is_the_first_twenty_convolutions():
    model, detector = create_model("yolov1_classifier"), create_model("yolov1")
    output, variables = shapes_of(model, 224, 224)
    assert output.shape == (1, 1000)
    theirs = shapes_of(detector, 448, 448)[1]["params"]["backbone"]
    own = dict(variables["params"])
    assert own.pop("fc")["kernel"].shape == (1024, 1000)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, theirs) and len(own) == 20


@pytest.mark.parametrize("model", [YOLOv1(**TINY), YOLOv1(**TINY, batch_norm=True), YOLO(**SMALL, maps=2)],
                         ids=["yolov1", "batch_norm", "yolo"])
def test_every_parameter_learns_and_only_dropout_is_random(model):
    images = jax.random.normal(jax.random.key(1), (4, 32, 48, 3))
    variables = once(model.init)(jax.random.key(0), images)
    # Branches of a ResNet start at 0, and what comes before them would learn nothing.
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape),
                          variables["params"])
    state = {name: value for name, value in variables.items() if name != "params"}

    def loss(params, key):
        output, _ = model.apply({"params": params, **state}, images, train=True, mutable=[*state],
                                rngs={"dropout": key})
        return (output ** 2).mean()

    value_and_gradient = once(jax.value_and_grad(loss))
    first, gradient = value_and_gradient(params, jax.random.key(0))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    other, _ = value_and_gradient(params, jax.random.key(1))
    assert (first != other) == isinstance(model, YOLOv1)


def test_the_boxes_of_a_cell_start_at_its_centre_in_several_sizes():
    model = YOLO(**SMALL, num_boxes=3)
    bias = np.asarray(model._spread(jax.random.key(0), (18,)))
    boxes = bias[:15].reshape(3, 5)
    np.testing.assert_array_equal(boxes[:, [0, 1, 4]], [[0.5, 0.5, 0]] * 3)
    np.testing.assert_allclose(boxes[:, 2:4] ** 2, [[0.25] * 2, [0.5] * 2, [0.75] * 2], rtol=1e-6)
    assert not bias[15:].any()


def test_nothing_of_a_backbone_after_its_last_map_is_there():
    model = YOLO(**SMALL | dict(backbone_fields=dict(width=4)), maps=("layer1", "layer2"))
    params = shapes_of(model, 32, 48)[1]["params"]
    assert {"layer1", "layer2"} <= set(params["backbone"]) and "layer3" not in params["backbone"]
    assert {"lateral_layer1", "lateral_layer2", "head1", "output"} <= set(params)


@pytest.mark.parametrize("call, message", [
    (lambda: shapes_of(YOLOv1(**TINY), 32, 32), "images of 32x32 pixels do not fit: the model's field image_size"),
    (lambda: shapes_of(YOLOv1(**TINY | dict(image_size=1)), 1, 1), "nothing is left of it after all poolings"),
    (lambda: shapes_of(YOLO(**SMALL, maps=9), 32, 48), "maps=9: ResNet names maps of"),
    (lambda: shapes_of(YOLO(**SMALL | dict(backbone_fields=dict(num_classes=3))), 32, 48), "fields num_classes: the")])
def test_errors_say_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()
