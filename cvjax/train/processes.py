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
from jax.experimental import multihost_utils

from cvjax.errors import ProcessError

LOST = 25  # seconds without a sign of life after which jax counts a process as lost


def launcher(environment: Mapping[str, str] = os.environ) -> str | None:
    """The launcher that started this process as one of several and knows its number; None if none is known."""
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

    coordinator_address: HOST:PORT of process 0, the same for all; num_processes and process_id go with it. Without it,
    the launcher that started this process is asked; without a launcher, this is the only process.
    Raises ProcessError for an incomplete or impossible place. If the others do not all come within `timeout` seconds,
    the process ends with status 1 and one line.
    """
    started_by = launcher() if coordinator_address is None else None
    if coordinator_address is not None and num_processes is not None and process_id is not None:
        _check_place(coordinator_address, num_processes, process_id)
        if num_processes == 1:
            return
        where = f"{num_processes} processes at {coordinator_address}, of which this is number {process_id}"
    elif (coordinator_address, num_processes, process_id) != (None, None, None):
        raise ProcessError("coordinator_address, num_processes and process_id go together: "
                           f"got {coordinator_address}, {num_processes} and {process_id}")
    elif started_by is not None:
        where = f"the processes that {started_by} started"
    else:
        return
    print(f"waiting for {where}", file=sys.stderr, flush=True)
    late = threading.Timer(timeout, _end, [f"{where}: not all came within {timeout} s"])
    late.daemon = True
    late.start()  # jax itself would abort with pages of text, and later
    asked_to_stop = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id, initialization_timeout=timeout + 60,
                                   heartbeat_timeout_seconds=LOST, shutdown_timeout_seconds=7 * 24 * 3600)
    except (ValueError, RuntimeError) as error:
        if coordinator_address is None and isinstance(error, ValueError):
            if started_by == "TPU pod":
                print(f"{started_by} names no other processes: going on with this one", file=sys.stderr)
                return
            package = "; jax needs a package to find them: pip install jax[k8s]" if started_by == "Kubernetes" else ""
            raise ProcessError(f"{started_by} started several processes, but jax cannot find them{package}; or give "
                               "coordinator_address, num_processes and process_id") from None
        raise ProcessError(f"{where}: {str(error).splitlines()[0]}") from None
    finally:
        late.cancel()
    if jax.process_count() > 1:
        ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)
    else:  # jax has taken SIGTERM over, to tell processes that are not there
        signal.signal(signal.SIGTERM, asked_to_stop)


def _check_place(coordinator_address: str, num_processes: int, process_id: int) -> None:
    host, colon, port = coordinator_address.rpartition(":")
    if not host or not colon or not port.isdecimal():
        raise ProcessError(f"coordinator_address {coordinator_address}: it must be HOST:PORT")
    if not 0 <= process_id < num_processes:
        raise ProcessError(f"process_id {process_id}: it must be from 0 to {num_processes - 1}")


def _end(message: str) -> None:
    """End this process at once: threads that wait for a lost peer can be ended in no other way."""
    print(f"\nerror: {message}", file=sys.stderr, flush=True)  # a progress bar may stand in the line
    os._exit(1)


# jax aborts when a process is lost: at once when it is process 0, else after LOST seconds. Its pages of text do not say
# in one line what to do. No Python handler runs on an abort, a C function does.
_aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: _end(
    "process 0 or another process of this run is lost, or jax aborted for the reason above; all processes end, the "
    "same command goes on from the last checkpoint"))


def is_first() -> bool:
    """Whether this is the process that writes: process 0, or the only one."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Go on when every process of the run is here; `name` says where, the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def wait_to_be_ended() -> None:
    """After an error of communication: wait until jax has found out which process was lost, and ends this one."""
    time.sleep(LOST + 8)


def leave(status: int, *, together: bool) -> None:
    """End one of several processes, at once or, `together`, once all others are at their ends, too.

    Does nothing in the only process.
    """
    if not jax.distributed.is_initialized():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if together:
        jax.distributed.shutdown()
    os._exit(status)
