"""Worker processes that take turns in running steps, so that other work on the machine slows all of them alike.

Each worker holds one library's version of one workload and answers with the time that its steps took. If a worker
fails, dies or does not answer, one line says why, and the others go on.
"""

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from cvjax.text import read_text
from cvjax.workflow.allocator import keep_freed_memory

TAIL = 200  # characters of an error that are kept
START = 8.0  # seconds that a process is given to end by itself

# Set before the libraries are imported. Caches are off because compilation time is measured too. Preallocation is off
# because JAX's first process would otherwise take most of a GPU's memory.
ENVIRONMENT = {"JAX_ENABLE_COMPILATION_CACHE": "false", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
               "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
FACTS = ("device", "device_kind", "precision", "parameters")  # of a `Steps`, told at the start


class Steps(Protocol):
    """One library's version of a workload: see `benchmarks.steps.cvjax_side` and `benchmarks.steps.torch_side`."""

    device: str  # "cpu", "cuda", "tpu"
    device_kind: str
    precision: str  # of float32 products, in words
    parameters: int

    @property
    def loss(self) -> float | None:
        """Loss of the last training step; None for inference."""
        ...

    def start(self) -> dict[str, float]:
        """Compile and run the first step; further facts about that, such as `compile_seconds`."""
        ...

    def run(self, count: int) -> None:
        """Run `count` steps and wait for the last one."""
        ...

    def peak_memory(self) -> int | None:
        """The most bytes of the device's memory that were in use; None if the device uses the host's memory."""
        ...

    def product(self, side: int) -> Callable[[], None]:
        """A function that multiplies two square matrices of the workload's type, and waits for the result.

        The matrices hold random numbers: a GPU is faster on equal ones.
        """
        ...


class Taken(NamedTuple):
    """Seconds of wall-clock time, and of CPU time of this process on all cores together."""

    wall: float
    cpu: float


class WorkerError(Exception):
    """A worker is gone. The message says why, in one line."""


class Worker:
    """One process with one `Steps`. It is ready when the constructor returns; `facts` says what it told about itself.

    steps: "module:name" of a function or class that makes the `Steps` from `arguments`. Only the process imports the
    module, so that each library is in no other process, and not imported before cores and environment are set.
    cores: how many of this process's cores the worker may use, the first ones; None for all.
    timeout: seconds that one answer may take.

    Raises:
        WorkerError: from the constructor and from `ask`. The worker is gone then.
    """

    def __init__(self, steps: str, arguments: Sequence[Any], *, cores: int | None = None,
                 timeout: float = 600.0) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit JAX's threads
        self._pipe, theirs = context.Pipe()
        self._timeout = timeout
        self._process = context.Process(target=serve, args=(theirs, steps, tuple(arguments), cores), daemon=False)
        self._process.start()
        theirs.close()  # the pipe then ends when the worker dies
        self.facts: dict[str, Any] = self._answer()

    def ask(self, request: str, *arguments: Any) -> Any:
        """`run(count)` -> Taken; `finish()` -> `loss` and `peak_memory_bytes`; `peak()` -> as `highest_rates`.

        Ask for `peak` after `finish`, because its matrices would count as memory too.
        """
        with contextlib.suppress(OSError):  # the worker is gone: `_answer` finds out why
            self._pipe.send((request, arguments))
        return self._answer()

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        self._pipe.close()
        self._process.join(START)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            if not self._pipe.poll(self._timeout):
                self._process.kill()
                self.close()
                raise WorkerError(f"no answer within {self._timeout:g} s")
            good, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(START)
            raise WorkerError(_cause_of_death(self._process.exitcode)) from None
        except BaseException:  # this process is being stopped
            self._process.kill()
            raise
        if not good:
            self.close()
            raise WorkerError(answer)
        return answer


def serve(pipe: Any, steps: str, arguments: Sequence[Any], cores: int | None) -> None:
    """The worker process: it answers `(True, answer)` or `(False, one line)` until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, but its parent is to end it
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ |= ENVIRONMENT
    keep_freed_memory()  # as experiments do; torch is faster with it too
    # All workers use the same GPU, the first one: JAX would otherwise use all of them, and torch one.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    try:
        module, _, name = steps.partition(":")
        made: Steps = getattr(importlib.import_module(module), name)(*arguments)
        begin = time.perf_counter()
        facts = dict(made.start())
        facts["start_seconds"] = time.perf_counter() - begin
        pipe.send((True, facts | {fact: getattr(made, fact) for fact in FACTS}))
        while True:
            request, given = pipe.recv()
            pipe.send((True, {"run": _timed_run, "finish": _finish, "peak": _peak}[request](made, *given)))
    except (EOFError, BrokenPipeError):
        pass  # the parent has closed its end
    except Exception as error:  # whatever a library raises ends this side only
        with contextlib.suppress(OSError):
            pipe.send((False, one_line(error)))


def take_turns(workers: dict[str, Worker], turns: int, chain: int) -> tuple[dict[str, list[Taken]], dict[str, str]]:
    """In each of `turns` turns, ask every worker for `chain` steps.

    Each turn begins with another worker, so that no worker always follows the same one.

    Returns:
        Name -> seconds of one step in each turn, without the workers that were lost; and name -> why it was lost.
    """
    times: dict[str, list[Taken]] = {name: [] for name in workers}
    lost: dict[str, str] = {}
    for turn in range(turns):
        names = [name for name in workers if name not in lost]
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            try:
                taken = workers[name].ask("run", chain)
                times[name].append(Taken(taken.wall / chain, taken.cpu / chain))
            except WorkerError as error:
                lost[name] = str(error)
    return {name: taken for name, taken in times.items() if name not in lost}, lost


def one_line(error: BaseException) -> str:
    """An exception in one line of at most about 200 characters, with its type unless it is a ValueError."""
    text = " ".join(str(error).split())
    name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{name}{text if len(text) <= TAIL else text[:TAIL] + '…'}"


def highest_rates(product: Callable[[int], Callable[[], None]], *, repeats: int = 5,
                  enough: float = 0.01) -> dict[str, float]:
    """The highest FLOP/s of square matrix products by either clock, {"wall": ..., "cpu": ...}; a multiply-add is two.

    product(side) -> a function that computes one product and waits for it. The side grows until a product takes more
    than `enough` seconds and the rate has risen by less than 5 %: an accelerator needs larger matrices than a CPU.
    """
    best = {"wall": 0.0, "cpu": 0.0}
    for side in (512, 1024, 2048, 4096, 8192):
        multiply = product(side)
        multiply()  # compiles
        taken = [timed(multiply) for _ in range(repeats)]
        before = best["wall"]
        for clock in best:
            shortest = min(getattr(one, clock) for one in taken)
            best[clock] = max(best[clock], 2 * side**3 / shortest if shortest > 0 else 0.0)
        if min(one.wall for one in taken) > enough and best["wall"] < 1.05 * before:
            break
    return best


def timed(function: Callable[[], Any]) -> Taken:
    """How long a call takes; CPU time is that of all threads of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def _timed_run(steps: Steps, count: int) -> Taken:
    return timed(lambda: steps.run(count))


def _finish(steps: Steps) -> dict[str, Any]:
    memory = steps.peak_memory()
    memory = host_peak() if memory is None else memory
    return {"loss": steps.loss, "peak_memory_bytes": memory}


def _peak(steps: Steps) -> dict[str, float]:
    return highest_rates(steps.product)


def host_peak() -> int:
    """The most bytes of memory that this process held at once."""
    try:
        # On Linux ru_maxrss starts at what the parent held when it forked.
        lines = read_text("/proc/self/status", names=True).splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _cause_of_death(status: int | None) -> str:
    if status == -signal.SIGKILL:
        return "killed (SIGKILL): out of memory, most likely"
    if status is not None and status < 0:
        return f"died of {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


@contextlib.contextmanager
def closing(workers: dict[str, Worker]) -> Iterator[dict[str, Worker]]:
    """Close all workers at the end of the context, whatever happens in it."""
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.close()
