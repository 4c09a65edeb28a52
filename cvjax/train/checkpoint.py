"""Checkpoints: saved in the background, verified when read, restored on any number of devices.

A checkpoint is a folder `<directory>/<step>/` with three items:

    weights    params, model_state, ema: what an evaluation needs, readable without the optimizer
    training   step, opt_state, rng: what a resumed run needs besides
    meta       the caller's JSON, the metrics, and the shape, dtype and fingerprint of every array

Arrays are stored flat, as `path -> array`; named tuples, empty dictionaries and None come back from the
target's own structure. orbax writes and reads the arrays. What is kept, what is best and what counts as
damage is decided here, only from the files on disk.

A save counts once it would survive a power cut: orbax writes into a folder aside, everything in it is synced and read
back, and only then it gets the step's name, which is synced too. An older checkpoint is removed only after that.

One run writes to a directory; `restore_weights` and `read_meta` change nothing and may run beside it.
"""

import asyncio
import contextlib
import copy
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from cvjax.durable import delete_folder, make_folder, sync, sync_tree
from cvjax.errors import CheckpointError
from cvjax.train.fingerprint import fingerprints
from cvjax.train.processes import is_first, wait_for_all

_ITEMS = {"weights": ("params", "model_state", "ema"), "training": ("step", "opt_state", "rng")}

SETTLE = 10.0  # seconds that a failed save is given to stop writing

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def _without_orbax_noise() -> Iterator[None]:
    """Within this context, a failed write is reported only by its error, without further pages of text.

    orbax logs a traceback for each part of the write. Parts that are still under way when the first one fails report to
    an event loop that orbax has closed by then, which Python tells `sys.unraisablehook`.
    """
    def is_foreign(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    def show_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    logger, show = logging.getLogger("absl"), sys.unraisablehook
    logger.addFilter(is_foreign)
    sys.unraisablehook = show_others
    try:
        yield
    finally:
        logger.removeFilter(is_foreign)
        if sys.unraisablehook is show_others:
            sys.unraisablehook = show


class _Damaged(Exception):
    """One checkpoint cannot be trusted; the one before it may be good."""


class _DurableFolder(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The folder aside that orbax writes a checkpoint into, and renames when all of it is there.

    The first process calls `finalize` in the background, after all processes have written. TensorStore syncs what it
    writes; orbax's own files, the meta above all, are not synced by anybody else. What other processes wrote to a
    shared file system reaches its servers at the latest when it is opened here.
    """

    async def finalize(self) -> None:
        """Sync, read back, rename, sync the new name."""
        await asyncio.to_thread(self._settle)
        await super().finalize()
        await asyncio.to_thread(self._settle_name)

    def _settle(self) -> None:
        sync_tree(self.get())
        _read_back(Path(self.get()))

    def _settle_name(self) -> None:
        folder = Path(self.get_final())
        # orbax wrote small files just before it renamed. No restore of ours needs them; orbax's own tools may.
        for path in (*filter(Path.is_file, folder.iterdir()), folder, folder.parent):
            sync(path)


class Checkpointer:
    """Writes the checkpoints of one run and restores the newest good one.

    directory: on a file system that all processes see; made if missing. Opening it removes what a killed run
    left half-written. The newest `keep_latest` (at least 1) checkpoints are kept, and besides them the
    `keep_best` with the largest (best_mode "max") or smallest ("min") finite value of the metric named
    `best_metric`, if one is named.

    In a distributed run all processes make the same calls. Raises CheckpointError for an argument not
    allowed.
    """

    def __init__(self, directory: str | os.PathLike, *, keep_latest: int = 2, best_metric: str | None = None,
                 best_mode: str = "max", keep_best: int = 1):
        if keep_latest < 1 or keep_best < 0:
            raise CheckpointError(f"keep_latest={keep_latest}, keep_best={keep_best}: "
                                  "allowed are at least 1 latest and at least 0 best")
        if best_mode not in ("max", "min"):
            raise CheckpointError(f"best_mode={best_mode!r}: allowed is 'max' or 'min'")
        self._directory = _local(directory)
        self._keep_latest, self._keep_best = keep_latest, keep_best
        self._rule = {"metric": best_metric, "mode": best_mode}
        self._pending: int | None = None  # the step being written in the background
        self._open = contextlib.ExitStack()  # what `close` undoes
        self._open.enter_context(_without_orbax_noise())
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), temporary_path_class=_DurableFolder)
        self._open.callback(self._writer.close)
        if is_first():
            make_folder(self._directory)
        self._remove_leftovers()
        wait_for_all("checkpoints opened")

    def save(self, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Save a TrainState under its step number, in the background; afterwards it may be donated at once.

        meta: JSON with string keys; every way of reading gives it back. metrics: evaluation results; a
        checkpoint saved without them is never the best. Waits for the save before; does nothing if the step
        is saved already.

        Raises CheckpointError if this save or the one before it fails, if `meta` is not JSON, if `metrics`
        are given without the best metric, or if a leaf of the state is not a jax.Array.
        """
        self.wait()
        step = int(state.step)
        if step in self.all_steps():
            return
        leaves = _flatten(state)
        for name, leaf in leaves.items():
            if not isinstance(leaf, jax.Array):
                raise CheckpointError(f"{name} is a {type(leaf).__name__}: allowed is a jax.Array")
        record = self._record(step, leaves, meta, metrics or {})
        try:
            self._writer.save(epath.Path(self._directory / str(step)), args=ocp.args.Composite(
                meta=ocp.args.JsonSave({"record": record, "crc32": _crc32(record)}),
                **{item: ocp.args.StandardSave(_not_empty(_part(leaves, item))) for item in _ITEMS},
            ))
        except Exception as error:
            raise self._write_failed(step, error) from None
        self._pending = step

    def wait(self) -> None:
        """Return when all that was saved is on disk, where a power cut cannot undo it; then remove surplus checkpoints.

        Raises CheckpointError if that failed, for example on a full disk; earlier checkpoints are unharmed.
        """
        if self._pending is None:
            return
        try:
            self._writer.wait_until_finished()
        except Exception as error:
            raise self._write_failed(self._pending, error) from None
        self._pending = None
        self._remove_surplus()

    def restore_latest(self, target: Any) -> tuple[Any, dict] | None:
        """Restore the newest undamaged checkpoint as `(state, meta)`; None if there is no checkpoint.

        target: a TrainState of jax.Arrays or ShapeDtypeStructs with shardings; the result has its structure,
        dtypes and shardings. A damaged checkpoint is reported in one line and the one before it is taken; the
        damaged one is then renamed to `<step>.damaged`, so that the run can save that step again. Surplus
        checkpoints are removed, as after a save: a killed run may not have come to that, and a run that was killed at
        its end saves nothing more.

        Raises CheckpointError with every difference if the checkpoint and the target do not have the same
        arrays (an earlier checkpoint is not tried), and if all checkpoints are damaged.
        """
        self.wait()
        wait_for_all("checkpoints restored")
        wanted = {name: _with_sharding(name, leaf) for name, leaf in _flatten(target).items()}
        problems: dict[int, str] = {}
        for step in reversed(self.all_steps()):
            try:
                arrays, meta = _restore(self._directory, step, wanted)
            except _Damaged as damage:
                problems[step] = str(damage)
                _log.warning("checkpoint %d in %s is damaged: %s", step, self._directory, damage)
                continue
            self._set_aside(problems)
            if is_first():
                sync(self._directory)  # a killed run may not have come to sync the new name
            self._remove_surplus()
            structure = jax.tree.structure(_fields(target))
            restored = jax.tree.unflatten(structure, [arrays[name] for name in wanted])
            return dataclasses.replace(target, **restored), meta
        if problems:
            found = "; ".join(f"{step}: {problem}" for step, problem in problems.items())
            raise CheckpointError(f"every checkpoint in {self._directory} is damaged: {found}")
        return None

    def all_steps(self) -> list[int]:
        """The steps on disk, ascending; a save that is still in the background is not among them."""
        return _steps(self._directory)

    def latest_step(self) -> int | None:
        """The newest step on disk."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """The step on disk with the best `best_metric`, the newest if several are equal; None if none has a value."""
        return next(iter(_ranking(self._directory, self._rule)), None)

    def close(self) -> None:
        """Wait for the last save; CheckpointError if it failed."""
        with self._open:
            self.wait()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, step: int, leaves: Mapping[str, jax.Array], meta: Mapping[str, Any],
                metrics: Mapping[str, float]) -> dict:
        if metrics and self._rule["metric"] not in {None, *metrics}:
            raise CheckpointError(f"metrics of step {step} are {', '.join(sorted(metrics))}: "
                                  f"the best metric {self._rule['metric']!r} must be among them")
        hashes = fingerprints(leaves)
        record = {
            "meta": dict(meta),
            "metrics": {name: float(value) for name, value in metrics.items()},
            "best": self._rule,
            "leaves": {name: {"shape": leaf.shape, "dtype": str(leaf.dtype), "hash": hashes[name]}
                       for name, leaf in leaves.items()},
        }
        try:
            return json.loads(json.dumps(record))  # a copy: the caller may change `meta` during the write
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"meta of step {step}: {error}; allowed is plain JSON") from None

    def _write_failed(self, step: int, error: Exception) -> CheckpointError:
        self._pending = None
        self._remove_leftovers()  # they hold the space that the next save needs
        # What orbax began and did not wait for is told by asyncio, a page each, when Python ends.
        logging.getLogger("asyncio").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.getMessage())
        # The reason is somewhere in TensorStore's page of text.
        reason = ("no space left on the disk" if "no space left" in str(error).lower()
                  else str(error) if isinstance(error, _Damaged) else _line(error))
        return CheckpointError(f"checkpoint of step {step} was not written to {self._directory}: {reason}")

    def _remove_leftovers(self) -> None:
        """Removes what a killed or failed save, or an interrupted removal, left behind."""
        if is_first():
            # A save fails with its first array; others may still be written, into folders that are being removed.
            until = time.monotonic() + SETTLE
            while leftovers := [path for path in self._directory.iterdir()
                                if re.fullmatch(r"\d+\.(orbax-checkpoint-tmp.*|removed)", path.name)]:
                for path in leftovers:
                    shutil.rmtree(path, ignore_errors=True)
                if time.monotonic() > until:
                    break
                time.sleep(0.05)  # then look again

    def _remove_surplus(self) -> None:
        if is_first():
            steps = self.all_steps()
            best = _ranking(self._directory, self._rule)[:self._keep_best]
            for step in set(steps) - {*steps[-self._keep_latest:], *best}:
                delete_folder(self._directory / str(step), self._directory / f"{step}.removed")

    def _set_aside(self, steps: Iterable[int]) -> None:
        if is_first():
            for step in steps:
                aside = self._directory / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self._directory / str(step)).rename(aside)
        wait_for_all("checkpoints set aside")


def restore_weights(directory: str | os.PathLike, step: int | str = "latest") -> tuple[dict[str, Any], dict]:
    """Read the weights of one checkpoint as `({"params": ..., "model_state": ..., "ema": ...}, meta)`.

    These are numpy arrays in nested dictionaries, whatever devices wrote them; what was empty or None comes
    back as {}, tuples and lists as dictionaries with the keys "0", "1", ... step: "latest", "best" (by the
    run's own rule) or a number.

    Raises CheckpointError if there is no such checkpoint or it is damaged.
    """
    directory = _local(directory)
    step = _resolve(directory, step)
    try:
        record = _read_record(directory / str(step))
        # A numpy target makes orbax return numpy; a broadcast zero takes no memory.
        target = {name: np.broadcast_to(np.zeros((), jnp.dtype(leaf["dtype"])), leaf["shape"])
                  for name, leaf in _part(record["leaves"], "weights").items()}
        arrays = _read_arrays(directory / str(step) / "weights", target)
        _check_hashes(record, arrays)
    except _Damaged as damage:
        raise CheckpointError(f"checkpoint {step} in {directory} is damaged: {damage}; "
                              f"steps there are {_steps(directory)}") from None
    nested = flax.traverse_util.unflatten_dict(arrays, sep="/")
    return {field: nested.get(field, {}) for field in _ITEMS["weights"]}, record["meta"]


class Saved(NamedTuple):
    """A checkpoint, without its arrays. weights: a hash of what `restore_weights` reads of it, which is equal for equal
    weights on any devices."""

    step: int
    weights: str
    meta: dict


def describe(directory: str | os.PathLike, step: int | str = "latest") -> Saved:
    """What a checkpoint holds; `step` and errors as in `restore_weights`. The arrays are not read."""
    directory = _local(directory)
    step = _resolve(directory, step)
    try:
        record = _read_record(directory / str(step))
    except _Damaged as damage:
        raise CheckpointError(f"checkpoint {step} in {directory} is damaged: {damage}") from None
    leaves = json.dumps(_part(record["leaves"], "weights"), sort_keys=True)
    return Saved(step, hashlib.sha256(leaves.encode()).hexdigest()[:32], record["meta"])


def read_meta(directory: str | os.PathLike, step: int | str = "latest") -> dict:
    """Read the meta saved with a checkpoint; `step` and errors as in `restore_weights`."""
    return describe(directory, step).meta


# Which checkpoints there are.


def _local(directory: str | os.PathLike) -> Path:
    if "://" in str(directory):
        raise CheckpointError(f"checkpoint directory {directory}: allowed is a path of a mounted file system")
    return Path(os.path.abspath(directory))  # orbax takes a relative path, then fails at the first save


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def _ranking(directory: Path, rule: Mapping[str, str | None]) -> list[int]:
    """The steps with a finite value of the rule's metric, best first."""
    if rule["metric"] is None:
        return []
    scores = {}
    for step in _steps(directory):
        try:
            value = _read_record(directory / str(step))["metrics"].get(rule["metric"], math.nan)
        except _Damaged:
            continue
        if math.isfinite(value):
            scores[step] = (value if rule["mode"] == "max" else -value, step)
    return sorted(scores, key=scores.__getitem__, reverse=True)


def _resolve(directory: Path, step: int | str) -> int:
    steps = _steps(directory)
    if step == "latest" and steps:
        return steps[-1]
    if step == "best":
        for candidate in reversed(steps):  # the newest rule that ranks anything counts
            try:
                ranking = _ranking(directory, _read_record(directory / str(candidate))["best"])
            except _Damaged:
                continue
            if ranking:
                return ranking[0]
    if step in steps:
        return int(step)
    raise CheckpointError(f"no checkpoint {step!r} in {directory}: allowed is 'latest', 'best' (among those "
                          f"saved with the best metric) or one of {steps}")


# Reading one checkpoint.


def _restore(directory: Path, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[dict, dict]:
    folder = directory / str(step)
    record = _together(lambda: _read_record(folder))
    _check_fit(step, record["leaves"], wanted)
    arrays = {}
    for item in _ITEMS:
        arrays |= _together(lambda item=item: _read_arrays(folder / item, _part(wanted, item)))
    _check_hashes(record, arrays)
    return arrays, record["meta"]


def _together(read: Callable[[], dict]) -> dict:
    """`read()`; if one process finds damage all do, else they would resume from different steps."""
    try:
        result, problem = read(), None
    except _Damaged as damage:
        result, problem = {}, damage
    if jax.process_count() > 1 and multihost_utils.process_allgather(np.bool_(problem is not None)).any():
        problem = problem or _Damaged("another process cannot read it")
    if problem is not None:
        raise problem
    return result


def _read_record(folder: Path) -> dict:
    try:
        stored = ocp.JsonCheckpointHandler().restore(epath.Path(folder / "meta"), args=ocp.args.JsonRestore())
        record, crc32 = stored["record"], stored["crc32"]
    except Exception as error:
        raise _Damaged(f"meta cannot be read ({_line(error)})") from None
    if _crc32(record) != crc32:
        raise _Damaged("meta has changed since it was written")
    return record


def _read_back(folder: Path) -> None:
    """Raises _Damaged unless a checkpoint that was just written has its meta, and every array under its name.

    The meta is compared with its checksum. Of each array the index and the header are read, which takes about a sixth
    of the time of the write, and compared with the meta. Its values are not read: right after a write they would come
    from memory, and say nothing about the disk. A restore compares them with their hashes.
    """
    leaves = _read_record(folder)["leaves"]
    for item in _ITEMS:
        try:
            stored = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder / item)).tree
        except Exception as error:
            raise _Damaged(f"{item} cannot be read back ({_line(error)})") from None
        for name, leaf in _part(leaves, item).items():
            if math.prod(leaf["shape"]) and not _is_like(stored.get(name), leaf):
                raise _Damaged(f"{name} was not written as {tuple(leaf['shape'])} {leaf['dtype']}")


def _is_like(stored: Any, leaf: Mapping[str, Any]) -> bool:
    """Whether a stored array has the shape and dtype of a leaf; one of random keys is stored as their words."""
    if stored is None:
        return False
    if leaf["dtype"].startswith("key<"):
        return list(stored.shape[:-1]) == leaf["shape"]
    return list(stored.shape) == leaf["shape"] and str(np.dtype(stored.dtype)) == leaf["dtype"]


def _read_arrays(folder: Path, target: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays like the target's leaves: on devices for ShapeDtypeStructs, on the host for numpy."""
    wanted = _not_empty(target)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=ocp.type_handlers.create_type_handler_registry(
        *((kind, _patient_handler(kind)) for kind in (jax.Array, np.ndarray))))
    try:
        # The bare handler: in ocp.Checkpointer the others would wait for a process that could not read.
        stored = handler.restore(epath.Path(folder), args=ocp.args.PyTreeRestore(
            wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)))
    except Exception as error:
        named = [name for name in target if f"{name}/" in str(error)]
        name = max(named, key=len, default=folder.name)
        raise _Damaged(f"{name} cannot be read ({_line(error)})") from None
    return {name: stored[name] if leaf.size else _empty(leaf) for name, leaf in target.items()}


def _patient_handler(kind: type) -> Any:
    """orbax's reader of arrays of this kind, except that if one read fails, the others end before it raises.

    orbax leaves them running and closes the loop that they report to. Python may complain about this at any later time.
    """
    handler = copy.copy(ocp.type_handlers.get_type_handler(kind))
    read = handler.deserialize

    async def read_all(infos: Any, args: Any = None) -> Any:
        before = asyncio.all_tasks()
        try:
            return await read(infos, args)
        except Exception:
            if others := asyncio.all_tasks() - before:
                await asyncio.wait(others)
            raise

    handler.deserialize = read_all
    return handler


def _check_fit(step: int, saved: Mapping[str, dict], wanted: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    # orbax names one difference at most, a shape without its parameter, and casts another dtype silently.
    there = {name: f"{tuple(leaf['shape'])} {leaf['dtype']}" for name, leaf in saved.items()}
    here = {name: f"{leaf.shape} {leaf.dtype}" for name, leaf in wanted.items()}
    lines = [f"only in the checkpoint: {name} {there[name]}" for name in there.keys() - here.keys()]
    lines += [f"only in this model: {name} {here[name]}" for name in here.keys() - there.keys()]
    lines += [f"{name}: checkpoint {there[name]}, model {here[name]}"
              for name in there.keys() & here.keys() if there[name] != here[name]]
    if lines:
        raise CheckpointError(f"checkpoint {step} does not fit this model: {'; '.join(sorted(lines))}")


def _check_hashes(record: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    # orbax returns flipped bits of array data without an error.
    saved = record["leaves"]
    changed = [name for name, value in fingerprints(arrays).items() if value != saved[name]["hash"]]
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise _Damaged(f"{changed[0]}{more} changed since it was written")


# The leaves of a state.


def _fields(state: Any) -> dict[str, Any]:
    return {field: getattr(state, field) for fields in _ITEMS.values() for field in fields}


def _flatten(state: Any) -> dict[str, Any]:
    """Leaves by path, for example "params/stem/kernel", in the order of `jax.tree.leaves(_fields(state))`."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_fields(state)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves or name.count("/") >= len(path):
            raise CheckpointError(f"{name} is ambiguous: allowed are distinct names without '/'")
        leaves[name] = leaf
    return leaves


def _part(leaves: Mapping[str, Any], item: str) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves.items() if name.split("/")[0] in _ITEMS[item]}


def _with_sharding(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:  # orbax would take it from the file, which is wrong on other devices
        raise CheckpointError(f"target {name} is a {type(leaf).__name__} without a sharding: it needs one")
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _not_empty(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """orbax refuses arrays of size 0; there is nothing in them to store."""
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def _empty(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf
    return jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=leaf.sharding)()


def _crc32(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
