"""Checkpoints survive the accidents of real runs: kills, damage, full disks, other devices, changed models."""

import contextlib
import copy
import dataclasses
import functools
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.errors import CheckpointError
from cvjax.train import checkpoint as checkpoints
from cvjax.train.checkpoint import Checkpointer, read_meta, restore_weights
from cvjax.train.fingerprint import fingerprints
from cvjax.train.state import TrainState

ROOT = Path(__file__).parents[2]
# No traceback may come from a background thread either.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


def make_state(step: int, *, side: int = 64, seed: int = 0) -> TrainState:
    """A state whose values follow from step and seed, with every kind of leaf and of empty node."""
    numbers = np.random.default_rng([step, seed])

    def array(shape, dtype=np.float32):
        return jnp.asarray((100 * numbers.normal(size=shape)).astype(dtype))

    def key(impl, words, *shape):
        return jax.random.wrap_key_data(array((*shape, words), np.uint32), impl=impl)

    params = {"dense": {"kernel": array((side, side)), "bias": array(side, jnp.bfloat16)}}
    opt_state = jax.eval_shape(optax.adam(1e-3).init, params)
    return TrainState(
        step=jnp.asarray(np.int32(step)),
        params=params,
        model_state={"batch_stats": {"mean": array(side)}, "empty": {}},
        opt_state=(jax.tree.map(lambda x: array(x.shape, x.dtype), opt_state),
                   {"mask": array(side, bool), "none": jnp.asarray(np.zeros((0, 3))), "complex": array(2, np.complex64),
                    "keys": key("threefry2x32", 2, 3)}),
        ema=None,
        rng=key("rbg", 4),
    )


def big_state(step: int) -> TrainState:
    """Four megabytes in few arrays: quick to make and hash, yet slow enough to write to be killed in."""
    kernel = jnp.asarray(np.random.default_rng(step).normal(size=(1000, 1000)).astype(np.float32))
    key = jax.random.wrap_key_data(np.zeros(2, np.uint32))
    return TrainState(jnp.asarray(np.int32(step)), {"kernel": kernel}, {}, (), None, key)


def abstract(state, sharding=None):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def bits(x) -> tuple:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return str(x.dtype), np.asarray(jax.random.key_data(x)).tobytes()
    return str(x.dtype), x.shape, np.asarray(x).tobytes()


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert jax.tree.map(bits, one) == jax.tree.map(bits, other)


def save_all(directory, *steps, **options):
    with Checkpointer(directory, **options) as checkpointer:
        for step in steps:
            checkpointer.save(make_state(step), {"step": step})


def restore(directory, target=None, **options):
    with Checkpointer(directory, **options) as checkpointer:
        return checkpointer.restore_latest(abstract(make_state(0)) if target is None else target)


def run_python(code: str, *arguments, devices: int = 1) -> subprocess.Popen:
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'train'}",
                   "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# What is saved comes back.


def test_state_and_meta_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # and the directory may be relative
    state = make_state(7)
    meta = {"config": {"lr": 0.1, "names": ["a", None]}, "window": [1.5, float("inf")]}
    saved = copy.deepcopy(meta)
    with Checkpointer("run/checkpoints") as checkpointer:
        assert checkpointer.restore_latest(abstract(state)) is None
        assert checkpointer.latest_step() is checkpointer.best_step() is None
        checkpointer.save(state, meta)
        meta["config"]["lr"] = "changed while the save was running"
    for target in (abstract(state), make_state(1)):
        restored, restored_meta = restore("run/checkpoints", target)
        assert_same(restored, state)
        assert restored_meta == saved
    draw = jax.random.normal(jax.random.fold_in(restored.rng, restored.step), (3,))
    assert draw.tolist() == jax.random.normal(jax.random.fold_in(state.rng, 7), (3,)).tolist()


def test_constants_are_not_saved_and_stay_those_of_the_target(tmp_path):
    state, constants = big_state(1), {"teacher": {"w": jnp.ones(3)}}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state.replace(constants=constants), {})
        restored, _ = checkpointer.restore_latest(big_state(2).replace(constants=constants))
    assert bits(restored.params["kernel"]) == bits(state.params["kernel"]) and restored.constants is constants
    assert not any("teacher" in str(path) for path in tmp_path.rglob("*"))


def test_a_background_save_never_reads_what_a_later_step_wrote(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def overwrite(params):
        return jax.tree.map(lambda x: x * 0 - 1, params)

    state = make_state(1, side=2000)
    expected = jax.tree.map(bits, state)
    overwrite(jax.tree.map(jnp.copy, state.params))  # compiled, so that the steps below begin at once
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, {})
        assert checkpointer.latest_step() is None, "save waited for the write, this test shows nothing"
        params = state.params
        for _ in range(5):
            params = overwrite(params)
        jax.block_until_ready(params)
        checkpointer.wait()
        restored, _ = checkpointer.restore_latest(abstract(make_state(1, side=2000)))
    assert jax.tree.map(bits, restored) == expected


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(make_state(3, seed=1), {"seed": 1})
        checkpointer.save(make_state(3, seed=2), {"seed": 2})
    restored, meta = restore(tmp_path)
    assert meta == {"seed": 1}
    assert_same(restored, make_state(3, seed=1))


@pytest.mark.slow
def test_other_device_counts_restore_the_same_bits(tmp_path):
    code = """
        import sys, jax
        from jax.sharding import NamedSharding, PartitionSpec as P
        from test_checkpoint import Checkpointer, assert_same, make_state
        mesh = jax.sharding.Mesh(jax.devices(), ("data",))

        def sharding(x):  # FSDP: the first large axis is split
            axes = [axis for axis, size in enumerate(x.shape) if size >= 64]
            return NamedSharding(mesh, P(*[None] * axes[0], "data") if axes else P())

        state = make_state(5)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)), state)
        for act, directory in zip(sys.argv[2::2], sys.argv[3::2]):
            with Checkpointer(directory) as checkpointer:
                if act == "save":
                    checkpointer.save(jax.tree.map(lambda x: jax.device_put(x, sharding(x)), state), {})
                else:
                    restored, _ = checkpointer.restore_latest(target)
                    assert_same(restored, state)
                    for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(target)):
                        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
        assert jax.device_count() == int(sys.argv[1])
    """
    eight, one = tmp_path / "eight", tmp_path / "one"
    for devices, *acts in (8, "save", eight), (1, "restore", eight, "save", one), (8, "restore", one):
        process = run_python(code, devices, *acts, devices=devices)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


# Which checkpoints are kept, and which is best.


def test_the_latest_and_the_best_are_kept_also_after_reopening(tmp_path):
    values = {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: float("nan"), 6: None}
    with Checkpointer(tmp_path, best_metric="top1") as checkpointer:
        for step, value in values.items():
            checkpointer.save(make_state(step), {}, None if value is None else {"loss": -step, "top1": value})
        checkpointer.wait()
        assert (checkpointer.all_steps(), checkpointer.best_step()) == ([2, 5, 6], 2)
    with Checkpointer(tmp_path, keep_latest=1):  # a checkpointer that has saved nothing removes nothing
        pass
    with Checkpointer(tmp_path, best_metric="top1") as checkpointer:
        assert (checkpointer.latest_step(), checkpointer.best_step()) == (6, 2)
        checkpointer.save(make_state(7), {})
        checkpointer.wait()
        assert (checkpointer.all_steps(), checkpointer.best_step()) == ([2, 6, 7], 2)
        checkpointer.save(make_state(8), {}, {"top1": 0.95})
        checkpointer.wait()
        assert (checkpointer.all_steps(), checkpointer.best_step()) == ([7, 8], 8)


def test_a_restore_removes_what_a_kill_left_to_remove(tmp_path):
    """A run that is killed between its last save and the removal after it has nothing more to save."""
    with Checkpointer(tmp_path, keep_latest=4, best_metric="top1") as checkpointer:
        for step, value in enumerate([0.9, 0.1, 0.1, 0.1], start=1):
            checkpointer.save(make_state(step), {}, {"top1": value})
    with Checkpointer(tmp_path, best_metric="top1") as checkpointer:
        assert checkpointer.all_steps() == [1, 2, 3, 4]
        restored, _ = checkpointer.restore_latest(abstract(make_state(0)))
        assert_same(restored, make_state(4))
        assert checkpointer.all_steps() == [1, 3, 4]


def test_best_may_be_the_smallest_and_several(tmp_path):
    options = dict(keep_latest=1, best_metric="loss", best_mode="min", keep_best=2)
    with Checkpointer(tmp_path, **options) as checkpointer:
        for step, loss in enumerate([0.5, 0.2, 0.2, 0.9, 0.8], start=1):
            checkpointer.save(make_state(step), {"step": step}, {"loss": loss})
        checkpointer.wait()
        assert (checkpointer.all_steps(), checkpointer.best_step()) == ([2, 3, 5], 3)
    assert read_meta(tmp_path, "best") == {"step": 3}


# Kills, damage, full disks.


def test_kill_9_during_a_save_leaves_the_earlier_checkpoints_good(tmp_path):
    code = """
        import itertools, sys
        from test_checkpoint import Checkpointer, big_state
        with Checkpointer(sys.argv[1]) as checkpointer:
            for step in itertools.count(int(sys.argv[2])):
                checkpointer.save(big_state(step), {"step": step})
                print(step, flush=True)
    """
    random.seed(0)
    step, leftovers = 0, 0
    for _ in range(3):
        process = run_python(code, tmp_path, step + 1)
        for _ in range(3):  # after the third line two saves are complete and the third has begun
            assert process.stdout.readline(), process.stderr.read()
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        leftovers += sum(not name.isdecimal() for name in os.listdir(tmp_path))
        with Checkpointer(tmp_path) as checkpointer:
            assert all(name.isdecimal() for name in os.listdir(tmp_path))
            restored, meta = checkpointer.restore_latest(abstract(big_state(0)))
        assert restored.step >= step + 2 and meta == {"step": restored.step}
        step = int(restored.step)
        assert_same(restored, big_state(step))
    assert leftovers, "no kill fell into a save, this test shows nothing"


def largest_file(folder: Path) -> Path:
    return max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)


def flip_a_bit(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def change_meta(path: Path):
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))


DAMAGE = {  # how, to which item, and what the warning names
    "bit flipped in an array": (flip_a_bit, "weights", "params/dense/kernel"),
    "array file cut short": (lambda path: os.truncate(path, 99), "weights", "params/dense/kernel"),
    "array file deleted": (Path.unlink, "training", "opt_state/0/"),
    "meta changed": (change_meta, "meta", "meta"),
    "meta garbled": (flip_a_bit, "meta", "meta"),
    "meta deleted": (Path.unlink, "meta", "meta"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_taken(tmp_path, caplog, kind):
    damage, item, named = DAMAGE[kind]
    save_all(tmp_path, 1, 2)
    damage(largest_file(tmp_path / "2" / item))
    with Checkpointer(tmp_path) as checkpointer:
        with caplog.at_level(logging.WARNING):
            restored, meta = checkpointer.restore_latest(abstract(make_state(0)))
        assert_same(restored, make_state(1))
        assert meta == {"step": 1}
        (warning,) = caplog.messages
        assert warning.startswith("checkpoint 2 ") and named in warning and "\n" not in warning
        assert checkpointer.all_steps() == [1] and (tmp_path / "2.damaged").is_dir()
        checkpointer.save(make_state(2), {"again": True})  # the run passes that step again
    assert read_meta(tmp_path) == {"again": True}


def test_nothing_starts_from_scratch_when_all_checkpoints_are_damaged(tmp_path):
    save_all(tmp_path, 1, 2)
    for step in (1, 2):
        flip_a_bit(largest_file(tmp_path / str(step) / "weights"))
    with pytest.raises(CheckpointError, match=r"every .* 2: params/dense/kernel.* 1: params/dense/kernel"):
        restore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    with pytest.raises(CheckpointError, match=r"checkpoint 2 .* is damaged: params/dense/kernel"):
        restore_weights(tmp_path)


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int):
    """A file system of a few megabytes; skips the test where mounting is not allowed."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path],
                      capture_output=True).returncode:
        pytest.skip("cannot mount a small disk (needs root)")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_is_reported_and_leaves_the_earlier_checkpoints(tmp_path, caplog):
    with small_disk(tmp_path / "disk", 8) as disk, Checkpointer(disk) as checkpointer:
        checkpointer.save(make_state(1), {})
        for surface in (checkpointer.wait, lambda: checkpointer.save(make_state(3), {})):
            with pytest.raises(CheckpointError, match="checkpoint of step 2 was not written .*no space left"):
                checkpointer.save(make_state(2, side=1000), {})
                surface()
            assert os.listdir(disk) == ["1"], "what was half-written still fills the disk"
        assert caplog.messages == [], "orbax logs its own traceback"
        checkpointer.save(make_state(4), {})
        checkpointer.wait()
        assert checkpointer.all_steps() == [1, 4]
        flip_a_bit(largest_file(disk / "4" / "weights"))
        assert_same(checkpointer.restore_latest(abstract(make_state(0)))[0], make_state(1))


def test_what_a_failed_save_still_writes_while_it_is_removed_is_removed_too(tmp_path):
    def go_on_writing():
        for number in range(60):
            with contextlib.suppress(FileNotFoundError):  # removed between the two
                folder.mkdir(exist_ok=True)
                (folder / str(number)).write_bytes(b"rest")
            time.sleep(0.005)

    folder = tmp_path / "2.orbax-checkpoint-tmp"
    folder.mkdir()
    writer = threading.Thread(target=go_on_writing)
    writer.start()
    try:
        Checkpointer(tmp_path).close()
    finally:
        writer.join()
    assert os.listdir(tmp_path) == []


SPOILT = {  # what the disk did to a save, and what the error names
    "meta emptied": (lambda folder: (folder / "meta" / "metadata").write_bytes(b""), "meta cannot be read"),
    "meta changed": (lambda folder: change_meta(folder / "meta" / "metadata"), "meta has changed"),
    "index gone": (lambda folder: (folder / "weights" / "manifest.ocdbt").unlink(), "weights cannot be read back"),
    "other arrays": (lambda folder: shutil.copytree(folder.parent / "1" / "weights", folder / "weights",
                                                    dirs_exist_ok=True), "was not written as"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_save_that_cannot_be_read_back_does_not_count_and_removes_nothing(tmp_path, monkeypatch, kind):
    spoil, named = SPOILT[kind]

    def synced(folder):
        if str(folder).endswith("2.orbax-checkpoint-tmp"):
            spoil(Path(folder))

    save_all(tmp_path, 1, keep_latest=1)
    with Checkpointer(tmp_path, keep_latest=1) as checkpointer:
        monkeypatch.setattr(checkpoints, "sync_tree", synced)
        checkpointer.save(make_state(2, side=32), {"step": 2})
        with pytest.raises(CheckpointError, match=f"checkpoint of step 2 was not written to [^:]*: [^:]*{named}"):
            checkpointer.wait()
        monkeypatch.undo()
        assert os.listdir(tmp_path) == ["1"]
        checkpointer.save(make_state(2, side=32), {"step": 2})
        checkpointer.wait()
        assert os.listdir(tmp_path) == ["2"]


@pytest.mark.parametrize("call", ["wait", "save", "close", "restore_latest"])
def test_a_failed_write_surfaces_once_at_the_next_call(tmp_path, monkeypatch, call):
    save_all(tmp_path, 1)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(make_state(2), {})
    wait = checkpointer._writer.wait_until_finished

    def fail_once():
        monkeypatch.undo()
        wait()
        (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
        raise ValueError("RESOURCE_EXHAUSTED: page of text\n... No space left on device [os_error_code='28']")

    monkeypatch.setattr(checkpointer._writer, "wait_until_finished", fail_once)
    arguments = {"save": (make_state(3), {}), "restore_latest": (abstract(make_state(0)),)}.get(call, ())
    with pytest.raises(CheckpointError, match="checkpoint of step 2 was not written .*no space left"):
        getattr(checkpointer, call)(*arguments)
    checkpointer.wait()
    assert checkpointer.all_steps() == [1]


# A checkpoint of another model.


def test_every_difference_between_checkpoint_and_model_is_listed_before_reading(tmp_path):
    save_all(tmp_path, 1, 2)
    largest_file(tmp_path / "2" / "weights").unlink()  # had the arrays been read, this would be damage
    target = dataclasses.replace(
        make_state(0),
        params={"dense": {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(64)},
                "head": {"bias": jnp.zeros(10)}},
        model_state={},
        rng=jax.random.key(0),
    )
    with pytest.raises(CheckpointError) as caught:
        restore(tmp_path, target)
    assert str(caught.value).split("; ") == [
        "checkpoint 2 does not fit this model: only in the checkpoint: model_state/batch_stats/mean (64,) float32",
        "only in this model: params/head/bias (10,) float32",
        "params/dense/bias: checkpoint (64,) bfloat16, model (64,) float32",
        "params/dense/kernel: checkpoint (64, 64) float32, model (64, 32) float32",
        "rng: checkpoint () key<rbg>, model () key<fry>",
    ]


# Reading without a target.


def test_weights_are_read_without_target_or_optimizer(tmp_path):
    with Checkpointer(tmp_path, best_metric="top1") as checkpointer:
        for step, top1 in ((1, 0.9), (2, 0.1), (3, None)):
            checkpointer.save(make_state(step), {"step": step}, top1 and {"top1": top1})
    for step in (1, 2, 3):
        largest_file(tmp_path / str(step) / "training").unlink()
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()  # a training run is saving its next step
    for asked, step in (("latest", 3), ("best", 1), (2, 2)):
        weights, meta = restore_weights(tmp_path, asked)
        state = make_state(step)
        assert_same(weights, {"params": state.params, "ema": {},
                              "model_state": {"batch_stats": state.model_state["batch_stats"]}})
        assert meta == read_meta(tmp_path, asked) == {"step": step}
        assert {type(leaf) for leaf in jax.tree.leaves(weights)} == {np.ndarray}
    assert (tmp_path / "4.orbax-checkpoint-tmp").is_dir()
    for read, missing in ((restore_weights, 9), (read_meta, "newest")):
        with pytest.raises(CheckpointError, match=rf"no checkpoint {missing!r}.*\[1, 2, 3\]"):
            read(tmp_path, missing)
    with pytest.raises(CheckpointError, match="no checkpoint 'best'"):
        read_meta(tmp_path / "nothing", "best")


def test_64_bit_and_empty_weights_are_read_by_a_32_bit_program(tmp_path):
    wide = np.array([2**40 + 1, -3]), np.array([1 / 3, -0.0])
    with Checkpointer(tmp_path) as checkpointer:
        with jax.enable_x64(True):
            params = {"int": jnp.asarray(wide[0]), "float": jnp.asarray(wide[1]), "none": jnp.zeros((2, 0))}
            checkpointer.save(dataclasses.replace(make_state(1), params=params, opt_state=()), {})
            checkpointer.wait()
    params = restore_weights(tmp_path)[0]["params"]
    assert bits(params["int"]) == bits(wide[0]) and bits(params["float"]) == bits(wide[1])
    assert params["none"].shape == (2, 0)


# What is not allowed is said.


@pytest.mark.parametrize("options, message", [
    (dict(keep_latest=0), "keep_latest=0"),
    (dict(keep_best=-1), "keep_best=-1"),
    (dict(best_mode="most"), "'most'"),
])
def test_bad_options(tmp_path, options, message):
    with pytest.raises(CheckpointError, match=message):
        Checkpointer(tmp_path, **options)


def test_bad_arguments(tmp_path):
    state = make_state(1)
    with pytest.raises(CheckpointError, match="gs://bucket/run: allowed is a path"):
        Checkpointer("gs://bucket/run")
    with Checkpointer(tmp_path, best_metric="top1") as checkpointer:
        for arguments, message in [
            ((state, {"lr": np.float32(1)}), "meta of step 1: .*float32.*allowed is plain JSON"),
            ((state, {}, {"top_1": 0.5, "loss": 2}), "are loss, top_1: .*'top1' must be among them"),
            ((dataclasses.replace(state, model_state={"n": np.zeros(3)}), {}), "model_state/n is a ndarray"),
            ((dataclasses.replace(state, params={"a/b": state.step}), {}), "params/a/b is ambiguous"),
        ]:
            with pytest.raises(CheckpointError, match=message):
                checkpointer.save(*arguments)
        with pytest.raises(CheckpointError, match="target .* without a sharding"):
            checkpointer.restore_latest(jax.eval_shape(lambda: make_state(1)))
        assert checkpointer.all_steps() == []


# The fingerprint itself.


def test_a_fingerprint_sees_every_bit_and_every_place():
    for dtype in (np.uint8, np.int16, np.float32, jnp.bfloat16, np.float64, np.complex64, np.int64):
        numbers = np.random.default_rng(0).integers(1, 100, (3, 5)).astype(dtype)
        seen = {fingerprints({"x": numbers})["x"]}
        for bit in range(numbers.nbytes * 8):
            changed = bytearray(numbers.tobytes())
            changed[bit // 8] ^= 1 << bit % 8
            seen |= set(fingerprints({"x": np.frombuffer(changed, dtype).reshape(3, 5)}).values())
        assert len(seen) == 1 + numbers.nbytes * 8, dtype
    line, key = np.arange(24, dtype=np.float32), jax.random.key(0)
    arrays = {"line": line, "reversed": line[::-1], "transposed": line.reshape(4, 6).T,
              "two signs": np.where((line == 3) | (line == 8), -line, line),
              "key": key, "keys": jax.random.split(key),
              "first": np.array([True, False]), "second": np.array([False, True])}
    assert len(set(fingerprints(arrays).values())) == len(arrays)
    assert fingerprints({"none": jnp.zeros((0, 3))}) == {"none": 0}
