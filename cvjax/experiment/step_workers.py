"""Worker processes that make steps when they are asked to, one after the other, so that noise hits all alike.

Each worker holds one library's version of one piece of work. It answers with what the steps took; a worker that fails,
dies or does not answer says so in one line, and the others go on.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from cvjax.experiment.allocator import keep_freed_memory

TAIL = 200  # characters of an error that are kept
START = 8.0  # seconds that a process is given to end by itself

# Set before the libraries are loaded. What compilation takes is part of the answer: no program comes from a cache. And
# by default JAX's first process takes most of a GPU's memory for itself.
ENVIRONMENT = {"JAX_ENABLE_COMPILATION_CACHE": "false", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
               "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


FACTS = ("device", "device_kind", "precision", "parameters")


class Steps(Protocol):
    """What a worker does its work with: `cvjax.experiment.jax_steps`, `cvjax.experiment.torch_steps`."""

    device: str  # "cpu", "cuda", "tpu"
    device_kind: str
    precision: str  # of float32 products, in words
    parameters: int
    loss: float | None

    def start(self) -> dict[str, float]: ...  # compile and make the first step; what else is known of that

    def run(self, count: int) -> None: ...  # so many steps, waited for at the end

    def peak_memory(self) -> int | None: ...  # bytes of the device; None where its memory is the host's

    # Multiplies two square matrices and waits; of random numbers, for a GPU is quicker with equal ones.
    def product(self, side: int) -> Callable[[], None]: ...


class Taken(NamedTuple):
    """Seconds on the wall's clock, and of this process on all cores together."""

    wall: float
    cpu: float


class WorkerError(Exception):
    """A worker is gone; one line says why."""


class Worker:
    """One process with one `Steps`, made there by `build(*arguments)`; the first answer is waited for at once.

    cores: how many cores the process may use, the first ones of this one's; None for all.
    timeout: seconds that one answer may take. Raises WorkerError, as `ask` does, after which the worker is gone.
    """

    def __init__(self, build: Callable[..., Steps], arguments: Sequence[Any], *, cores: int | None = None,
                 timeout: float = 600.0) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit JAX's threads
        self._pipe, theirs = context.Pipe()
        self._timeout = timeout
        self._process = context.Process(target=serve, args=(theirs, build, tuple(arguments), cores), daemon=False)
        self._process.start()
        theirs.close()  # so that its death ends the pipe
        self.facts: dict[str, Any] = self._answer()

    def ask(self, request: str, *arguments: Any) -> Any:
        """`run(count)` -> Taken; `finish()` -> `loss`, `peak_memory_bytes`; `peak()` -> see `highest_rates`.

        The matrices of `peak` count as memory too: it comes after `finish`.
        """
        with contextlib.suppress(OSError):  # it is gone: what became of it is said below
            self._pipe.send((request, arguments))
        return self._answer()

    def close(self) -> None:
        """End the process, by force where it does not end by itself."""
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


def serve(pipe: Any, build: Callable[..., Steps], arguments: Sequence[Any], cores: int | None) -> None:
    """What the worker process runs: answers `(True, answer)` or `(False, one line)` until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends this one
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ |= ENVIRONMENT
    keep_freed_memory()  # as experiments do; torch gains by it too
    # One GPU for all, the first that may be seen: JAX would take them all, torch takes one.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    try:
        steps = build(*arguments)
        begin = time.perf_counter()
        facts = dict(steps.start())
        facts["start_seconds"] = time.perf_counter() - begin
        pipe.send((True, facts | {name: getattr(steps, name) for name in FACTS}))
        while True:
            request, given = pipe.recv()
            pipe.send((True, {"run": _timed_run, "finish": _finish, "peak": _peak}[request](steps, *given)))
    except (EOFError, BrokenPipeError):
        pass  # the parent has closed its end
    except Exception as error:  # whatever it is that a library raises: this cell says so, the others go on
        with contextlib.suppress(OSError):
            pipe.send((False, one_line(error)))


def take_turns(workers: dict[str, Worker], turns: int, chain: int) -> tuple[dict[str, list[Taken]], dict[str, str]]:
    """Ask each worker in turn for `chain` steps, so many turns: seconds for one step, and what became of the lost ones.

    Each turn begins with another worker, so that none always follows the same one. A worker that is lost is closed, and
    its times are left out.
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
    """An exception in one line of at most about 200 characters."""
    text = " ".join(str(error).split())
    name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{name}{text if len(text) <= TAIL else text[:TAIL] + '…'}"


def highest_rates(product: Callable[[int], Callable[[], None]], *, repeats: int = 5,
                  enough: float = 0.01) -> dict[str, float]:
    """The best FLOP/s of square matrix products by either clock, {"wall": ..., "cpu": ...}; 2 FLOPs a multiply-add.

    product(side) -> a function that makes one product and waits for it. Sides grow until a product takes `enough`
    seconds and is less than 5 % quicker than smaller ones: an accelerator takes larger ones than a processor.
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
    """How long a call takes; the processor's time is that of all threads of this process."""
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
    """The most bytes that this process held at once."""
    try:
        with open("/proc/self/status") as status:  # ru_maxrss starts with what the parent held when it forked
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        import sys

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
    """Within this context workers run; at its end, whatever happens, none does."""
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.close()
