"""Where a step's time goes: a trace of some steps, for TensorBoard's profiler (xprof) or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

_FIRST = 5  # calls before the trace: by then all is compiled, and input runs ahead


@contextlib.contextmanager
def profiled(step: Callable[..., Any], folder: Path, calls: int, say: Callable[[str], None]
             ) -> Iterator[Callable[..., Any]]:
    """`step`, with some of its calls within this context traced: not the first five, but the next `calls`.

    The trace is in `folder` when the last of them is done, or at the end of the context; `say` is told where, or that
    there was nothing to trace. The results of `step` stay the same. calls: 0 for no trace.
    """
    if not calls:
        yield step
        return
    done, tracing = 0, False

    def end() -> None:
        nonlocal tracing
        jax.profiler.stop_trace()
        tracing = False
        say(f"{done - _FIRST} steps traced into {folder}: look with `tensorboard --logdir {folder}` and xprof, or give "
            "its .trace.json.gz to ui.perfetto.dev")

    def traced(*arguments: Any) -> Any:
        nonlocal done, tracing
        if done == _FIRST:
            jax.profiler.start_trace(folder)
            tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=done):
            result = step(*arguments)
        done += 1
        if tracing and done == _FIRST + calls:
            jax.block_until_ready(result)
            end()
        return result

    try:
        yield traced
    finally:
        if tracing:
            end()
        elif done <= _FIRST:
            say(f"no step was traced: the first {_FIRST} never are, and there were {done}")
