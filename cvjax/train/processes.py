"""Several processes as one run (`jax.distributed`): they join, agree when to stop, and end together when one is lost.

Slurm, Open MPI, Kubernetes and TPU pods are recognised by what they tell their processes; elsewhere each process is
told its place. All of them run the same command.
"""

import ctypes
import glob
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

import jax
from jax._src import distributed  # for its key-value store, which has no public name
from jax.experimental import multihost_utils

BEAT = 2.0  # seconds between signs of life
LOST = 25.0  # seconds without one after which a process counts as lost


class ProcessError(Exception):
    """The processes of a run cannot work together; the message says why, in one line."""


def launcher(environment: Mapping[str, str] = os.environ) -> str | None:
    """What started this process as one of several and can say which of them it is; None for nothing known."""
    def several(name: str) -> bool:
        return environment.get(name, "").isdecimal() and int(environment[name]) > 1

    if several("SLURM_STEP_NUM_TASKS") and "SLURM_PROCID" in environment:
        return "Slurm"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts or several("MEGASCALE_NUM_SLICES"):
        return "TPU pod"
    if not hosts and importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        return "TPU pod"  # a Cloud TPU machine: jax asks its metadata server how many there are
    return None


def join(coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None, *,
         timeout: int = 45) -> None:
    """Join the other processes of the run, if there are any; call it before any other use of devices.

    coordinator_address: HOST:PORT of process 0, the same for all; with it go num_processes and process_id. Without it
    what `launcher` finds is asked, and where that is nothing this is the only process.
    Raises ProcessError for an incomplete or impossible place. If the others do not all come within `timeout` seconds,
    the process ends with status 1 and one line.
    """
    told = (coordinator_address, num_processes, process_id)
    if any(x is not None for x in told) and None in told:
        raise ProcessError("--coordinator-address, --num-processes and --process-id go together: "
                           f"got {coordinator_address}, {num_processes} and {process_id}")
    if coordinator_address is not None:
        host, colon, port = coordinator_address.rpartition(":")
        if not host or not colon or not port.isdecimal():
            raise ProcessError(f"--coordinator-address {coordinator_address}: it must be HOST:PORT")
        if not 0 <= process_id < num_processes:
            raise ProcessError(f"--process-id {process_id}: it must be from 0 to {num_processes - 1}")
        if num_processes == 1:
            return
        where = f"{num_processes} processes at {coordinator_address}, of which this is number {process_id}"
    elif found := launcher():
        where = f"the processes that {found} started"
    else:
        return
    print(f"waiting for {where}", file=sys.stderr, flush=True)
    late = threading.Timer(timeout, _end, [f"{where}: not all came within {timeout} s"])
    late.daemon = True
    late.start()  # jax itself would abort with pages of text, and later
    asked_to_stop = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id, initialization_timeout=timeout + 60,
                                   shutdown_timeout_seconds=7 * 24 * 3600)
    except (ValueError, RuntimeError) as error:
        if coordinator_address is None and isinstance(error, ValueError):
            if found == "TPU pod":
                print(f"{found} names no other processes: going on alone", file=sys.stderr)
                return
            needs = "; jax finds them with its package for it: pip install jax[k8s]" if found == "Kubernetes" else ""
            raise ProcessError(f"{found} started several processes, and jax cannot say which{needs}; or give "
                               "--coordinator-address, --num-processes and --process-id") from None
        raise ProcessError(f"{where}: {str(error).splitlines()[0]}") from None
    finally:
        late.cancel()
    if distributed.global_state.num_processes > 1:
        ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)
        _Watch().start()
    else:  # jax has taken SIGTERM over, to tell processes that are not there
        signal.signal(signal.SIGTERM, asked_to_stop)


class _Watch:
    """Signs of life, from every process to process 0 and from it to all, in the store that process 0 keeps for jax.

    Ends this process with one line when another one is lost. jax notices too, but after 100 s and with a crash.
    """

    def __init__(self) -> None:
        self._client = distributed.global_state.client
        self._me, self._count = distributed.global_state.process_id, distributed.global_state.num_processes
        self._seen = dict.fromkeys(range(self._count) if self._me == 0 else [0], ("", time.monotonic()))

    def start(self) -> None:
        for target in (self._talk, self._judge):
            threading.Thread(target=target, daemon=True).start()

    def _talk(self) -> None:
        beat = 0
        while True:
            beat += 1
            try:  # every call can hang or fail when process 0 is gone: then nothing is seen any more
                self._client.key_value_set(f"cvjax/beat/{self._me}", str(beat), allow_overwrite=True)
                found = self._client.key_value_dir_get("cvjax/")
            except Exception:
                found = []
            for key, value in found:
                name = key.rpartition("/")[2]
                if name == "lost":
                    _end(value)
                if name.isdecimal() and int(name) in self._seen and self._seen[int(name)][0] != value:
                    self._seen[int(name)] = value, time.monotonic()
            time.sleep(BEAT)

    def _judge(self) -> None:
        while True:
            time.sleep(BEAT)
            lost = [p for p, (_, when) in self._seen.items() if p != self._me and time.monotonic() - when > LOST]
            if not lost:
                continue
            message = (f"process {', '.join(map(str, lost))} of {self._count} is lost: no sign of life for {LOST:.0f} s"
                       "; all end, the same command goes on from the last checkpoint")
            if self._me == 0:  # the others learn it from here
                threading.Thread(target=self._client.key_value_set, args=("cvjax/lost", message), daemon=True).start()
                time.sleep(3 * BEAT)
            _end(message)


def _end(message: str) -> None:
    """End this process at once: threads that wait for a lost peer can be ended in no other way."""
    print(f"\nerror: {message}", file=sys.stderr, flush=True)  # a progress bar may stand in the line
    os._exit(1)


# jax aborts as soon as process 0 hangs up, and its pages of text do not say in one line what to do. No Python handler
# runs on an abort, a C function does.
_aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: _end(
    "process 0 of this run is lost, or jax aborted for what it says above; all end, the same command goes on from the "
    "last checkpoint"))


def is_first() -> bool:
    """Whether this is the process that writes: process 0, or the only one."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Go on when every process of the run is here; `name` says where, the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def wait_to_be_ended() -> None:
    """For after an error of communication: gives the time to find out which process was lost, and to say so."""
    time.sleep(LOST + 4 * BEAT)


def leave(status: int) -> None:
    """End one of several processes; with status 0 after all others have come to their ends, else at once.

    Does nothing in the only process.
    """
    if distributed.global_state.client is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if status == 0:
        jax.distributed.shutdown()
    os._exit(status)
