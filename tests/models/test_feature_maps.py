"""Named maps: read, differentiated by, and absent when nobody asks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import FeatureMaps, feature_maps, named_maps


class Two(nn.Module):
    """A doubling and a squaring, each with a named map."""

    def setup(self) -> None:
        self.maps = FeatureMaps()
        self.head = nn.Dense(2)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.maps("second_by_alphabet", 2 * images)
        x = self.maps("first_by_alphabet", x * x)
        return self.head(x.mean(axis=(1, 2)))


IMAGES = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3) / 96
VARIABLES = Two().init(jax.random.key(0), IMAGES)


def test_init_gives_parameters_alone() -> None:
    assert set(VARIABLES) == {"params"} and set(VARIABLES["params"]) == {"head"}


def test_maps_come_by_name_in_the_order_of_the_network() -> None:
    maps = feature_maps(Two(), VARIABLES, IMAGES)
    assert list(maps) == ["second_by_alphabet", "first_by_alphabet"]
    np.testing.assert_array_equal(maps["second_by_alphabet"], 2 * IMAGES)
    jitted = jax.jit(lambda v, x: list(feature_maps(Two(), v, x).values()))(VARIABLES, IMAGES)
    np.testing.assert_allclose(jitted[1], 4 * IMAGES * IMAGES, rtol=1e-6)


def test_the_gradient_by_an_offset_is_the_gradient_by_the_map() -> None:
    def output(offset: jax.Array) -> jax.Array:
        variables = {**VARIABLES, "perturbations": {"maps": {"second_by_alphabet": offset}}}
        return Two().apply(variables, IMAGES)[:, 0].sum()

    gradient = jax.grad(output)(jnp.zeros_like(IMAGES))
    by_hand = 2 * (2 * IMAGES) * VARIABLES["params"]["head"]["kernel"][:, 0] / 16  # d mean(x^2) k / dx
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-5)


class Asking(nn.Module):
    """`Two` as far as one of its maps, and a map of its own."""

    wanted: str

    def setup(self) -> None:
        self.maps, self.two = FeatureMaps(), Two()

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        inner = named_maps(lambda: self.two(images), [self.wanted])
        return self.maps("own", inner[self.wanted] + 1)


def test_a_pass_ends_with_the_last_map_that_is_wanted() -> None:
    for wanted, value in (("second_by_alphabet", 2 * IMAGES), ("first_by_alphabet", 4 * IMAGES * IMAGES)):
        model = Asking(wanted)
        assert model.init(jax.random.key(0), IMAGES) == {}  # no head
        maps = feature_maps(model, {}, IMAGES)  # who asks from outside sees all of what ran
        assert list(maps)[-2:] == [wanted, "own"] and len(maps) == (2 if wanted == "second_by_alphabet" else 3)
        np.testing.assert_allclose(maps["own"], value + 1, rtol=1e-6)
    both = ["first_by_alphabet", "second_by_alphabet"]
    assert list(named_maps(lambda: Two().apply(VARIABLES, IMAGES), both)) == both[::-1]
    # Asked for from outside, too, the pass ends before what the inner one waits for.
    assert list(named_maps(lambda: model.apply({}, IMAGES), both[1:])) == both[1:]
    with pytest.raises(ValueError, match="no map x: the model names second_by_alphabet, first_by_alphabet"):
        named_maps(lambda: Two().apply(VARIABLES, IMAGES), ["x"])
