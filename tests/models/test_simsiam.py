"""SimSiam's parts and its views; the two MLPs are compared with torch's in tests/parity."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model
from cvjax.models.simsiam import SimSiam
from tests.models.drawn import balanced_like

SMALL: dict[str, Any] = dict(dim=6, projector_hidden=5, predictor_hidden=3)
SHAPE = (4, 2, 4, 4, 1)  # views of four images
ONCE = {"xla_backend_optimization_level": 0}  # compiled for a few runs


def model_of(**fields: Any) -> SimSiam:
    return SimSiam(create_model("mlp", hidden=(7,), image_size=4, in_channels=1, num_classes=0), **SMALL | fields)


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def trained(model: SimSiam, variables: Any, images: jax.Array) -> Any:
    """Outputs in training mode, and the variables after it."""
    outputs, state = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return outputs, variables | state


def shapes_of(model: SimSiam, shape: tuple[int, ...] = SHAPE) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameters_of_the_papers_resnet50():
    """torchvision's ResNet-50 has 25,557,032, of which 2048 * 1000 + 1000 are its classifier's."""
    params = shapes_of(SimSiam(create_model("resnet50", num_classes=0)), (1, 1, 224, 224, 3))["params"]
    assert count(params["backbone"]) == 25_557_032 - 2048 * 1000 - 1000
    assert count(params["projector"]) == 2 * (2048 * 2048 + 2 * 2048) + 2048 * 2048
    assert count(params["predictor"]) == (2048 * 512 + 2 * 512) + (512 * 2048 + 2048)
    assert count(params) == 38_199_360


@pytest.mark.parametrize("layers, places", [(1, "0 1"), (2, "0 1 3 4"), (3, "0 1 3 4 6 7")])
def test_layers_have_the_places_of_the_authors_sequence(layers: int, places: str) -> None:
    """Every layer of the projector has a norm, the last of them without parameters; the predictor's output has none."""
    variables = shapes_of(model_of(projector_layers=layers))
    params, statistics = variables["params"], variables["batch_stats"]
    everything: Mapping[str, Any] = params["projector"] | statistics["projector"]
    assert " ".join(sorted(everything, key=int)) == places
    last = places[-1]
    assert last in statistics["projector"] and last not in params["projector"]
    assert not any("bias" in layer for layer in params["projector"].values() if "kernel" in layer)
    assert {place: set(layer) for place, layer in params["predictor"].items()} == {
        "0": {"kernel"}, "1": {"scale", "bias"}, "3": {"kernel", "bias"}}
    assert list(statistics["predictor"]) == ["1"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def normed(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def test_the_mlps_are_slow_twins():
    model, images = model_of(), jax.random.normal(jax.random.key(1), SHAPE)
    variables = balanced_like(shapes_of(model))
    (predictions, projections), _ = trained(model, variables, images)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    layer, first, hidden = params["backbone"]["layers_0"], params["projector"], params["predictor"]
    for view in range(2):
        x = relu(np.asarray(images[:, view], np.float64).reshape(4, 16) @ layer["kernel"] + layer["bias"])
        for place in ("0", "3"):
            norm = first[str(int(place) + 1)]
            x = relu(normed(x @ first[place]["kernel"]) * norm["scale"] + norm["bias"])
        z = normed(x @ first["6"]["kernel"])
        h = relu(normed(z @ hidden["0"]["kernel"]) * hidden["1"]["scale"] + hidden["1"]["bias"])
        # Norms over four rows divide by small deviations; float32.
        np.testing.assert_allclose(projections[:, view], z, rtol=0, atol=1e-4)
        np.testing.assert_allclose(predictions[:, view], h @ hidden["3"]["kernel"] + hidden["3"]["bias"], rtol=0,
                                   atol=1e-4)


def test_each_view_has_the_statistics_of_its_own_batch_and_moves_the_running_ones():
    model, images = model_of(), jax.random.normal(jax.random.key(1), SHAPE)
    variables = balanced_like(shapes_of(model))
    both, after_both = trained(model, variables, images)
    changed, _ = trained(model, variables, images.at[:, 1].multiply(3.0).at[0, 1].add(1.0))
    for one, other in zip(both, changed):
        np.testing.assert_array_equal(one[:, 0], other[:, 0])
        assert np.abs(one[:, 1] - other[:, 1]).max() > 1e-3
    first, after_first = trained(model, variables, images[:, :1])
    second, after_second = trained(model, after_first, images[:, 1:])
    for one, parts in zip(both, zip(first, second)):
        np.testing.assert_allclose(one, jnp.concatenate(parts, axis=1), rtol=0, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), after_both, after_second)


def test_outputs_are_float32_in_half_precision():
    outputs = jax.eval_shape(model_of(dtype=jnp.bfloat16).apply, shapes_of(model_of()),
                             jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    assert [(x.dtype, x.shape) for x in outputs] == [(jnp.float32, (4, 2, 6))] * 2


def test_features_are_the_backbones():
    model, images = model_of(), jax.random.normal(jax.random.key(1), SHAPE)[:, 0]
    variables = balanced_like(shapes_of(model))
    alone = model.backbone.clone(parent=None).apply({"params": variables["params"]["backbone"]}, images)
    np.testing.assert_array_equal(model.apply(variables, images, method="features"), alone)
