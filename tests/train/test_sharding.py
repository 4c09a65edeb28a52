"""Where parameters live: rules, errors, and the numbers and messages of spread states on eight devices."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cvjax.layers.partition import spread, spread_axis
from cvjax.train.layout import Layout, parse_mesh
from cvjax.train.mesh import MeshEngine
from tests.train import test_devices
from tests.train.test_devices import (
    ADAMW,
    SGD,
    TOLERANCE,
    batch_norm,
    curve,
    dino,
    low_rank,
    mae,
    setup,
    sharded,
    supervised,
)

TASKS = {"mae": (mae, {}), "supervised": (supervised, dict(rate=1e-2)), "low_rank": (low_rank, dict(rate=1e-2)),
         "batch_norm": (batch_norm, dict(rate=0.05, options=SGD)), "dino": (dino, dict(rate=0.05, options=SGD))}
LAYOUTS = {"fsdp": dict(shard="fsdp"), "model 2": dict(model=2), "fsdp, model 2": dict(shard="fsdp", model=2)}


def main(name: str) -> None:
    """Print the curves of a task in all its layouts as JSON; for a process with eight devices."""
    task, options = TASKS[name]
    engines = {"one": MeshEngine(jax.devices()[:1])} | {key: sharded(**LAYOUTS[key]) for key in layouts(name)}
    found = {key: curve(engine, task(), **options) for key, engine in engines.items()}
    if name == "mae":
        found["fsdp, scan"] = curve(engines["fsdp"], scanned(), **options)
        found["one, accumulate 2"] = curve(engines["one"], task(), accumulate=2, **options)
        found["fsdp, accumulate 2"] = curve(engines["fsdp"], task(), accumulate=2, **options)
    print(json.dumps(found))


def layouts(name: str) -> list[str]:
    """A network of convolutions has no layer to split; of low-rank updates, the layout with both is enough."""
    if name == "low_rank":
        return ["fsdp, model 2"]
    return [key for key in LAYOUTS if name != "batch_norm" or "model" not in LAYOUTS[key]]


def scanned():
    """The task `mae`, its blocks in a loop."""
    original = test_devices.create_model
    test_devices.create_model = lambda *arguments, **fields: original(*arguments, scan=True, remat="full", **fields)
    try:
        return mae()
    finally:
        test_devices.create_model = original


@pytest.fixture(scope="module")
def measured(python):
    return functools.cache(
        lambda task: python(f"from tests.train import test_sharding as t; t.main({task!r})", devices=8))


PAIRS = [(task, layout) for task in TASKS for layout in layouts(task)]


@pytest.mark.slow
@pytest.mark.parametrize("task, layout", [*PAIRS, ("mae", "fsdp, scan")])
def test_spread_states_give_the_loss_curve_of_one_device(measured, task, layout):
    one, spread_out = (np.array(measured(task)[key]["losses"]) for key in ("one", layout))
    np.testing.assert_allclose(spread_out, one, rtol=TOLERANCE[task])


@pytest.mark.slow
def test_accumulation_of_spread_gradients_gives_the_same_curve(measured):
    one, fsdp = (np.array(measured("mae")[f"{key}, accumulate 2"]["losses"]) for key in ("one", "fsdp"))
    np.testing.assert_allclose(fsdp, one, rtol=TOLERANCE["mae"])


@pytest.mark.slow
@pytest.mark.parametrize("task, layout", [pair for pair in PAIRS if pair[0] != "low_rank"])
def test_parameters_are_collected_and_sums_taken_and_nothing_is_shuffled(measured, task, layout):
    """No all-to-all and no permutation: examples stay on their devices, and each parameter is fetched as it is.

    But for low-rank updates, which are spread otherwise than the kernels that they are added to.
    """
    counts = measured(task)[layout]["kinds"]
    assert counts["all-reduce"] + counts["reduce-scatter"] > 0 and counts["all-gather"] > 0
    assert not counts["all-to-all"] and not counts["collective-permute"], counts


def memory() -> None:
    """Print bytes of state on the fullest device, whole and spread; for a process with eight devices."""
    found = {}
    for key, engine in {"whole": MeshEngine(), "fsdp": sharded(shard="fsdp"),
                        "fsdp, model 2": sharded(shard="fsdp", model=2)}.items():
        state, _, _ = setup(engine, mae(), options=ADAMW)
        arrays = [x for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
        shards = [shard for x in arrays for shard in x.addressable_shards]
        found[key] = max(sum(shard.data.nbytes for shard in shards if shard.device == device)
                         for device in jax.devices())
    print(json.dumps(found))


@pytest.mark.slow
def test_fsdp_keeps_an_eighth_of_the_state_on_each_device(python):
    found = python("from tests.train import test_sharding; test_sharding.memory()", devices=8)
    # Small arrays, norms and biases, stay whole: they are a few percent even of this network.
    assert found["fsdp"] < 0.2 * found["whole"] and found["fsdp, model 2"] < 0.2 * found["whole"]


@pytest.mark.parametrize("path, axis", [
    ("params/blocks/0/attn/qkv/kernel", -1), ("params/blocks/11/attn/qkv/bias", -1),
    ("opt_state/1/0/mu/encoder/blocks/0/attn/proj/kernel", -2), ("ema/params/layers/0/blocks/1/mlp/fc1/bias", -1),
    ("model_state/dino/teacher/params/backbone/blocks/0/mlp/fc2/kernel", -2), ("params/blocks/0/attn/proj/bias", None),
    ("params/blocks/0/mlp/fc2/bias", None), ("params/patch_embed/proj/kernel", None), ("params/head/kernel", None),
    ("params/blocks/0/norm1/scale", None)])
def test_blocks_are_split_by_the_names_of_their_parameters(path, axis):
    assert spread_axis(path) == axis


@pytest.fixture(scope="module")
def shapes():
    """A state's shapes, by their paths."""
    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    return {"blocks": {"attn": {"qkv": {"kernel": array(64, 192)}, "proj": {"kernel": array(64, 64)}},
                       "norm": {"scale": array(64)}}, "head": {"kernel": array(64, 10)}, "odd": array(71, 73)}


def specs(shapes, data, model, shard):
    return Layout(data, model, shard, spread_axis).specs(shapes)


def test_fsdp_spreads_the_longest_axis_that_divides_of_large_arrays(shapes):
    found = specs(shapes, 4, 1, "fsdp")
    assert found["blocks"]["attn"]["qkv"]["kernel"] == PartitionSpec(None, "data")
    assert found["blocks"]["attn"]["proj"]["kernel"] == PartitionSpec("data")
    assert found["blocks"]["norm"]["scale"] == found["head"]["kernel"] == PartitionSpec()  # small
    assert found["odd"] == PartitionSpec()  # large, but nothing divides


def test_fsdp_and_tensor_parallelism_take_different_axes(shapes):
    found = specs(shapes, 4, 2, "fsdp")
    assert found["blocks"]["attn"]["qkv"]["kernel"] == PartitionSpec("data", "model")
    assert found["blocks"]["attn"]["proj"]["kernel"] == PartitionSpec("model", "data")
    assert specs(shapes, 4, 2, "none")["blocks"]["attn"]["proj"]["kernel"] == PartitionSpec("model")


def test_what_cannot_be_split_is_refused_by_name(shapes):
    with pytest.raises(ValueError, match="mesh model=5 does not divide axis -2 of blocks/attn/proj/kernel"):
        specs(shapes, 1, 5, "none")
    with pytest.raises(ValueError, match="mesh model=3 must divide the 2 devices of a process, or be"):
        MeshEngine(jax.devices()[:1] * 2, Layout(1, 3))


def test_a_network_without_layers_to_split_is_refused(shapes):
    with pytest.raises(ValueError, match="mesh model=2 is for transformers"):
        Layout(1, 2, spread_axis=spread_axis).specs({"step": jax.ShapeDtypeStruct((), jnp.int32)})


def test_bytes_on_a_device_are_those_of_its_parts(shapes):
    spread_out = 4 * (64 * 192 // 8 + 64 * 64 // 8 + 64 + 64 * 10 + 71 * 73)
    assert Layout(4, 2, "fsdp", spread_axis).bytes_per_device(shapes) == spread_out
    assert Layout(8).bytes_per_device(shapes) == 4 * (64 * 192 + 64 * 64 + 64 + 64 * 10 + 71 * 73)
    assert Layout(8).bytes_per_device({"key": jax.eval_shape(lambda: jax.random.key(0))}) == 0


@pytest.mark.parametrize("text, devices, model", [("data=4,model=2", 8, 2), ("model=2", 8, 2), ("data=8", 8, 1),
                                                  ("model=8,data=1", 8, 8), ("data=1", 1, 1)])
def test_a_mesh_is_read(text, devices, model):
    assert parse_mesh(text, devices) == model


@pytest.mark.parametrize("text", ["data=3", "data=4,model=4", "model=3", "rows=2", "data", "data=0", "data=2,data=4",
                                  "", "model=16", "data=x"])
def test_an_impossible_mesh_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="mesh") as error:
        parse_mesh(text, 8)
    assert "\n" not in str(error.value)


def test_heads_that_do_not_split_are_refused_and_without_a_mesh_nothing_happens():
    x = jnp.zeros((2, 3))
    assert spread(x, 1) is x
    mesh = jax.sharding.AbstractMesh((1, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match="mesh axis model=2 must divide the 3"):
        jax.eval_shape(lambda x: spread(x, 1), x)


