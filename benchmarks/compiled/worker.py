"""Compiles one program for one target, in a process of its own: JAX answers as on the target there.

`python benchmarks/compiled/worker.py TARGET MODE CHECKOUT CACHE EXPERIMENT ...` prints the path of a JSON file in the
cache with what `Facts` holds; the program's text lies beside it, as .hlo.gz. It is started as a file, not as a module:
that would import a part of this checkout's cvjax, and the rest could not come from another one.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple


class Facts(NamedTuple):
    """What the compiler says of a program, per device."""

    target: tuple[str, int, str]  # kind, devices, platform
    error: str | None  # why it does not compile
    peak_bytes: int  # of memory, arguments included
    argument_bytes: int
    reckoned_bytes: int  # by `experiments.plan`
    flops: float  # by the model's definition: products and convolutions, a multiply-add counts as two
    compiled_flops: float | None  # by the compiler, of all operations; a card's does not tell
    images: int
    dtype: str
    parameters: int
    seconds: float  # of compilation
    versions: dict[str, str]


def main(target_name: str, mode: str, checkout: str, cache: str, *arguments: str) -> None:
    """Compile, unless the cache has the program, and print where its facts are."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    sys.path[0] = checkout
    os.chdir(checkout)
    import cvjax
    from experiments.wiring.plan import prepare

    if not Path(str(cvjax.__file__)).is_relative_to(checkout):
        raise RuntimeError(f"cvjax was imported from {cvjax.__file__}, not from {checkout}")
    absent = _our_module("cvjax/workflow/absent_devices.py")
    targets = absent.slices(target_name)
    with absent.as_on(targets[0]), contextlib.redirect_stdout(sys.stderr):
        prepared = prepare(arguments[0], arguments[1:])
        for target in targets:
            path = _fitting(prepared, target, mode, Path(cache), absent, needed=target is targets[-1])
            if path is not None:
                break
    print(path)


def _fitting(prepared: Any, target: Any, mode: str, cache: Path, absent: Any, *, needed: bool) -> Path | None:
    """Where the facts of a program are; None if it needs more devices and is not `needed`, whatever it takes."""
    import jax

    from cvjax.models.summary import multiply_accumulates
    from cvjax.text import read_text
    from cvjax.train.mesh import MeshEngine
    from cvjax.workflow.devices import make_layout
    from cvjax.workflow.folder import write_json
    from cvjax.workflow.memory import measure_memory

    room = _our_module("cvjax/workflow/accelerators.py").DEVICES[target.kind].memory
    layout = make_layout(prepared.config, target.chips)
    try:
        reckoned = measure_memory(prepared, layout, target.platform).total
    except (TypeError, ValueError):  # what another checkout does not know
        reckoned = 0
    if reckoned > room and mode == "train" and not needed:
        return None
    engine = MeshEngine(devices=absent.absent_devices(target), layout=layout)
    if mode == "train":
        function, inputs = prepared.step, (prepared.state, prepared.batch)
        lowered = engine.compile_step(function, prepared.state).lower(*inputs)
    else:
        variables = {"params": prepared.state.params, **prepared.state.model_state}
        function, inputs = prepared.task.evaluate, (variables, prepared.batch)
        lowered = engine.compile_evaluation(function).lower(*inputs)
    flops = 2 * multiply_accumulates(function, *inputs) / target.chips
    packages = ("jax", "jaxlib", absent.compiler_of(target))
    versions = {name: metadata.version(name) for name in packages}
    told = json.dumps([*target, versions])
    name = hashlib.sha256(f"{told}\n{lowered.as_text()}".encode()).hexdigest()[:24]
    path = cache / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        begin, error, peak, argument, counted = time.perf_counter(), None, 0, 0, None
        try:
            compiled = absent.compile_for_absent(lowered)
            memory = compiled.memory_analysis()
            peak, argument = memory.peak_memory_in_bytes, memory.argument_size_in_bytes
            counted = (compiled.cost_analysis() or {}).get("flops")
            text = compiled.as_text() or ""
        except Exception as problem:  # the compiler's own, of many types
            error, text = f"{type(problem).__name__}: {problem}", ""
        seconds = time.perf_counter() - begin
        path.with_suffix(".hlo.gz").write_bytes(gzip.compress(text.encode()))
        facts = Facts(tuple(target), error, peak, argument, reckoned, flops, counted, prepared.config.batch_size,
                      prepared.config.dtype, sum(x.size for x in jax.tree.leaves(prepared.state.params)), seconds,
                      versions)
        write_json(path, facts._asdict())
    else:  # what the checkout reckons is not the compiler's
        write_json(path, json.loads(read_text(path)) | {"reckoned_bytes": reckoned, "flops": flops})
    found = Facts(**json.loads(read_text(path)))
    full = found.peak_bytes > room or found.error is not None and "RESOURCE_EXHAUSTED" in found.error
    return None if full and not needed else path


def _our_module(path: str) -> Any:
    """A file of this checkout as a module, although the package is the other's: that may not have it yet."""
    found = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parents[2] / path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
