"""The formula against what the gradient says, and against published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops.receptive_field import ReceptiveField, receptive_field

ALEXNET = [(11, 4, 0), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0)]
VGG16 = [layer for convolutions in (2, 2, 3, 3, 3) for layer in [(3, 1, 1)] * convolutions + [(2, 2, 0)]]


@pytest.mark.parametrize("layers, size, stride, padding", [
    ([], 1, 1, 0), ([(3, 1, 1)], 3, 1, 1), ([(3, 1, 1)] * 2, 5, 1, 2), (ALEXNET, 195, 32, 64), (VGG16, 212, 32, 90)])
def test_published_numbers(layers, size, stride, padding) -> None:
    """AlexNet and VGG-16 are rows of the paper's table: receptive field, effective stride, effective padding."""
    assert receptive_field(layers) == ReceptiveField(size, stride, -padding)


@pytest.mark.parametrize("layers", [
    [(3, 1, 1), (5, 2, 0), (2, 2, 1)], [(7, 2, 3), (3, 2, 1), (1, 2, 0), (3, 1, 1)], [(3, 1, 2, 2), (3, 2, 4, 4)],
    [(4, 3, 0), (2, 1, 1, 3)]])
def test_the_formula_is_what_the_gradient_sees(layers) -> None:
    length = 121

    def network(x: jax.Array) -> jax.Array:
        for kernel, stride, padding, dilation in ((*layer, 1)[:4] for layer in layers):
            # Gapless also at even sizes: every weight is positive.
            x = jax.lax.conv_general_dilated(x, jnp.ones((kernel, 1, 1)), (stride,), [(padding, padding)],
                                             rhs_dilation=(dilation,), dimension_numbers=("NHC", "HIO", "NHC"))
        return x[0, :, 0]

    x = jnp.ones((1, length, 1))
    centre = network(x).shape[0] // 2
    seen = np.flatnonzero(jax.grad(lambda x: network(x)[centre])(x)[0, :, 0])
    field = receptive_field(layers)
    first = field.start + centre * field.stride
    assert (seen[0], seen[-1]) == (first, first + field.size - 1)
    assert 0 < seen[0] and seen[-1] < length - 1  # nothing was cut off by the border


def test_branches_meet_in_the_union() -> None:
    field = ReceptiveField()
    assert field.through(3, 1, 1).join(field.through(5, 1, 2)) == ReceptiveField(5, 1, -2)
    assert field.through(3, 1, 0).join(field.through(3, 1, 2)) == ReceptiveField(5, 1, -2)  # they look aside
    with pytest.raises(ValueError, match="one stride, received 1 and 2"):
        field.join(field.through(1, 2))


@pytest.mark.parametrize("layer, message", [
    ((3, 1), "received (3, 1)"), ((0, 1, 0), "at least 1, received 0, 1, 1"), ((3, 0, 0), "received 3, 0, 1"),
    ((3, 1, 0, 0), "received 3, 1, 0")])
def test_errors_say_what_came(layer, message) -> None:
    with pytest.raises(ValueError) as error:
        receptive_field([layer])
    assert message in str(error.value)
