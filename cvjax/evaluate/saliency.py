"""Where did a classifier look? Maps of the pixels that speak for a class.

In all functions, `model` and `variables` are a linen classifier, which is called with `train=False`; Grad-CAM needs an
`ImageModel`, which declares its maps. Images are normalised float `(B, H, W, C)`; classes are int `(B,)`, one per
image; results are float32 on the device. All functions can be jitted
(`jax.jit(grad_cam, static_argnames=("model", "layer"))`); then they do not check class numbers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Variables = Mapping[str, Any]


def grad_cam(model: nn.Module, variables: Variables, images: jax.Array, classes: Any, layer: str) -> jax.Array:
    """Grad-CAM of a named feature map: `(B, h, w)` in [0, 1], of the map's size; the largest value of an image is 1.

    Selvaraju et al. 2017, eq. 1 and 2 (https://arxiv.org/abs/1610.02391): the channels are summed with the mean
    gradient of the class logit as weight, and negative values become 0. An image without positive values gives zeros.
    """
    _check(model, variables, images, classes)
    if layer not in model.map_names:
        raise ValueError(f"{type(model).__name__} has no map {layer!r}, it has {', '.join(model.map_names)}")
    features = cast(Any, model.apply(variables, images, train=False, maps=[layer]))[layer]
    if features.ndim != 4:
        raise ValueError(f"map {layer!r} must be (B, h, w, C), it is {features.shape}")

    def score(offset: jax.Array) -> jax.Array:
        perturbed = {**variables, "perturbations": {"maps": {layer: offset}}}
        return _logits(model, perturbed, images, classes).sum()  # images do not influence each other

    nothing = jnp.zeros_like(features)
    if not _depends(score, nothing):
        raise ValueError(f"map {layer!r} of {type(model).__name__} has no influence on the logits: it can only be read")
    weights = jax.grad(score)(nothing).astype(jnp.float32).mean(axis=(1, 2))  # eq. 1
    heat = nn.relu(jnp.einsum("bhwc,bc->bhw", features.astype(jnp.float32), weights))  # eq. 2
    largest = heat.max(axis=(1, 2), keepdims=True)
    return heat / jnp.where(largest > 0, largest, 1.0)


def saliency_map(model: nn.Module, variables: Variables, images: jax.Array, classes: Any) -> jax.Array:
    """The largest |d class logit / d pixel| over the channels: `(B, H, W)`, 0 or more, not normalised.

    Simonyan et al. 2014, sec. 3 (https://arxiv.org/abs/1312.6034).
    """
    _check(model, variables, images, classes)
    gradient = jax.grad(lambda x: _logits(model, variables, x, classes).sum())(images)
    return jnp.abs(gradient.astype(jnp.float32)).max(axis=-1)


def smooth_grad(model: nn.Module, variables: Variables, images: jax.Array, classes: Any, rng: jax.Array,
                samples: int = 50, noise: float = 0.15) -> jax.Array:
    """The mean saliency map of `samples` noisy copies of each image: `(B, H, W)`, 0 or more.

    Smilkov et al. 2017, sec. 3 (https://arxiv.org/abs/1706.03825). noise: standard deviation of the Gaussian, as a
    share of the image's own range of values; the paper advises 0.1 to 0.2.

        >>> from cvjax.models import create_model
        >>> model, images = create_model("linear", image_size=8, num_classes=3), jnp.ones((2, 8, 8, 3))
        >>> variables = model.init(jax.random.key(0), images)
        >>> smooth_grad(model, variables, images, jnp.array([0, 2]), jax.random.key(1), samples=4).shape
        (2, 8, 8)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, received {samples}")
    _check(model, variables, images, classes)
    axes = tuple(range(1, images.ndim))
    deviation = noise * (images.max(axis=axes, keepdims=True) - images.min(axis=axes, keepdims=True))

    def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        noisy = images + deviation * jax.random.normal(key, images.shape, images.dtype)
        return total + saliency_map(model, variables, noisy, classes), None

    total, _ = jax.lax.scan(add, jnp.zeros(images.shape[:3]), jax.random.split(rng, samples))
    return total / samples


def occlusion_map(model: nn.Module, variables: Variables, images: jax.Array, classes: Any, window: int, stride: int,
                  value: Any = 0.0) -> jax.Array:
    """Drop of the class probability when a square covers each place: `(B, h, w)` in [-1, 1], negative if it rises.

    Zeiler and Fergus 2014, sec. 4.2 (https://arxiv.org/abs/1311.2901). Deviations: the centres of the squares are
    spread evenly, so the map spans images of any size, and squares at the border are cut off.

    Args:
        window: side of the square in pixels.
        stride: largest distance between centres of squares in pixels, at most `window`, so that every pixel is covered;
            h = ceil(H / stride).
        value: number or `(C,)`, the colour of the square as in `images`; 0 is the mean colour of normalised images.
    """
    _check(model, variables, images, classes)
    height, width, channels = images.shape[1:]
    if not 1 <= stride <= window <= min(height, width):
        raise ValueError(f"1 <= stride <= window <= {min(height, width)} must hold for images of {height}x{width}, "
                         f"received {stride=} and {window=}")
    value = jnp.asarray(value, images.dtype)
    if value.shape not in ((), (channels,)):
        raise ValueError(f"value must be a number or {channels} numbers, one per channel, received shape {value.shape}")

    def probability(x: jax.Array) -> jax.Array:
        return _of_class(jax.nn.softmax(_all_logits(model, variables, x)), classes)

    def squares(length: int) -> np.ndarray:
        """bool `(n, length)`: the pixels that each square covers along one axis."""
        count = math.ceil(length / stride)
        starts = np.floor((np.arange(count) + 0.5) * length / count - window / 2 + 0.5)[:, None]
        return (np.arange(length) >= starts) & (np.arange(length) < starts + window)

    rows, columns = squares(height), squares(width)
    places = np.stack(np.meshgrid(np.arange(len(rows)), np.arange(len(columns)), indexing="ij"), axis=-1).reshape(-1, 2)

    def covered(place: jax.Array) -> jax.Array:
        square = jnp.asarray(rows)[place[0]][:, None] & jnp.asarray(columns)[place[1]][None]
        return probability(jnp.where(square[:, :, None], value, images))

    drops = probability(images) - jax.lax.map(covered, jnp.asarray(places))  # one place at a time bounds the memory
    return drops.T.reshape(-1, len(rows), len(columns))


def _logits(model: nn.Module, variables: Variables, images: jax.Array, classes: Any) -> jax.Array:
    """The logit of each image's class, float32 `(B,)`."""
    return _of_class(_all_logits(model, variables, images), classes)


def _all_logits(model: nn.Module, variables: Variables, images: jax.Array) -> jax.Array:
    """The logits of all classes, float32 `(B, K)`."""
    # Flax types the result as if it might be a tuple, which it is only with `mutable`.
    return cast(jax.Array, model.apply(variables, images, train=False)).astype(jnp.float32)


def _of_class(scores: jax.Array, classes: Any) -> jax.Array:
    return jnp.take_along_axis(scores, jnp.asarray(classes)[:, None], axis=1)[:, 0]


def _depends(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> bool:
    """Whether the result is computed from x. A gradient of zero would not tell: every ReLU may be off."""
    jaxpr = jax.make_jaxpr(function)(x).jaxpr
    reached = {id(variable) for variable in jaxpr.invars}
    for equation in jaxpr.eqns:
        if any(id(variable) in reached for variable in equation.invars):
            reached |= {id(variable) for variable in equation.outvars}
    return id(jaxpr.outvars[0]) in reached


def _check(model: nn.Module, variables: Variables, images: jax.Array, classes: Any) -> None:
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be float (B, H, W, C), received {images.dtype} of shape {images.shape}")
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    if getattr(logits, "ndim", None) != 2:
        raise ValueError(f"{type(model).__name__} must return logits (B, K), "
                         f"it returns {jax.tree.map(jnp.shape, logits)}")
    kind, shape = jnp.result_type(classes), jnp.shape(classes)
    if shape != images.shape[:1] or not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(f"classes must be integers of shape {images.shape[:1]}, received {kind} of shape {shape}")
    if not isinstance(classes, Tracer):
        # In NumPy: `smooth_grad` calls this within a scan, where JAX would trace it.
        low, high = np.asarray(classes).min(), np.asarray(classes).max()
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(f"classes must lie in [0, {logits.shape[1]}), received {low} to {high}")
