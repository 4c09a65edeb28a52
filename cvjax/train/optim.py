"""Optimizers by name, with what recipes put around them: decay masks, rates by layer, frozen parameters, clipping.

Each optimizer is a function here whose keyword-only arguments are the hyper-parameters that it reads. It returns the
transformations that turn gradients g into a direction; `make_optimizer` multiplies that by the learning rate. The
numbers are those of torch, or of timm where torch has no such optimizer (LARS, LAMB, Lion), also in these two points:

- A changing learning rate multiplies the direction after momentum, not what goes into momentum.
- Weight decay is *coupled* where it is added to the gradient, before moments are taken (L2 regularisation), and
  *decoupled* where it is added to the direction (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101). Both are
  multiplied by the learning rate.
"""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cvjax.train._options import choose, options_of

# Of Swin V2 a network makes positions: `cpb_mlp`.
TOKENS_AND_POSITIONS = {"cls_token", "dist_token", "reg_token", "mask_token", "pos_embed",
                        "relative_position_bias_table", "cpb_mlp"}

Parts = list[optax.GradientTransformation]


def leaf_names(tree: Any) -> Any:
    """The tree with each leaf replaced by its path, such as `blocks/0/attn/qkv/kernel`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), tree)


def decay_mask(params: Any) -> Any:
    """True on the leaves that weight decay shrinks: matrices and kernels, not norms, biases, positions or tokens."""
    return jax.tree.map(lambda name, x: x.ndim > 1 and not TOKENS_AND_POSITIONS & set(name.split("/")),
                        leaf_names(params), params)


def array_mask(params: Any) -> Any:
    """True on the leaves of two axes or more: all but norms, biases and layer scales, as in DINO's code."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


# What decays, by name.
DECAYS: Mapping[str, Callable[[Any], Any]] = {
    "matrices": decay_mask, "no_bias_or_norm": array_mask, "all": lambda params: jax.tree.map(lambda _: True, params)}


def scale_by_layer(scale: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiply each leaf's update by `scale(path)`, for example layer-wise learning-rate decay.

    ValueError at `init` when that is one number other than 1 for all leaves: then `scale` knows other paths than these.
    """
    def init(params: Any) -> optax.EmptyState:
        names = jax.tree.leaves(leaf_names(params))
        scales = set(map(scale, names))
        if len(scales) == 1 and scales != {1.0}:
            raise ValueError(f"the layer scale is {scales.pop()} for all {len(names)} parameters, such as {names[0]}: "
                             "it must be 1 for some")
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda name, u: u * scale(name), leaf_names(updates), updates), state

    return optax.GradientTransformation(init, update)


def vit_layer_decay(rate: float, depth: int) -> Callable[[str], float]:
    """Layer-wise learning-rate decay of a ViT (Clark et al. 2020; Bao et al. 2022, https://arxiv.org/abs/2106.08254).

    The head and the last norm keep the full rate, block `i` of `depth` gets `rate ** (depth - i)`, and the patch
    embedding, tokens, positions and a norm before the blocks `rate ** (depth + 1)`.
    """
    def scale(name: str) -> float:
        parts = name.split("/")
        if parts[0] == "blocks":
            return rate ** (depth - int(parts[1]))
        return rate ** (depth + 1) if parts[0] in ("patch_embed", "norm_pre", *TOKENS_AND_POSITIONS) else 1.0

    return scale


def head_scale(rate_of_the_rest: float, is_head: Callable[[str], bool]) -> Callable[[str], float]:
    """Two learning rates: leaves with `is_head(path)` keep the full one, the rest get `rate_of_the_rest` times it.

    rate_of_the_rest: more than 0, for example 0.1; to hold the rest still, freeze it instead (see `make_optimizer`).
    Source: discriminative fine-tuning, Howard & Ruder 2018, sec. 3.2 (https://arxiv.org/abs/1801.06146), with two
    groups instead of one per layer.
    """
    if not rate_of_the_rest > 0:
        raise ValueError(f"rate_of_the_rest {rate_of_the_rest}: it must be more than 0; freeze what must not move")
    return lambda name: 1.0 if is_head(name) else rate_of_the_rest


def bias_scale(rate: float) -> Callable[[str], float]:
    """Biases learn `rate` times as fast as the rest: leaves named `bias`, a norm's among them.

    Caffe's `lr_mult`. As there, their decay is multiplied with their gradient; without decay, leave them out by
    `decay_mask`, as a `decay_mult` of 0 does. ValueError unless the rate is more than 0.
    """
    if not rate > 0:
        raise ValueError(f"bias_rate {rate}: it must be more than 0")
    return lambda name: rate if name.split("/")[-1] == "bias" else 1.0


def product(*scales: Callable[[str], float] | None) -> Callable[[str], float] | None:
    """The product of several layer scales (see `scale_by_layer`), None where there is none."""
    given = [scale for scale in scales if scale is not None]
    return (lambda name: math.prod(scale(name) for scale in given)) if given else None


def clip_each_by_norm(limit: float) -> optax.GradientTransformation:
    """Scale each leaf whose L2 norm n is more than `limit` by `limit / (n + 1e-6)` (DINO's `clip_gradients`)."""
    def clip(g: jax.Array) -> jax.Array:
        return g * jnp.minimum(1.0, limit / (jnp.linalg.norm(g.ravel()) + 1e-6))

    return optax.stateless(lambda gradients, params: jax.tree.map(clip, gradients))


class Decay(NamedTuple):
    """Weight decay: `rate` (or `rate(step)`) times the parameter, on leaves where `mask(params)` is True."""

    rate: float | optax.Schedule
    mask: Callable[[Any], Any]

    @property
    def added(self) -> optax.GradientTransformation:
        """Adds the decay to what comes in: the gradient (coupled) or the direction (decoupled)."""
        return optax.add_decayed_weights(self.rate, mask=self.mask)


def _sgd(decay: Decay) -> Parts:
    """Plain gradient descent: g. Robbins & Monro 1951 (https://doi.org/10.1214/aoms/1177729586). Decay: coupled."""
    return [decay.added]


def _momentum(decay: Decay, *, momentum: float = 0.9) -> Parts:
    """Heavy ball, v = momentum v + g: Polyak 1964 (https://doi.org/10.1016/0041-5553(64)90137-5). Decay: coupled."""
    return [decay.added, optax.trace(momentum)]


def _nesterov(decay: Decay, *, momentum: float = 0.9) -> Parts:
    """Nesterov's momentum, g + momentum v, in the form of Sutskever et al. 2013. Decay: coupled.

    https://proceedings.mlr.press/v28/sutskever13.html, sec. 2; the parameters kept are those at the look-ahead point.
    """
    return [decay.added, optax.trace(momentum, nesterov=True)]


def _adagrad(decay: Decay) -> Parts:
    """g / sqrt(sum of g**2): Duchi et al. 2011 (https://jmlr.org/papers/v12/duchi11a.html). Decay: coupled.

    The sum starts at 0 as in torch (optax: 0.1). torch adds 1e-10 to the root. Here nothing is added, and an entry
    whose sum is 0 does not move. In float32 the two agree for gradients above 1e-3; for 1e-8 they differ by 1 % at the
    first step.
    """
    return [decay.added, optax.scale_by_rss(initial_accumulator_value=0.0, eps=0.0)]


def _adadelta(decay: Decay, *, b2: float = 0.9, eps: float = 1e-6) -> Parts:
    """Zeiler 2012 (https://arxiv.org/abs/1212.5701, Algorithm 1); b2 is its rho. Decay: coupled.

    The usual learning rate is 1. Both roots contain eps.
    """
    return [decay.added, optax.scale_by_adadelta(b2, eps)]


def _rmsprop(decay: Decay, *, momentum: float = 0.0, b2: float = 0.99, eps: float = 1e-8) -> Parts:
    """Tieleman & Hinton 2012, g / (sqrt(mean of g**2) + eps), then momentum. Decay: coupled.

    https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf, slide 29; b2 is torch's alpha. As in
    torch, the mean starts at 0 and eps is outside the root; TensorFlow starts it at 1 and has eps inside.
    """
    return [decay.added, optax.scale_by_rms(b2, eps, eps_in_sqrt=False),
            *([optax.trace(momentum)] if momentum else [])]


def _adam(decay: Decay, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Parts:
    """Kingma & Ba 2015 (https://arxiv.org/abs/1412.6980, Algorithm 1). Decay: coupled."""
    return [decay.added, optax.scale_by_adam(b1, b2, eps)]


def _adamw(decay: Decay, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Parts:
    """Adam with decoupled decay: Loshchilov & Hutter 2019 (https://arxiv.org/abs/1711.05101, Algorithm 2).

    As in torch the learning rate multiplies the decay; in the paper only the schedule's factor does.
    """
    return [optax.scale_by_adam(b1, b2, eps), decay.added]


def _lamb(decay: Decay, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> Parts:
    """Adam's direction plus decay, scaled per leaf to the leaf's own norm: You et al. 2020, Algorithm 2.

    https://arxiv.org/abs/1904.00962. Decay: decoupled (added to the direction, inside the ratio). The ratio is for the
    leaves of `decay_mask`, the others take Adam's step; it is 1 where a norm is 0. timm ties the ratio to decay, so
    that there is no ratio without decay. It also clips gradients to norm 1 unless told otherwise; see `clip_norm`.
    """
    return [optax.scale_by_adam(b1, b2, eps), decay.added, optax.masked(optax.scale_by_trust_ratio(), decay_mask)]


def _lars(decay: Decay, *, momentum: float = 0.9) -> Parts:
    """SGD with each leaf's gradient scaled to the leaf's own norm: You et al. 2017 (https://arxiv.org/abs/1708.03888).

    Decay: coupled, inside the ratio. The paper's Algorithm 1 multiplies by the learning rate before momentum, here (and
    in timm) it comes after; at a constant rate that is the same. The ratio as in `_scale_by_lars`.
    """
    return [_scale_by_lars(decay), optax.trace(momentum)]


def _scale_by_lars(decay: Decay, coefficient: float = 1e-3, eps: float = 1e-8) -> optax.GradientTransformation:
    """g + decay w, times `coefficient |w| / (|g| + decay |w| + eps)` on the leaves of `decay_mask` (its Algorithm 1).

    The ratio is 1 where a norm is 0. optax takes the norm of the sum instead of the sum of the norms.
    """
    if callable(decay.rate):
        raise ValueError("weight decay as a function of the step: lars takes a number")
    number = decay.rate

    def scaled(has_ratio: bool, decays: bool, g: jax.Array, w: jax.Array) -> jax.Array:
        rate = number if decays else 0.0
        if not has_ratio:
            return g + rate * w
        g_norm, w_norm = jnp.linalg.norm(g.ravel()), jnp.linalg.norm(w.ravel())
        ratio = coefficient * w_norm / (g_norm + rate * w_norm + eps)
        return (g + rate * w) * jnp.where((g_norm > 0) & (w_norm > 0), ratio, 1.0)

    return optax.stateless(
        lambda gradients, params: jax.tree.map(scaled, decay_mask(params), decay.mask(params), gradients, params))


def _lion(decay: Decay, *, b1: float = 0.9, b2: float = 0.99) -> Parts:
    """The sign of a momentum: Chen et al. 2023 (https://arxiv.org/abs/2302.06675, Algorithm 2). Decay: decoupled.

    Every entry moves by the learning rate, so the paper takes a learning rate 3 to 10 times smaller than AdamW's, and a
    decay larger by the same factor.
    """
    return [optax.scale_by_lion(b1, b2), decay.added]


def _muon(decay: Decay, output_modules: Collection[str] = (), *, momentum: float = 0.95,
          b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Parts:
    """Nesterov's momentum with its singular values set to about 1, for hidden matrices; AdamW for the rest.

    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/). Decay: decoupled. A convolution's kernel
    `(h, w, in, out)` is the matrix `(h * w * in, out)`; a grouped one looks the same and is treated so. AdamW (b1, b2,
    eps) updates the leaves that `decay_mask` leaves out, the output layers, and kernels of at most 3 input channels:
    those that see the image, and depthwise ones. A direction `(m, n)` is multiplied by 0.2 sqrt(max(m, n)), for
    entries as large as AdamW's, so that both share the learning rate and decay (Liu et al. 2025, sec. 2.2,
    https://arxiv.org/abs/2502.16982; torch: adjust_lr_fn="match_rms_adamw").

    Deviations: singular values are set in the gradients' own type, the source does it in bfloat16. optax.contrib.muon
    is not used: it corrects the bias of Nesterov's two terms, which torch and the source do not.
    """
    def direction(trace: jax.Array) -> jax.Array:
        matrix = trace.reshape(-1, trace.shape[-1])
        return (0.2 * max(matrix.shape) ** 0.5 * orthogonalize(matrix)).reshape(trace.shape)

    directions = optax.stateless(lambda traces, params: jax.tree.map(direction, traces))
    matrices = optax.chain(optax.trace(momentum, nesterov=True), directions)  # a sum, no mean: only directions count
    rest = optax.scale_by_adam(b1, b2, eps)
    labels = partial(_muon_labels, frozenset(output_modules))
    return [optax.partition({"matrix": matrices, "rest": rest}, labels), decay.added]


def _muon_labels(output_modules: frozenset[str], params: Any) -> Any:
    def label(name: str, decays: bool, x: jax.Array) -> str:
        sees_image_or_depthwise = x.ndim > 2 and x.shape[-2] <= 3
        hidden = decays and not sees_image_or_depthwise and not set(name.split("/")) & output_modules
        return "matrix" if hidden else "rest"

    return jax.tree.map(label, leaf_names(params), decay_mask(params), params)


def orthogonalize(x: jax.Array, steps: int = 5) -> jax.Array:
    """A matrix `(m, n)` with the singular vectors of `x` and singular values from 0.68 to 1.21.

    A quintic Newton-Schulz iteration whose coefficients trade accuracy for speed. Five steps suffice for singular
    values of at least 1/500 of the Frobenius norm; smaller ones stay smaller. See `_muon` for the source. A zero matrix
    stays zero.
    """
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / jnp.maximum(jnp.linalg.norm(wide), 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide.T if x.shape[0] > x.shape[1] else wide


OPTIMIZERS: Mapping[str, Callable[..., Parts]] = {
    "sgd": _sgd, "momentum": _momentum, "nesterov": _nesterov, "adagrad": _adagrad, "adadelta": _adadelta,
    "rmsprop": _rmsprop, "adam": _adam, "adamw": _adamw, "lamb": _lamb, "lars": _lars, "lion": _lion, "muon": _muon,
}

LINEAR = ("sgd", "momentum", "nesterov")  # whose direction is linear in the gradients


def hyperparameters(name: str) -> dict[str, float]:
    """The hyper-parameters that the optimizer `name` reads, with their defaults."""
    return options_of(OPTIMIZERS[name])


def make_optimizer(name: str, schedule: optax.Schedule, *, weight_decay: float | optax.Schedule = 0.0,
                   decay: Literal["matrices", "no_bias_or_norm", "all"] = "matrices", momentum: float | None = None,
                   b1: float | None = None, b2: float | None = None, eps: float | None = None,
                   clip_norm: float | None = None, clip_each: float | None = None,
                   layer_scale: Callable[[str], float] | None = None,
                   gradient_scale: Callable[[str], float] | None = None,
                   held: tuple[Callable[[str], bool], int] | None = None,
                   own_schedules: Sequence[tuple[Callable[[str], bool], optax.Schedule]] = (),
                   frozen: Callable[[str], bool] | None = None,
                   output_modules: Collection[str] = ()) -> optax.GradientTransformation:
    """An optax optimizer by its name in OPTIMIZERS.

    weight_decay: 0 or more, coupled or decoupled as the optimizer has it; or a function of the step, which all but LARS
    take. decay: what decays; "matrices" as in `decay_mask`, "no_bias_or_norm" as in `array_mask`, or "all", as in older
    recipes (AlexNet, VGG, ResNet).
    momentum, b1, b2 in [0, 1), eps more than 0: None for the optimizer's own, see `hyperparameters`.
    clip_norm: limit on the global norm of the gradients of what is trained, None for none.
    clip_each: limit on the norm of each leaf's gradient, see `clip_each_by_norm`; None for none.
    layer_scale: see `scale_by_layer`.
    gradient_scale(path): a factor on a leaf's gradient before it is used; only for optimizers that are linear in
    gradients: sgd, momentum and nesterov. There it is a relative learning rate that leaves the decay as it is.
    held: `(path -> bool, steps)`: these parameters begin to move and to gather moments after this many steps; their
    gradients count for `clip_norm` all along.
    own_schedules: pairs `(path -> bool, schedule)`: these parameters have this learning rate instead of `schedule`'s,
    the first pair's that holds; all else is the same for all.
    frozen(path): parameters that keep every bit. They do not decay, hold no moments, and do not count for `clip_norm`;
    statistics of normalisation layers are no parameters and go on moving.
    output_modules: names of the modules that give the output; Muon leaves their matrices to AdamW.
    Raises ValueError for an unknown name, a hyper-parameter that this optimizer does not read, a value out of range;
    and at `init` when `frozen` holds for all parameters or for none.
    """
    given = {"momentum": momentum, "b1": b1, "b2": b2, "eps": eps}
    build, hyper = choose("optimizer", OPTIMIZERS, name, given)
    if name == "muon":
        build = partial(build, output_modules=output_modules)
    for key, value in hyper.items():
        if not (value > 0 if key == "eps" else 0 <= value < 1):
            raise ValueError(f"{key} {value}: it must be {'more than 0' if key == 'eps' else 'in [0, 1)'}")
    if callable(weight_decay) and name == "lars":
        raise ValueError("weight_decay as a function of the step: lars takes a number, because its ratio holds the "
                         "decay")
    if not callable(weight_decay) and not weight_decay >= 0:
        raise ValueError(f"weight_decay {weight_decay}: it must be 0 or more")
    for key, limit in (("clip_norm", clip_norm), ("clip_each", clip_each)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{key} {limit}: it must be more than 0, or None for no clipping")
    if held is not None and held[1] < 0:
        raise ValueError(f"held for {held[1]} steps: it must be 0 or more")
    if gradient_scale is not None and name not in LINEAR:
        raise ValueError(f"a gradient scale with optimizer {name!r}: it must be one of {', '.join(LINEAR)}")
    if decay not in DECAYS:
        raise ValueError(f"decay {decay!r}: it must be one of {', '.join(DECAYS)}")

    def starting_at(step: int) -> Parts:
        """The optimizer of parameters whose first update is that of `step`: rates are those of the run's steps."""
        parts = [scale_by_layer(gradient_scale)] if gradient_scale else []
        parts += build(Decay(_later(weight_decay, step), DECAYS[decay]), **hyper)
        parts += [scale_by_layer(layer_scale)] if layer_scale else []
        return [*parts, learning_rate(step)]

    def learning_rate(step: int) -> optax.GradientTransformation:
        rate = optax.scale_by_learning_rate(_later(schedule, step))
        for has_own, own in reversed(own_schedules):
            own_rate = optax.scale_by_learning_rate(_later(own, step))
            rate = optax.partition({"own": own_rate, "rate": rate}, partial(_named, "own", has_own, "rate"))
        return rate

    clips = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    clips += [] if clip_each is None else [clip_each_by_norm(clip_each)]
    if held is None or held[1] == 0:
        optimizer = optax.chain(*clips, *starting_at(0))
    else:
        is_held, steps = held

        def moves(step: Any, **_: Any) -> Any:
            return step >= steps

        groups: dict[Hashable, optax.GradientTransformation] = {
            "moving": optax.chain(*starting_at(0)),
            "held": optax.conditionally_mask(optax.chain(*starting_at(steps)), moves)}
        optimizer = optax.chain(*clips, optax.partition(groups, partial(_labels, "held", is_held, "moving")))
    for has_own, _ in own_schedules:  # looked at here, for held and moving parameters by themselves may be of one kind
        optimizer = _checked(optimizer, "own schedule", has_own)
    return _freeze(optimizer, frozen) if frozen else optimizer


def _later(rate: float | optax.Schedule, steps: int) -> float | optax.Schedule:
    """`rate`, this many steps later."""
    return (lambda step: rate(step + steps)) if callable(rate) else rate


def _labels(name: str, chosen: Callable[[str], bool], other: str, params: Any) -> Any:
    """Labels of `optax.partition`: `name` where `chosen(path)`, else `other`. ValueError when all leaves get one."""
    names = leaf_names(params)
    found = set(map(chosen, jax.tree.leaves(names)))
    if len(found) == 1:
        which, (example, *others) = "all" if found.pop() else "none", jax.tree.leaves(names)
        raise ValueError(f"{name} holds for {which} of {len(others) + 1} parameters, such as {example}: "
                         "it must hold for some and not for others")
    return _named(name, chosen, other, params)


def _named(name: str, chosen: Callable[[str], bool], other: str, params: Any) -> Any:
    """`name` where `chosen(path)`, else `other`."""
    return jax.tree.map(lambda path: name if chosen(path) else other, leaf_names(params))


def _checked(optimizer: optax.GradientTransformation, name: str, chosen: Callable[[str], bool]
             ) -> optax.GradientTransformation:
    """The optimizer; its `init` raises ValueError where `chosen` holds for all parameters or for none."""
    def init(params: Any) -> Any:
        _labels(name, chosen, "other", params)
        return optimizer.init(params)

    return optimizer._replace(init=init)


def _freeze(optimizer: optax.GradientTransformation, frozen: Callable[[str], bool]) -> optax.GradientTransformation:
    # Not +0.0, which turns a parameter of -0.0 into +0.0: adding -0.0 changes no bit of any number.
    hold = optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates))
    return optax.partition({"trained": optimizer, "frozen": hold}, partial(_labels, "frozen", frozen, "trained"))
