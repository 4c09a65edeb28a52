"""Named maps: declared, read, differentiated by, and the end of a pass."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import NamedMaps, feature_maps, with_maps
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel


class Two(ImageModel):
    """A doubling and a squaring, each with a named map."""

    map_names = ("second_by_alphabet", "first_by_alphabet")

    def setup(self) -> None:
        self.head = nn.Dense(2)

    @with_maps
    def __call__(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        x = yield "second_by_alphabet", 2 * images
        x = yield "first_by_alphabet", x * x
        return self.head(x.mean(axis=(1, 2)))


IMAGES = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3) / 96
VARIABLES = Two().init(jax.random.key(0), IMAGES)
BOTH = ["first_by_alphabet", "second_by_alphabet"]


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


class Asking(ImageModel):
    """`Two` as far as one of its maps, and a map of its own."""

    map_names = ("own",)

    wanted: str

    def setup(self) -> None:
        self.two = Two()

    @with_maps
    def __call__(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        inner = self.two(images, maps=[self.wanted])
        return (yield "own", inner[self.wanted] + 1)


def test_a_pass_ends_with_the_last_map_that_is_wanted() -> None:
    for wanted, value in (("second_by_alphabet", 2 * IMAGES), ("first_by_alphabet", 4 * IMAGES * IMAGES)):
        model = Asking(wanted)
        assert model.init(jax.random.key(0), IMAGES) == {}  # no head
        maps = feature_maps(model, {}, IMAGES)
        assert list(maps) == ["own"]
        np.testing.assert_allclose(maps["own"], value + 1, rtol=1e-6)
    assert list(Two().apply(VARIABLES, IMAGES, maps=BOTH)) == BOTH[::-1]
    assert list(Two().apply(VARIABLES, IMAGES, maps=BOTH[1:])) == BOTH[1:]
    assert Two().apply(VARIABLES, IMAGES, maps=()) == {}


def test_a_name_that_a_model_does_not_declare_is_refused_before_it_is_called() -> None:
    with pytest.raises(ValueError, match="^no map x: the model names second_by_alphabet, first_by_alphabet"):
        Two().apply(VARIABLES, None, maps=["x"])  # these images could not be doubled


def test_a_map_that_is_declared_but_never_handed_out_is_named() -> None:
    class Forgetful(Two):
        map_names = (*Two.map_names, "third")

    with pytest.raises(ValueError, match="Forgetful declares a map in map_names that it does not hand out: third"):
        feature_maps(Forgetful(), VARIABLES, IMAGES)


SMALL: dict[str, tuple[dict[str, Any], str]] = {  # fields, and the layers that make the first map
    "lenet5": ({}, "c1"), "alexnet": (dict(fc_width=8), "conv1"), "googlenet": ({}, "conv1"), "resnet9": ({}, "prep"),
    "vgg11_bn": (dict(width=2, fc_width=8), "conv1_1 bn1_1"), "resnet20": ({}, "conv1 bn1"),
    "densenet40_k12": (dict(depths=(2, 2, 2)), "conv0"), "airbench96": ({}, "whiten"),
    "vit_tiny_patch16_224": (dict(width=8, heads=2, depth=3), "cls_token pos_embed patch_embed blocks/0"),
    "swin_tiny_patch4_window7_224": (dict(width=8, depths=(1, 1, 1), heads=(1, 1, 1)), "patch_embed layers/0"),
    "swinv2_tiny_window8_256": (dict(width=8, depths=(1, 1, 1), heads=(1, 1, 1)), "patch_embed layers/0"),
    "resnetv2_18": (dict(depths=(1, 1), width=8), "conv1"),
    "convnext_tiny": (dict(widths=(4, 8, 8), depths=(1, 1, 1)), "stem stages_0"),
    "yolov1_classifier": (dict(layers=((2, 3, 1), None, (3, 3, 1), (4, 1, 1))), "conv1"),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_family_hands_out_what_it_declares_and_makes_no_layer_after_the_last_wanted_map(name: str) -> None:
    fields, first = SMALL[name]
    model = create_model(name, **fields)
    images = jnp.zeros((1, model.image_size, model.image_size, model.in_channels))

    def layers(maps: tuple[str, ...] | None) -> set[str]:
        """Paths of the parameters that a pass makes."""
        output, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, maps=maps))
        assert maps is None or set(output) == set(maps) and all(x.ndim == 4 for x in output.values())
        return {jax.tree_util.keystr(path, simple=True, separator="/") + "/"
                for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])}

    def handed_out() -> None:  # a trace would sort a dict that it returns
        variables = model.init(jax.random.key(0), images)
        assert tuple(feature_maps(model, variables, images)) == model.map_names

    jax.eval_shape(handed_out)
    passes = [layers((name,)) for name in (model.map_names[i] for i in (0, len(model.map_names) // 2, -1))]
    assert all(path.startswith(tuple(f"{layer}/" for layer in first.split())) for path in passes[0])
    assert all(before <= after for before, after in zip(passes, passes[1:]))
    assert passes[0] < passes[-1] < layers(None)  # what is left: a head and perhaps a norm
