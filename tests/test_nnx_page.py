"""docs/nnx.md: a network of cvjax that is trained by NNX learns as it does in Linen, and comes back."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.interop import load_weights
from cvjax.models import create_model

pytestmark = pytest.mark.slow
BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs/nnx.md").read_text("utf-8"), re.S)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's blocks define, run in a folder of their own."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        exec(BLOCKS[0], names)
        names["read"] = load_weights(names["linen"], "trained.safetensors", whole=True)
        second: dict[str, Any] = {}
        exec(BLOCKS[1], second)
    return names | {"restored": second["model"]}


def test_its_losses_are_those_of_linen(page: dict[str, Any]) -> None:
    """With the same keys: the model's stream has counted one call, that of `lazy_init`.

    The operations are the same, but two programs may round them otherwise: 1e-6 of a loss is eight roundings. SGD is
    linear in the gradients, so that what they lose by rounding grows no more than they do: eight steps leave less than
    1e-5 of a parameter's magnitude.
    """
    from flax import nnx

    linen, images, labels = page["linen"], page["images"], page["labels"]
    key = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(params=0, dropout=1)).to_nnx__rngs.dropout.key[...]
    optimizer = optax.sgd(0.5, momentum=0.9)
    params, statistics = page["start"]["params"], page["start"]["batch_stats"]

    def loss_of(params, statistics, key):
        logits, new = linen.apply({"params": params, "batch_stats": statistics}, images, train=True,
                                  mutable=["batch_stats"], rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new["batch_stats"]

    @jax.jit
    def step(params, statistics, state, key):
        (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, statistics, key)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), statistics, state, loss

    state, losses = optimizer.init(params), []
    for i in range(len(page["losses"])):
        params, statistics, state, loss = step(params, statistics, state, jax.random.fold_in(key, 1 + i))
        losses.append(float(loss))
    np.testing.assert_allclose(page["losses"], losses, rtol=1e-6)
    assert losses[-1] < losses[0] - 0.1, "it learns"
    for ours, theirs in ((params, page["variables"]["params"]), (statistics, page["variables"]["batch_stats"])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max()), ours, theirs)


def test_statistics_move_and_keys_change(page: dict[str, Any]) -> None:
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), page["start"], page["variables"])
    assert all(jax.tree.leaves(moved))
    standing = page["nnx"].Optimizer(page["model"], optax.sgd(0.0), wrt=page["nnx"].Param)
    first, second = (page["step"](page["model"], standing, page["images"], page["labels"]) for _ in range(2))
    assert abs(first - second) > 1e-3, "drop path draws anew at each call"


def test_the_weights_come_back(page: dict[str, Any]) -> None:
    jax.tree.map(np.testing.assert_array_equal, page["read"], page["variables"])
    jax.tree.map(np.testing.assert_array_equal, page["linen_variables"](page["restored"]), page["variables"])


def test_a_model_without_batch_norm_needs_no_mutable() -> None:
    from flax import nnx

    linen = create_model("vit_tiny_patch16_224", image_size=8, patch_size=4, width=8, depth=1, heads=2, num_classes=2)
    images = jnp.ones((4, 8, 8, 3))
    model = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(params=0, dropout=1)).lazy_init(images)
    variables = {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
    assert not nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    @nnx.jit
    def answers(model):
        return (model(images, train=True), model(images, train=True, mutable=["batch_stats"]),
                model(images, maps=["blocks/0"])["blocks/0"])

    bare, given, tokens = answers(model)
    np.testing.assert_array_equal(bare, given)
    assert tokens.shape == (4, 2, 2, 8)
    np.testing.assert_allclose(bare, jax.jit(linen.apply)(variables, images), rtol=1e-6, atol=1e-6)
