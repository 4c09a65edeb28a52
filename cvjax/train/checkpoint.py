"""Checkpoints: saved in the background, verified when read, restored on any number of devices.

A checkpoint is a folder `<directory>/<step>/` with three items:

    weights    params, model_state, ema: what an evaluation needs, readable without the optimizer
    training   step, opt_state, rng: what a resumed run needs besides
    meta       the caller's JSON, the metrics, and the shape, dtype and fingerprint of every array

Arrays are stored flat, as `path -> array`; named tuples, empty dictionaries and None come back from the
target's own structure. orbax writes and reads the arrays. What is kept, what is best and what counts as
damage is decided here, from the files on disk alone.

One run writes to a directory; `restore_weights` and `read_meta` change nothing and may run beside it.
"""

import dataclasses
import json
import logging
import math
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from cvjax.train.fingerprint import fingerprints
from cvjax.train.processes import is_first, wait_for_all

_ITEMS = {"weights": ("params", "model_state", "ema"), "training": ("step", "opt_state", "rng")}

SETTLE = 10.0  # seconds that a failed save is given to stop writing

_log = logging.getLogger(__name__)


def _quieten_orbax() -> None:
    """Drops the pages of traceback per failed read or write that would bury the one line written here."""
    source = f"{os.sep}orbax{os.sep}"
    logging.getLogger("absl").addFilter(lambda record: source not in record.pathname)
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        # At the first array that fails, orbax drops the coroutines of the others and the loop they report to.
        code = getattr(unraisable.object, "cr_code", None)
        dropped = code is not None and source in code.co_filename
        if not dropped and str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others


_quieten_orbax()


class CheckpointError(Exception):
    """A checkpoint cannot be written, cannot be read, or does not fit the model."""


class _Damaged(Exception):
    """One checkpoint cannot be trusted; the one before it may be good."""


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
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        if is_first():
            self._directory.mkdir(parents=True, exist_ok=True)
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
        """Return when all that was saved is on disk.

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
        damaged one is then renamed to `<step>.damaged`, so that the run can save that step again.

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
        """The step on disk with the best `best_metric`, of equals the newest; None if none has a value."""
        return next(iter(_ranking(self._directory, self._rule)), None)

    def close(self) -> None:
        """Wait for the last save; CheckpointError if it failed."""
        try:
            self.wait()
        finally:
            self._writer.close()

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
        # The reason is somewhere in TensorStore's page of text.
        reason = "no space left on the disk" if "no space left" in str(error).lower() else _line(error)
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
                # Renamed first: killed in the middle, this leaves no half checkpoint under a step's name.
                removed = (self._directory / str(step)).rename(self._directory / f"{step}.removed")
                shutil.rmtree(removed, ignore_errors=True)

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


def read_meta(directory: str | os.PathLike, step: int | str = "latest") -> dict:
    """Read the meta saved with a checkpoint; `step` and errors as in `restore_weights`."""
    directory = _local(directory)
    step = _resolve(directory, step)
    try:
        return _read_record(directory / str(step))["meta"]
    except _Damaged as damage:
        raise CheckpointError(f"checkpoint {step} in {directory} is damaged: {damage}") from None


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


def _read_arrays(folder: Path, target: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays like the target's leaves: on devices for ShapeDtypeStructs, on the host for numpy."""
    try:
        # The bare handler: in ocp.Checkpointer the others would wait for a process that could not read.
        stored = ocp.StandardCheckpointHandler().restore(
            epath.Path(folder), args=ocp.args.StandardRestore(_not_empty(target)))
    except Exception as error:
        named = [name for name in target if f"{name}/" in str(error)]
        name = max(named, key=len, default=folder.name)
        raise _Damaged(f"{name} cannot be read ({_line(error)})") from None
    return {name: stored[name] if leaf.size else _empty(leaf) for name, leaf in target.items()}


def _check_fit(step: int, saved: Mapping[str, dict], wanted: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    # orbax names one difference at most, a shape without its parameter, and casts another dtype silently.
    saved = {name: f"{tuple(leaf['shape'])} {leaf['dtype']}" for name, leaf in saved.items()}
    wanted = {name: f"{leaf.shape} {leaf.dtype}" for name, leaf in wanted.items()}
    lines = [f"only in the checkpoint: {name} {saved[name]}" for name in saved.keys() - wanted.keys()]
    lines += [f"only in this model: {name} {wanted[name]}" for name in wanted.keys() - saved.keys()]
    lines += [f"{name}: checkpoint {saved[name]}, model {wanted[name]}"
              for name in saved.keys() & wanted.keys() if saved[name] != wanted[name]]
    if lines:
        raise CheckpointError("\n  ".join([f"checkpoint {step} does not fit this model:", *sorted(lines)]))


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
