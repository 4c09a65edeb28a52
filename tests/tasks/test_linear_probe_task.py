"""The published linear probes as a task, against the authors' updates in NumPy float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.norm import BatchNorm
from cvjax.tasks.linear_probe import linear_probe_task
from cvjax.train.optim import make_optimizer
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step

CLASSES, WIDTH, STEPS = 6, 5, 5
RATES = {"lr=40": 40.0, "lr=10": 10.0}  # LARS multiplies gradients by about 1e-4 here


class Network(nn.Module):
    """Features that would differ in training mode: a batch norm after a projection."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(WIDTH, name="proj")(images.reshape(len(images), -1))
        return BatchNorm(name="bn")(x, train=train)


def preprocess(images):
    return images.astype(jnp.float32) / 255 - 0.5


def task_of(**options):
    network = Network()
    return linear_probe_task(network, features=partial(network.apply, train=False),
                             augment=lambda key, image: preprocess(image), preprocess=preprocess, num_classes=CLASSES,
                             **options)


def batch_of(seed: int, count: int = 16, mask=None):
    numbers = np.random.default_rng(seed)
    return {"image": numbers.integers(0, 256, (count, 3, 3, 1), np.uint8),
            "label": numbers.integers(0, CLASSES, count).astype(np.int32), "index": np.arange(count),
            "mask": np.ones(count, bool) if mask is None else mask}


def trained_network(seed: int = 7):
    """Variables whose running statistics are far from those of any batch here, and one parameter is -0.0."""
    numbers = np.random.default_rng(seed)
    kernel = np.float32(numbers.normal(size=(9, WIDTH)))
    kernel[0, 0] = -0.0
    return {"params": {"proj": {"kernel": kernel, "bias": np.float32(numbers.normal(size=WIDTH))},
                       "bn": {"scale": np.float32(numbers.uniform(0.5, 2, WIDTH)),
                              "bias": np.float32(numbers.normal(size=WIDTH))}},
            "batch_stats": {"bn": {"mean": np.float32(numbers.normal(size=WIDTH) + 2),
                                   "var": np.float32(numbers.uniform(1, 4, WIDTH))}}}


def features_by_hand(network, images):
    """In float64, with running statistics."""
    p, s = network["params"], network["batch_stats"]["bn"]
    x = (np.float64(images.reshape(len(images), -1)) / 255 - 0.5) @ np.float64(p["proj"]["kernel"]) + p["proj"]["bias"]
    return p["bn"]["scale"] * (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) + p["bn"]["bias"]


def schedule(step):
    return 1.0 / (1 + step)


def train(task, optimizer, network):
    def init(rng, frozen):
        return create_state(lambda rng: {**task.init(rng, batch_of(0, 1)), "frozen": frozen}, optimizer, rng)

    state = jax.jit(init)(jax.random.key(0), network)
    step, states = jax.jit(make_train_step(task, optimizer)), [state]
    for number in range(STEPS):
        state, metrics = step(state, batch_of(number))
        states.append(state)
    return states, metrics


def optimizer_of_two_heads():
    return make_optimizer("lars", lambda step: 40.0 * schedule(step), momentum=0.9,
                          layer_scale=lambda path: RATES[path.split("/")[0]] / 40.0)


@pytest.fixture(scope="module")
def mae():
    """Two heads on a batch norm by LARS, and the states after each step."""
    task, network = task_of(batch_norm=True, heads=tuple(RATES)), trained_network()
    return task, network, *train(task, optimizer_of_two_heads(), network)


@pytest.fixture(scope="module")
def dino():
    """One head by SGD with momentum."""
    task, network = task_of(batch_norm=False), trained_network()
    return task, network, *train(task, make_optimizer("momentum", schedule, momentum=0.9), network)


def host(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def head_by_hand(head, network, rate, *, norm: bool, lars: bool):
    """The authors' loop: normalise, softmax regression, the trust ratio only on the kernel, momentum, rate."""
    head = dict(head)
    velocity = {name: np.zeros_like(value) for name, value in head.items()}
    running = np.zeros(WIDTH), np.ones(WIDTH)
    for number in range(STEPS):
        batch = batch_of(number)
        x, y = features_by_hand(network, batch["image"]), batch["label"]
        if norm:
            mean, var, count = x.mean(0), x.var(0), len(x)
            running = 0.9 * running[0] + 0.1 * mean, 0.9 * running[1] + 0.1 * var * count / (count - 1)
            x = (x - mean) / np.sqrt(var + 1e-6)
        logits = x @ head["kernel"] + head["bias"]
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        loss = -np.log(share[np.arange(len(y)), y]).mean()
        error = (share - np.eye(CLASSES)[y]) / len(y)
        gradient = {"kernel": x.T @ error, "bias": error.sum(0)}
        if lars:
            gradient["kernel"] *= 1e-3 * np.linalg.norm(head["kernel"]) / np.linalg.norm(gradient["kernel"])
        for name in head:
            velocity[name] = 0.9 * velocity[name] + gradient[name]
            head[name] = head[name] - rate * schedule(number) * velocity[name]
    return head, running, loss


def close(found, expected):
    """Five float32 steps that each lose a few parts in 1e7 of numbers of about the largest one's size."""
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", RATES)
def test_maes_form_equals_the_authors_loop_and_several_heads_train_as_if_alone(mae, name):
    _, network, states, metrics = mae
    head, running, loss = head_by_hand(host(states[0].params[name]), network, RATES[name], norm=True, lars=True)
    for leaf in ("kernel", "bias"):
        assert np.abs(head[leaf] - host(states[0].params[name][leaf])).max() > 1e-4, "nothing to see"
        close(states[-1].params[name][leaf], head[leaf])
    for leaf, expected in zip(("mean", "var"), running):
        close(states[-1].model_state["batch_stats"][leaf], expected)
    assert float(metrics[f"loss/{name}"][0]) / 16 == pytest.approx(loss, rel=1e-4)


def test_dinos_form_equals_the_authors_loop(dino):
    _, network, states, metrics = dino
    head, _, loss = head_by_hand(host(states[0].params["head"]), network, 1.0, norm=False, lars=False)
    for leaf in ("kernel", "bias"):
        close(states[-1].params["head"][leaf], head[leaf])
    assert float(metrics["loss"][0]) / 16 == pytest.approx(loss, rel=1e-4)
    assert set(metrics) == {"loss", "top1", "gradient_norm"}
    assert set(states[-1].model_state) == {"frozen"}


@pytest.mark.parametrize("form", ["mae", "dino"])
def test_the_frozen_network_keeps_every_bit_and_has_no_moments(form, request):
    _, network, states, _ = request.getfixturevalue(form)
    frozen, given = (jax.tree.leaves_with_path(tree) for tree in (states[-1].model_state["frozen"], network))
    assert [(path, np.asarray(x).tobytes()) for path, x in frozen] == [(path, x.tobytes()) for path, x in given]
    heads = sum(x.size for x in jax.tree.leaves(states[-1].params))
    assert heads == len(states[-1].params) * CLASSES * (WIDTH + 1)
    moments = [x for x in jax.tree.leaves(states[-1].opt_state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert sum(x.size for x in moments) == heads


def test_the_frozen_network_is_no_constant_of_the_program(mae):
    task, _, states, _ = mae
    step = make_train_step(task, optimizer_of_two_heads())
    assert sum(np.size(x) for x in jax.make_jaxpr(step)(states[0], batch_of(0)).consts) < WIDTH


def test_evaluation_uses_running_statistics_and_leaves_padding_out(mae):
    task, network, states, _ = mae
    mask = np.arange(16) < 11
    found = task.evaluate(states[-1].variables, batch_of(50, mask=mask))
    batch, stats = batch_of(50), host(states[-1].model_state["batch_stats"])
    x = (features_by_hand(network, batch["image"]) - stats["mean"]) / np.sqrt(stats["var"] + 1e-6)
    losses = []
    for name in RATES:
        head = host(states[-1].params[name])
        logits = x @ head["kernel"] + head["bias"]
        losses.append(-np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(16), batch["label"]])
        order = np.argsort(-logits, axis=1)
        for k in (1, 5):
            hits = (order[:, :k] == batch["label"][:, None]).any(1)[mask].sum()
            assert tuple(map(float, found[f"top{k}/{name}"])) == (hits, 11)
        assert float(found[f"loss/{name}"][0]) == pytest.approx(losses[-1][mask].sum(), rel=1e-4)
    assert float(found["loss"][0]) == pytest.approx(np.mean(losses, axis=0)[mask].sum(), rel=1e-4)


def test_heads_start_small_and_unlike():
    params = task_of(batch_norm=False, heads=("a", "b")).init(jax.random.key(0), batch_of(0, 1))["params"]
    kernels = [np.asarray(params[name]["kernel"]) for name in "ab"]
    assert not np.array_equal(*kernels) and not any(np.any(params[name]["bias"]) for name in "ab")
    # 60 draws: the deviation of their deviation is 0.01 / sqrt(120).
    assert np.std(kernels) == pytest.approx(0.01, abs=4 * 0.01 / np.sqrt(120))


@pytest.mark.parametrize("options, message", [
    (dict(heads=()), r"heads must be .* received \(\)"), (dict(heads=("a", "a")), "heads must be"),
    (dict(heads=("a/b",)), "without '/'"), (dict(num_classes=1), "num_classes must be at least 2, received 1"),
])
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        linear_probe_task(Network(), **dict(features=None, augment=None, preprocess=None, num_classes=3,
                                            batch_norm=True) | options)
