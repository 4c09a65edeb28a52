"""Optimizers: what decays, how layers are scaled, what is frozen; steps worked out by hand and by a slow twin."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimizer_problem as problem
import pytest

from cvjax.models import create_model
from cvjax.train.optim import (
    DECAYS,
    OPTIMIZERS,
    bias_scale,
    clip_each_by_norm,
    decay_mask,
    head_scale,
    hyperparameters,
    leaf_names,
    make_optimizer,
    orthogonalize,
    product,
    scale_by_layer,
    vit_layer_decay,
)


def params_of(name, *noise, **fields):
    model = create_model(name, image_size=8, patch_size=4, width=8, heads=2, **fields)
    images = jnp.zeros((1, 8, 8, model.in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), images, *noise)["params"]


def undecayed(params) -> set[str]:
    names, mask = leaf_names(params), decay_mask(params)
    return {name for name, decays in zip(jax.tree.leaves(names), jax.tree.leaves(mask)) if not decays}


BLOCK = {"norm1/scale", "norm1/bias", "attn/qkv/bias", "attn/proj/bias", "norm2/scale", "norm2/bias",
         "mlp/fc1/bias", "mlp/fc2/bias"}


def test_undecayed_leaves_of_a_vit_with_all_options():
    params = params_of("vit_tiny_patch16_224", depth=2, num_classes=3, qk_norm=True, layer_scale=0.1)
    special = {f"attn/{x}_norm/{leaf}" for x in "qk" for leaf in ("scale", "bias")} | {"ls1/gamma", "ls2/gamma"}
    expected = {f"blocks/{i}/{leaf}" for i in range(2) for leaf in BLOCK | special}
    assert undecayed(params) == expected | {
        "cls_token", "pos_embed", "patch_embed/proj/bias", "norm/scale", "norm/bias", "head/bias"}


def test_by_dinos_rule_positions_and_tokens_decay_and_vectors_do_not():
    params = params_of("vit_tiny_patch16_224", depth=1, num_classes=2, layer_scale=0.1)
    decays = dict(zip(jax.tree.leaves(leaf_names(params)), jax.tree.leaves(DECAYS["no_bias_or_norm"](params))))
    assert {name for name, does in decays.items() if does} == {
        "pos_embed", "cls_token", "patch_embed/proj/kernel", "head/kernel",
        *(f"blocks/0/{layer}/kernel" for layer in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2"))}


def test_undecayed_leaves_of_a_masked_autoencoder():
    params = params_of("mae_vit_tiny_patch16", jnp.zeros((1, 4)), depth=1, decoder_width=8, decoder_depth=1,
                       decoder_heads=2)
    blocks = {f"{part}/blocks/0/{leaf}" for part in ("encoder", "decoder") for leaf in BLOCK}
    assert undecayed(params) == blocks | {
        "encoder/cls_token", "encoder/patch_embed/proj/bias", "encoder/norm/scale", "encoder/norm/bias",
        "decoder/mask_token", "decoder/embed/bias", "decoder/norm/scale", "decoder/norm/bias", "decoder/pred/bias"}


def test_layer_wise_decay_is_the_table_of_mae_fine_tuning():
    """He et al. 2022, Table 9 and their lrd.py: 0.65 ** (layers - layer), with the embeddings at layer 0."""
    params = params_of("vit_tiny_patch16_224", depth=4, num_classes=3, pool="avg", registers=1, pre_norm=True)
    scale = vit_layer_decay(0.65, 4)
    stem = ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre")
    table = {**dict.fromkeys(stem, 0.65**5), "blocks/0": 0.65**4, "blocks/1": 0.65**3, "blocks/2": 0.65**2,
             "blocks/3": 0.65, "fc_norm": 1.0, "head": 1.0}
    found = {}
    for name in jax.tree.leaves(leaf_names(params)):
        place = "/".join(name.split("/")[:2]) if name.startswith("blocks") else name.split("/")[0]
        assert found.setdefault(place, scale(name)) == scale(name)
    assert found == pytest.approx(table)


def test_layer_scale_multiplies_updates():
    tree = {"blocks": {"0": {"w": jnp.ones(2)}, "1": {"w": jnp.ones(2)}}, "head": {"w": jnp.ones(2)}}
    transform = scale_by_layer(vit_layer_decay(0.5, 2))
    updates, _ = transform.update(tree, transform.init(tree))
    assert [float(u[0]) for u in jax.tree.leaves(updates)] == [0.25, 0.5, 1.0]


def test_a_gradient_scale_is_a_rate_of_its_own_with_the_same_decay():
    """torch's groups of rates r and 3 r and of decays w and w / 3: momentum is linear, so scaled gradients do it."""
    params = {"bn": {"bias": jnp.array([1.0, -2.0])}, "fc": {"kernel": jnp.array([[0.5, 3.0]])}}
    options = dict(weight_decay=0.2, decay="all", momentum=0.8)
    optimizer = make_optimizer("nesterov", lambda step: 0.1, gradient_scale=lambda path: 3.0 if "bn" in path else 1.0,
                               **options)
    state, expected = optimizer.init(params), {"bn": np.array([1.0, -2.0]), "fc": np.array([[0.5, 3.0]])}
    traces = {name: np.zeros_like(x) for name, x in expected.items()}
    for step in range(3):
        gradients = jax.tree.map(jnp.sin, jax.tree.map(lambda x, by=step: x + by, params))
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for name, (rate, decay) in {"bn": (0.3, 0.2 / 3), "fc": (0.1, 0.2)}.items():
            g = np.sin(expected[name] + step) + decay * expected[name]
            traces[name] = 0.8 * traces[name] + g
            expected[name] = expected[name] - rate * (g + 0.8 * traces[name])
    np.testing.assert_allclose(params["bn"]["bias"], expected["bn"], rtol=1e-5)  # three float32 steps
    np.testing.assert_allclose(params["fc"]["kernel"], expected["fc"], rtol=1e-5)
    with pytest.raises(ValueError, match="a gradient scale with optimizer 'adamw': it must be one of sgd, momentum"):
        make_optimizer("adamw", lambda step: 0.1, gradient_scale=lambda path: 1.0)


@pytest.mark.parametrize("decay, decays", [("all", 1), ("matrices", 0)])
def test_a_bias_rate_is_caffes(decay, decays):
    """Caffe: v = momentum v + rate lr_mult (g + weight_decay decay_mult w); w = w - v. lr_mult: 1 of kernels, 2 of
    biases. decay_mult: 1, and 0 of biases with `matrices`, which without norms are all that there is but kernels."""
    params = {"fc": {"kernel": jnp.array([[0.5, 3.0]]), "bias": jnp.array([1.0, -2.0])}}
    optimizer = make_optimizer("momentum", lambda step: 0.1, weight_decay=0.2, decay=decay,
                               layer_scale=product(None, bias_scale(2.0)))
    state, expected = optimizer.init(params), {"kernel": np.array([[0.5, 3.0]]), "bias": np.array([1.0, -2.0])}
    v = {name: np.zeros_like(x) for name, x in expected.items()}
    for step in range(3):
        gradients = jax.tree.map(lambda x, by=step: jnp.sin(x + by), params)
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for name, (rate, multiple) in {"kernel": (1, 1), "bias": (2, decays)}.items():
            g = np.sin(expected[name] + step) + 0.2 * multiple * expected[name]
            v[name] = 0.9 * v[name] + 0.1 * rate * g
            expected[name] = expected[name] - v[name]
    for name, values in expected.items():
        np.testing.assert_allclose(params["fc"][name], values, rtol=1e-5)  # three float32 steps


def test_layer_scales_are_multiplied():
    scale = product(bias_scale(2.0), head_scale(0.1, lambda name: name.startswith("head/")), None)
    assert [scale(name) for name in ("head/kernel", "head/bias", "bias", "conv/kernel")] == [1, 2, 0.2, 0.1]
    assert product() is None and product(None, None) is None
    with pytest.raises(ValueError, match="bias_rate 0: it must be more than 0"):
        bias_scale(0)


PARAMS = {"kernel": np.array([[1.0, -2.0], [3.0, 0.5]]), "bias": np.array([1.0, -1.0])}
GRADIENTS = {"kernel": np.array([[0.3, -0.4], [0.0, 1.2]]), "bias": np.array([0.5, -0.6])}


def first_update(name, **options):
    params, gradients = (jax.tree.map(jnp.float32, tree) for tree in (PARAMS, GRADIENTS))
    optimizer = make_optimizer(name, lambda step: 0.01, **options)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return updates


def test_first_adamw_step():
    """With m = 0.1 g and v = 0.05 g**2, both bias-corrected to g and g**2, the step is g / (|g| + 1e-8)."""
    updates = first_update("adamw", weight_decay=0.1, b2=0.95)
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        g, p = GRADIENTS[name], PARAMS[name]
        np.testing.assert_allclose(updates[name], -0.01 * (g / (np.abs(g) + 1e-8) + decay * p), rtol=1e-5, atol=1e-9)


def test_first_nesterov_step():
    """The trace is g, the step g + 0.9 g; decay belongs to the gradient."""
    updates = first_update("nesterov", weight_decay=0.1)
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        np.testing.assert_allclose(updates[name], -0.019 * (GRADIENTS[name] + decay * PARAMS[name]), rtol=1e-5)


def test_second_adamw_step_uses_b2():
    params = {"w": jnp.zeros((1, 1))}
    optimizer = make_optimizer("adamw", lambda step: 1.0, b2=0.5)
    state = optimizer.init(params)
    for gradient in (1.0, 3.0):
        updates, state = optimizer.update({"w": jnp.full((1, 1), gradient)}, state, params)
    m = (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.9**2)
    v = (0.5 * 0.5 * 1 + 0.5 * 9) / (1 - 0.5**2)
    assert float(updates["w"][0, 0]) == pytest.approx(-m / v**0.5, rel=1e-5)


def test_clipping_limits_the_norm_of_all_leaves_together():
    norm = np.sqrt(sum((g**2).sum() for g in GRADIENTS.values()))
    clipped, plain = first_update("sgd", clip_norm=norm / 4), first_update("sgd")
    for name in PARAMS:
        np.testing.assert_allclose(clipped[name], plain[name] / 4, rtol=1e-5, atol=1e-9)
    loose = first_update("sgd", clip_norm=2 * norm)
    np.testing.assert_allclose(loose["kernel"], plain["kernel"], rtol=1e-6)


def test_schedule_is_read_at_the_step():
    params = {"w": jnp.ones((1, 1))}
    optimizer = make_optimizer("sgd", lambda step: jnp.where(step == 0, 0.0, 1.0))
    state = optimizer.init(params)
    first, state = optimizer.update(params, state, params)
    second, _ = optimizer.update(params, state, params)
    assert float(first["w"][0, 0]) == 0 and float(second["w"][0, 0]) != 0


def run(name, peak, **options):
    """The parameters after the problem's steps, float32, compiled as in training."""
    optimizer = make_optimizer(name, lambda step: problem.rate(step, peak), weight_decay=problem.DECAY, **options)
    params = jax.tree.map(jnp.float32, problem.start())
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(problem.STEPS):
        updates, state = update(jax.tree.map(jnp.float32, problem.gradients(params)), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_every_optimizer_has_a_setting():
    assert list(problem.SETTINGS) == list(OPTIMIZERS)
    for name, (_, options) in problem.SETTINGS.items():
        assert set(options) == set(hyperparameters(name)), "a default not replaced is not tested"


@pytest.mark.parametrize("name", problem.SETTINGS)
def test_twenty_steps_are_those_of_the_slow_twin(name):
    """The twin is float64. A float32 step rounds parameters of about 1, gradient and direction by 6e-8 each, and the
    problem hardly amplifies it: 20 steps * 3 * 6e-8 = 4e-6. Muon multiplies small singular values by up to 485 before
    they enter a step of 0.05 * 0.2 * sqrt(16): 20 * 6e-8 * 485 * 0.04 = 2e-5."""
    peak, options = problem.SETTINGS[name]
    start, expected, found = problem.start(), problem.twin(name, peak, **options), run(name, peak, **options)
    for key in start:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=2e-5 if name == "muon" else 4e-6)
        assert np.abs(expected[key] - start[key]).max() > 0.02, "a problem that stands still tells nothing"


@pytest.mark.parametrize("name", problem.SETTINGS)
def test_defaults_are_the_published_ones(name):
    published = {"momentum": 0.9, "b1": 0.9, "b2": 0.999, "eps": 1e-8}
    own = {"adadelta": {"b2": 0.9, "eps": 1e-6}, "rmsprop": {"momentum": 0.0, "b2": 0.99}, "lamb": {"eps": 1e-6},
           "lion": {"b2": 0.99}, "muon": {"momentum": 0.95}}.get(name, {})
    assert hyperparameters(name) == {key: (published | own)[key] for key in hyperparameters(name)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_of_all_reaches_biases_and_decay_of_matrices_does_not(name):
    """From equal gradients; the direction of a sign or of a ratio must see the decay, so it is large."""
    plain, matrices, everything = (first_update(name, weight_decay=decay, decay=which)
                                   for decay, which in ((0.0, "matrices"), (3.0, "matrices"), (3.0, "all")))
    np.testing.assert_array_equal(matrices["bias"], plain["bias"])
    np.testing.assert_array_equal(matrices["kernel"], everything["kernel"])
    if name not in ("adagrad", "adadelta", "rmsprop", "adam"):  # whose first steps are the gradient's sign
        assert np.abs(everything["bias"] - plain["bias"]).max() > 1e-4
    assert np.abs(matrices["kernel"] - plain["kernel"]).max() > 1e-6


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_trust_ratio_is_for_matrices_and_never_zero(name):
    """Ten times larger weights give ten times larger steps; biases, and weights of 0, take the step as it is."""
    def step(scale):
        params, gradients = (jax.tree.map(jnp.float32, tree) for tree in (PARAMS, GRADIENTS))
        params = jax.tree.map(lambda x: x * scale, params)
        optimizer = make_optimizer(name, lambda step: 0.01)
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    np.testing.assert_allclose(step(10.0)["kernel"], 10 * step(1.0)["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(step(10.0)["bias"], step(1.0)["bias"])
    plain = {"lars": GRADIENTS["kernel"], "lamb": np.sign(GRADIENTS["kernel"])}[name]
    np.testing.assert_allclose(step(0.0)["kernel"], -0.01 * plain, rtol=1e-4)  # LAMB: g / (|g| + 1e-6), |g| >= 0.3


def test_orthogonalization_keeps_singular_vectors_and_lifts_singular_values():
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.normal(size=(7, 4)))[0], np.linalg.qr(rng.normal(size=(4, 4)))[0]
    for shaped in (lambda x: x, np.transpose):
        x = shaped(left * [1.0, 0.5, 0.05, 0.003] @ right)
        lifted = np.linalg.svd(orthogonalize(jnp.float32(x)), compute_uv=False)
        assert lifted.shape == (4,) and 0.68 < lifted.min() and lifted.max() < 1.21
        core = left.T @ shaped(np.asarray(orthogonalize(jnp.float32(x)))) @ right.T
        off_diagonal = core - np.diag(np.diag(core))
        assert np.abs(off_diagonal).max() < 1e-3  # roundings of 6e-8, lifted up to 485 times, a few of them
    assert not np.asarray(orthogonalize(jnp.zeros((3, 2)))).any()


def test_muon_takes_the_hidden_matrices_and_adam_the_rest():
    params = {"conv1": {"kernel": jnp.ones((3, 3, 3, 8))},
              "conv2": {"kernel": jnp.ones((3, 3, 8, 8)), "bias": jnp.ones(8)},
              "depthwise": {"kernel": jnp.ones((3, 3, 1, 8))}, "pos_embed": jnp.ones((1, 4, 8)),
              "mlp": {"fc1": {"kernel": jnp.ones((8, 8))}}, "fc": {"kernel": jnp.ones((8, 10))}}
    state = make_optimizer("muon", lambda step: 0.1, output_modules=("fc",)).init(params)
    traces = {name for name, leaf in zip(jax.tree.leaves(leaf_names(state)), jax.tree.leaves(state)) if "trace" in name}
    assert {name.split("trace/")[1] for name in traces} == {"conv2/kernel", "mlp/fc1/kernel"}


def test_muon_sees_a_convolution_as_patches_times_filters():
    """The same numbers as a dense layer on patches, and its own scale: entries as large as AdamW's 0.2."""
    gradient = jnp.float32(np.random.default_rng(0).normal(size=(3, 3, 8, 16)))
    optimizer = make_optimizer("muon", lambda step: 1.0)

    def step(g):
        return optimizer.update({"w": g}, optimizer.init({"w": g}), {"w": g})[0]["w"]

    np.testing.assert_array_equal(step(gradient).reshape(72, 16), step(gradient.reshape(72, 16)))
    # 16 singular values of 0.68 to 1.21 in 72 * 16 entries, times 0.2 sqrt(72): a root mean square of 0.2 * those.
    assert 0.2 * 0.68 < np.sqrt(np.mean(np.square(step(gradient)))) < 0.2 * 1.21


def in_backbone(name):
    return name.startswith("backbone/")


def two_part_params():
    backbone = {"kernel": jnp.array([[0.5, -0.0], [1.5, -2.0]]), "scale": jnp.array([1.0, -0.0])}
    return {"backbone": backbone, "top": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_keep_every_bit_and_hold_no_moments(name):
    params = two_part_params()
    optimizer = make_optimizer(name, lambda step: 0.1, weight_decay=0.5, decay="all", clip_norm=1.0, frozen=in_backbone)
    state, start = optimizer.init(params), params
    held = [leaf_name for leaf_name in jax.tree.leaves(leaf_names(state)) if "backbone" in leaf_name]
    assert held == []
    update = jax.jit(lambda params, state: optimizer.update(jax.tree.map(jnp.ones_like, params), state, params))
    for _ in range(3):
        updates, state = update(params, state)
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(updates["backbone"]))
        params = jax.jit(optax.apply_updates)(params, updates)
    for before, after in zip(jax.tree.leaves(start["backbone"]), jax.tree.leaves(params["backbone"])):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    for before, after in zip(jax.tree.leaves(start["top"]), jax.tree.leaves(params["top"])):
        assert (np.asarray(before) != np.asarray(after)).all()


def test_what_is_trained_moves_as_if_the_frozen_parameters_did_not_exist():
    """Clipping, decay and the rates of layers see only the trained parameters."""
    params = two_part_params()
    gradients = jax.tree.map(lambda x: 5 + jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape), params)
    options = dict(weight_decay=0.1, clip_norm=1.0, layer_scale=head_scale(0.1, lambda name: name.endswith("bias")))

    def update(params, gradients, **more):
        optimizer = make_optimizer("momentum", lambda step: 0.1, **options, **more)
        return optimizer.update(gradients, optimizer.init(params), params)[0]["top"]

    alone = update({"top": params["top"]}, {"top": gradients["top"]})
    jax.tree.map(np.testing.assert_array_equal, update(params, gradients, frozen=in_backbone), alone)
    assert np.abs(update(params, gradients)["kernel"] - alone["kernel"]).max() > 1e-4


@pytest.mark.parametrize("frozen, message", [
    (lambda name: True, "frozen holds for all of 4 parameters, such as backbone/kernel: it must hold for some"),
    (lambda name: name.startswith("encoder/"), "frozen holds for none of 4 parameters, such as backbone/kernel")])
def test_freezing_all_or_nothing_is_refused(frozen, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer("adamw", lambda step: 0.1, frozen=frozen).init(two_part_params())


def test_the_backbone_learns_at_a_share_of_the_head_s_rate():
    params = two_part_params()

    def update(**options):
        optimizer = make_optimizer("sgd", lambda step: 0.5, **options)
        return optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)[0]

    updates = update(layer_scale=head_scale(0.25, lambda name: name.startswith("top/")))
    assert {float(u) for u in updates["backbone"]["kernel"].ravel()} == {-0.125}
    assert {float(u) for u in updates["top"]["bias"]} == {-0.5}
    with pytest.raises(ValueError, match="layer scale is 0.25 for all 4 parameters, such as backbone/kernel"):
        update(layer_scale=head_scale(0.25, lambda name: name.startswith("head/")))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_of_the_rest_that_is_not_positive_is_refused(rate):
    with pytest.raises(ValueError, match="it must be more than 0"):
        head_scale(rate, in_backbone)


def test_each_gradient_is_clipped_by_its_own_norm():
    gradients = {"long": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "short": jnp.array([0.3, 0.4]), "none": jnp.zeros(3)}
    clip = clip_each_by_norm(2.0)
    clipped, _ = clip.update(gradients, clip.init(gradients))
    np.testing.assert_allclose(clipped["long"], np.array([[3, 0], [0, 4]]) * 2 / (5 + 1e-6), rtol=1e-6)
    np.testing.assert_array_equal(clipped["short"], gradients["short"])
    np.testing.assert_array_equal(clipped["none"], np.zeros(3))


def test_clipping_all_together_comes_before_clipping_each():
    """Norms 3 and 4, together 5, are clipped to 1: 0.6 and 0.8; then each to 0.7."""
    params = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    optimizer = make_optimizer("sgd", lambda step: 1.0, clip_norm=1.0, clip_each=0.7)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert float(updates["a"][0]) == pytest.approx(-0.6) and float(updates["b"][0]) == pytest.approx(-0.7, rel=1e-5)


def steps_of(count, params, gradients, **options):
    """The parameters before and after each step; `gradients(step)` has their structure."""
    optimizer = make_optimizer(options.pop("name", "adamw"), options.pop("rate", lambda step: 0.1), **options)
    state, seen = optimizer.init(params), [params]
    update = jax.jit(optimizer.update)
    for step in range(count):
        updates, state = update(gradients(step), state, seen[-1])
        seen.append(jax.tree.map(lambda p, u: p + u, seen[-1], updates))
    return seen


def falling(step):
    return 0.1 / (1 + step)


def rising(step):
    return 0.5 + step


def uneven(step):
    return jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=jnp.float32) + step).reshape(x.shape) + 0.1,
                        two_part_params())


@pytest.mark.parametrize("name", ["momentum", "adamw", "lion", "lars"])
def test_decay_may_be_a_function_of_the_step(name):
    """A constant function gives the constant's numbers; one that changes gives others from then on. LARS takes none."""
    params = two_part_params()
    if name == "lars":
        with pytest.raises(ValueError, match="weight_decay as a function of the step: lars takes a number"):
            make_optimizer(name, lambda step: 0.1, weight_decay=lambda step: 0.5)
        return
    constant, function, later = (steps_of(2, params, uneven, name=name, weight_decay=decay) for decay in (
        0.5, lambda step: 0.5, lambda step: jnp.where(step == 0, 0.5, 3.0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), function, constant)
    jax.tree.map(np.testing.assert_array_equal, later[1], function[1])
    assert np.abs(later[2]["top"]["kernel"] - function[2]["top"]["kernel"]).max() > 1e-5
    np.testing.assert_array_equal(later[2]["top"]["bias"], function[2]["top"]["bias"])


@pytest.mark.parametrize("held_steps", [1, 3])
def test_held_parameters_begin_late_as_a_new_optimizer_at_the_rates_of_the_run(held_steps):
    """Neither decay nor moments before: their first step is Adam's first, with the rate and the decay of that step."""
    params = two_part_params()
    found = steps_of(5, params, uneven, rate=falling, weight_decay=rising, held=(in_backbone, held_steps))
    free = steps_of(5, params, uneven, rate=falling, weight_decay=rising)
    late = steps_of(5 - held_steps, params, lambda step: uneven(step + held_steps),
                    rate=lambda step: falling(step + held_steps), weight_decay=lambda step: rising(step + held_steps))
    for step in range(6):
        jax.tree.map(np.testing.assert_array_equal, found[step]["top"], free[step]["top"])
        jax.tree.map(np.testing.assert_array_equal, found[step]["backbone"],
                     late[max(step - held_steps, 0)]["backbone"])
    assert np.abs(found[5]["backbone"]["kernel"] - free[5]["backbone"]["kernel"]).max() > 1e-3


def test_gradients_of_held_parameters_count_for_the_norm_of_all():
    params = two_part_params()
    ones = jax.tree.map(jnp.ones_like, params)
    options = dict(name="sgd", rate=lambda step: 1.0, clip_norm=1.0)
    alone, held = (steps_of(1, params, lambda step: ones, **options, **more) for more in (
        {}, dict(held=(in_backbone, 2))))
    jax.tree.map(np.testing.assert_array_equal, held[1]["top"], alone[1]["top"])


def test_nothing_held_for_no_steps_is_the_plain_optimizer():
    params = two_part_params()
    plain, held = (make_optimizer("adamw", lambda step: 0.1, held=held) for held in (None, (in_backbone, 0)))
    assert jax.tree.structure(plain.init(params)) == jax.tree.structure(held.init(params))


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_parameters_with_a_schedule_of_their_own_move_as_if_it_were_everyones(name):
    """Decay and moments included; the others do not notice."""
    params, options = two_part_params(), dict(name=name, weight_decay=0.5, decay="all")
    found = steps_of(4, params, uneven, rate=falling, own_schedules=[(in_backbone, lambda step: 0.1)], **options)
    constant, changing = (steps_of(4, params, uneven, rate=rate, **options) for rate in (lambda step: 0.1, falling))
    for step in range(5):
        jax.tree.map(np.testing.assert_array_equal, found[step]["backbone"], constant[step]["backbone"])
        jax.tree.map(np.testing.assert_array_equal, found[step]["top"], changing[step]["top"])
    assert np.abs(found[4]["backbone"]["kernel"] - changing[4]["backbone"]["kernel"]).max() > 1e-3


def test_a_schedule_of_ones_own_is_that_of_the_runs_steps_for_held_parameters_too():
    params, held = two_part_params(), (lambda name: name.endswith(("bias", "scale")), 2)
    found = steps_of(4, params, uneven, rate=lambda step: 0.1, own_schedules=[(in_backbone, falling)], held=held)
    changing = steps_of(4, params, uneven, rate=falling, held=held)
    jax.tree.map(np.testing.assert_array_equal, found[4]["backbone"], changing[4]["backbone"])
    assert np.abs(found[4]["top"]["bias"] - changing[4]["top"]["bias"]).max() > 1e-3


@pytest.mark.parametrize("owns", [lambda name: True, lambda name: name.startswith("encoder/")])
def test_a_schedule_of_ones_own_for_all_or_nothing_is_refused(owns):
    with pytest.raises(ValueError, match="own schedule holds for (all|none) of 4 parameters, such as backbone/kernel"):
        make_optimizer("adamw", lambda step: 0.1, own_schedules=[(owns, lambda step: 0.1)]).init(two_part_params())


def test_frozen_and_held_go_together():
    params = two_part_params()
    found = steps_of(2, params, uneven, frozen=in_backbone, held=(lambda name: name.endswith("bias"), 1))
    jax.tree.map(np.testing.assert_array_equal, found[2]["backbone"], params["backbone"])
    np.testing.assert_array_equal(found[1]["top"]["bias"], params["top"]["bias"])
    assert (np.asarray(found[2]["top"]["bias"]) != np.asarray(params["top"]["bias"])).all()
    assert (np.asarray(found[1]["top"]["kernel"]) != np.asarray(params["top"]["kernel"])).all()


@pytest.mark.parametrize("held", [lambda name: True, lambda name: name.startswith("encoder/")])
def test_holding_all_or_nothing_is_refused(held):
    with pytest.raises(ValueError, match="held holds for (all|none) of 4 parameters, such as backbone/kernel"):
        make_optimizer("adamw", lambda step: 0.1, held=(held, 1)).init(two_part_params())


@pytest.mark.parametrize("name, options, message", [
    ("sdg", {}, "unknown optimizer 'sdg': it must be one of sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam"),
    ("sgd", {"momentum": 0.9}, "optimizer 'sgd' does not read momentum: it reads nothing"),
    ("lion", {"eps": 1e-8}, "optimizer 'lion' does not read eps: it reads b1, b2"),
    ("adam", {"b2": 1.0}, r"b2 1.0: it must be in \[0, 1\)"),
    ("momentum", {"momentum": -0.1}, r"momentum -0.1: it must be in \[0, 1\)"),
    ("adam", {"eps": 0.0}, "eps 0.0: it must be more than 0"),
    ("adam", {"weight_decay": -1.0}, "weight_decay -1.0: it must be 0 or more"),
    ("adam", {"clip_norm": 0.0}, "clip_norm 0.0: it must be more than 0"),
    ("adam", {"clip_each": -1.0}, "clip_each -1.0: it must be more than 0, or None for no clipping"),
    ("adam", {"held": (in_backbone, -1)}, "held for -1 steps: it must be 0 or more"),
    ("adam", {"decay": "kernels"}, "decay 'kernels': it must be one of matrices, no_bias_or_norm, all"),
])
def test_what_cannot_be_is_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        make_optimizer(name, lambda step: 0.1, **options)
    assert "\n" not in str(error.value)
