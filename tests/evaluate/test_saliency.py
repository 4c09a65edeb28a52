"""Heat maps of networks whose reasons are known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate.saliency import grad_cam, occlusion_map, saliency_map, smooth_grad
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel

QUADRANTS = np.zeros((8, 8, 4), np.float32)
for number in range(4):
    QUADRANTS[4 * (number // 2):, 4 * (number % 2):][:4, :4, number] = 1


class Quadrants(ImageModel):
    """Class k is the brightness of quadrant k, and the others speak against it."""

    map_names = ("quadrants", "watched")

    @with_maps
    def __call__(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        x = yield "quadrants", images.mean(axis=-1, keepdims=True) * QUADRANTS
        yield "watched", 2 * x
        return 8 * (x @ (2 * jnp.eye(4) - 1)).mean(axis=(1, 2))


class Net(ImageModel):
    """A small CNN with a head that is not linear in its map."""

    map_names = ("conv",)

    def setup(self) -> None:
        self.conv = nn.Conv(5, (3, 3), 2)
        self.hidden = nn.Dense(7)
        self.head = nn.Dense(3)

    def top(self, x: jax.Array) -> jax.Array:
        return self.head(nn.tanh(self.hidden(x.reshape(len(x), -1))))

    @with_maps
    def __call__(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        return self.top((yield "conv", nn.relu(self.conv(images))))


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return nn.Dense(3, name="head")(images.reshape(len(images), -1))


IMAGES = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3), minval=0.5)
CLASSES = np.array([2, 0, 1, 2])


def parameters(model: nn.Module, images: jax.Array = IMAGES):
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape) / 3, jnp.float32), shapes)


VARIABLES = parameters(Net())
saliency = jax.jit(saliency_map, static_argnames="model")
smooth = jax.jit(smooth_grad, static_argnames=("model", "samples"))
occlusion = jax.jit(occlusion_map, static_argnames=("model", "window", "stride"))


def test_grad_cam_lights_the_quadrant_that_the_class_depends_on() -> None:
    classes = np.arange(4)
    heat = grad_cam(Quadrants(), {}, IMAGES, classes, "quadrants")
    assert heat.shape == (4, 8, 8) and heat.dtype == jnp.float32
    inside = np.moveaxis(QUADRANTS, -1, 0) == 1
    assert (heat[inside] > 0.3).all() and (heat[~inside] == 0).all()
    np.testing.assert_allclose(heat.max(axis=(1, 2)), 1, rtol=1e-6)


def test_grad_cam_is_the_papers_formula() -> None:
    bound = Net().bind(VARIABLES)
    maps = nn.relu(bound.conv(IMAGES))
    for image, label, heat in zip(maps, CLASSES, grad_cam(Net(), VARIABLES, IMAGES, CLASSES, "conv")):
        gradient = jax.grad(lambda a, label=label: Net().apply(VARIABLES, a[None], method="top")[0, label])(image)
        expected = np.maximum(sum(gradient[..., c].mean() * image[..., c] for c in range(5)), 0)
        np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-5)


def test_grad_cam_of_nothing_positive_is_zero() -> None:
    images = IMAGES * jnp.array([0, 1, 1, 1])[:, None, None, None]
    heat = grad_cam(Quadrants(), {}, images, np.zeros(4, int), "quadrants")
    assert (heat[0] == 0).all() and np.isfinite(heat).all() and (heat[1:] > 0).any()


def test_under_jit_nothing_changes() -> None:
    jitted = jax.jit(grad_cam, static_argnames=("model", "layer"))(Net(), VARIABLES, IMAGES, CLASSES, "conv")
    np.testing.assert_allclose(jitted, grad_cam(Net(), VARIABLES, IMAGES, CLASSES, "conv"), atol=1e-5)
    jitted = occlusion(Net(), VARIABLES, IMAGES, CLASSES, 4, 2)
    np.testing.assert_allclose(jitted, occlusion_map(Net(), VARIABLES, IMAGES, CLASSES, 4, 2), atol=1e-5)


def test_maps_that_cannot_explain_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Quadrants has no map 'conv', it has quadrants, watched$"):
        grad_cam(Quadrants(), {}, IMAGES, np.zeros(4, int), "conv")
    with pytest.raises(ValueError, match=r"^map 'watched' of Quadrants has no influence on the logits"):
        grad_cam(Quadrants(), {}, IMAGES, np.zeros(4, int), "watched")


def test_a_map_of_a_vit_can_only_be_read() -> None:
    model = create_model("vit_tiny_patch16_224", image_size=8, patch_size=4, width=8, depth=1, heads=2, num_classes=3)
    variables = jax.tree.map(jnp.zeros_like, jax.eval_shape(model.init, jax.random.key(0), IMAGES))
    with pytest.raises(ValueError, match=r"^map 'blocks/0' of VisionTransformer has no influence"):
        grad_cam(model, variables, IMAGES, CLASSES, "blocks/0")


def test_saliency_of_a_linear_model_is_its_weights() -> None:
    variables = parameters(Linear())
    weights = np.asarray(variables["params"]["head"]["kernel"]).reshape(8, 8, 3, 3)
    expected = np.abs(weights[..., CLASSES]).max(axis=2).transpose(2, 0, 1)
    np.testing.assert_allclose(saliency_map(Linear(), variables, IMAGES, CLASSES), expected, rtol=1e-5)
    np.testing.assert_allclose(smooth(Linear(), variables, IMAGES, CLASSES, jax.random.key(0), 3), expected, rtol=1e-5)


def test_smooth_grad_is_the_mean_over_noisy_copies() -> None:
    one = smooth(Net(), VARIABLES, IMAGES, CLASSES, jax.random.key(0), samples=4, noise=0.0)
    np.testing.assert_allclose(one, saliency(Net(), VARIABLES, IMAGES, CLASSES), atol=1e-5)
    keys = jax.random.split(jax.random.key(3), 4)
    spread = jnp.ptp(IMAGES.reshape(4, -1), axis=1)[:, None, None, None]
    copies = [saliency(Net(), VARIABLES, IMAGES + 0.2 * spread * jax.random.normal(key, IMAGES.shape), CLASSES)
              for key in keys]
    result = smooth(Net(), VARIABLES, IMAGES, CLASSES, jax.random.key(3), samples=4, noise=0.2)
    np.testing.assert_allclose(result, np.mean(copies, axis=0), atol=1e-5)
    assert np.abs(result - one).max() > 1e-3


def test_occlusion_hurts_where_the_class_is() -> None:
    drop = occlusion_map(Quadrants(), {}, IMAGES, np.arange(4), 2, 2)
    assert drop.shape == (4, 4, 4) and drop.dtype == jnp.float32
    inside = np.moveaxis(QUADRANTS[::2, ::2], -1, 0) == 1
    assert (drop[inside] > 0.005).all() and (drop[~inside] < 0).all()  # others speak against


def test_occlusion_equals_a_slow_loop() -> None:
    """Centres every 10 / 4 rows and 8 / 3 columns; each square is painted by hand."""
    images = jax.random.normal(jax.random.key(0), (2, 10, 8, 3))
    variables, value = parameters(Net(), images), np.array([0.1, -0.2, 0.3], np.float32)
    classes, apply = np.array([1, 2]), jax.jit(Net().apply)

    def probability(x: jax.Array) -> np.ndarray:
        return np.asarray(jax.nn.softmax(apply(variables, x)))[[0, 1], classes]

    drops = occlusion(Net(), variables, images, classes, 4, 3, value)
    assert drops.shape == (2, 4, 3)
    tops, lefts, covered = [-1, 2, 4, 7], [-1, 2, 5], np.zeros((10, 8))  # rounded centre - 2
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            painted = np.array(images)
            painted[:, max(top, 0):top + 4, max(left, 0):left + 4] = value
            covered[max(top, 0):top + 4, max(left, 0):left + 4] += 1
            expected = probability(images) - probability(jnp.asarray(painted))
            np.testing.assert_allclose(drops[:, row, column], expected, atol=1e-5)
    assert covered.min() > 0


@pytest.mark.parametrize("length, window, stride", [(9, 3, 3), (31, 3, 3), (13, 3, 2), (8, 8, 5), (5, 1, 1)])
def test_every_pixel_gets_covered(length, window, stride) -> None:
    """Class c is pixel c of the top row: painting it over must show for some square."""
    class Row(nn.Module):
        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            return images[:, 0, :, 0]

    drops = occlusion(Row(), {}, jnp.ones((length, 8, length, 1)), np.arange(length), window, stride)
    assert drops.shape == (length, -(-8 // stride), -(-length // stride))
    assert (drops.max(axis=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("change, message", [
    (dict(classes=np.array([0, 1])), r"classes must be integers of shape \(4,\), received int\d+ of shape \(2,\)"),
    (dict(classes=np.zeros(4)), r"classes must be integers of shape \(4,\), received float\d+"),
    (dict(classes=np.array([0, 1, 2, 3])), r"classes must lie in \[0, 3\), received 0 to 3"),
    (dict(classes=np.array([0, -1, 2, 1])), "received -1 to 2"),
    (dict(images=np.zeros((4, 8, 8, 3), np.uint8)), "float .B, H, W, C., received uint8"),
    (dict(images=np.zeros((8, 8, 3), np.float32)), r"received float32 of shape \(8, 8, 3\)"),
    (dict(window=9), "<= 8 must hold for images of 8x8, received stride=2 and window=9"),
    (dict(stride=5), "received stride=5 and window=4"), (dict(stride=0), "received stride=0"),
    (dict(value=np.zeros(2)), r"3 numbers, one per channel, received shape \(2,\)")])
def test_errors_say_what_came(change, message) -> None:
    arguments = dict(images=IMAGES, classes=CLASSES, window=4, stride=2) | change
    with pytest.raises(ValueError, match=message):
        occlusion_map(Net(), VARIABLES, **arguments)


def test_a_model_without_logits_is_refused() -> None:
    class Maps(nn.Module):
        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            return images

    with pytest.raises(ValueError, match=r"Maps must return logits \(B, K\), it returns \(4, 8, 8, 3\)"):
        saliency_map(Maps(), {}, IMAGES, CLASSES)
    with pytest.raises(ValueError, match="at least 1, received 0"):
        smooth_grad(Net(), VARIABLES, IMAGES, CLASSES, jax.random.key(0), samples=0)
