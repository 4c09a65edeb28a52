"""A program as ONNX (https://onnx.ai), by jax2onnx (https://github.com/enpasos/jax2onnx), checked in ONNX Runtime."""

import importlib
import logging
from types import ModuleType
from typing import Any

import jax
import numpy as np

from cvjax.errors import ConfigError
from cvjax.workflow.export.plain import plain
from cvjax.workflow.export.program import Program

_TOLERANCE = 1e-4  # of the largest magnitude of an output: another order of float32 sums through the whole network
_OTHERWISE = "export --format stablehlo; or --format safetensors, and timm's onnx_export.py in PyTorch"


def onnx(program: Program) -> bytes:
    """The file's content. Its inputs and outputs have the program's names, and the first axis of each is the batch.

    Two images of noise have passed it and the program, with the same outputs but for rounding. ConfigError for
    detectors, for weights that are too large, for what jax2onnx cannot convert, or where it is not installed.
    """
    if program.kind == "detector":
        raise ConfigError(f"--format onnx: {program.name} is a detector, whose non-maximum suppression jax2onnx does "
                          "not convert; export --format stablehlo")
    program.check_size("--format onnx")
    jax2onnx, runtime = _library("jax2onnx"), _library("onnxruntime")
    logging.getLogger("jax2onnx").setLevel(logging.CRITICAL)  # it warns of what it has for other libraries
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    inputs = program.batched()
    names = sorted(jax.eval_shape(program, *inputs))  # the order of leaves
    try:
        model = jax2onnx.to_onnx(plain(program, inputs), inputs, model_name=program.name,
                                 input_names=list(program.inputs), output_names=names)
        content = model.SerializeToString()
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        distance = _distance(session, program)
    except Exception as error:  # a converter may fail in any way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"--format onnx: jax2onnx does not convert {program.name}: {reason}; {_OTHERWISE}") from None
    if not distance <= _TOLERANCE:
        raise ConfigError(f"--format onnx: what jax2onnx makes of {program.name} differs from it by {distance:.1e} of "
                          f"the largest output in ONNX Runtime; {_OTHERWISE}")
    return content


def _distance(session: Any, program: Program) -> float:
    """The largest difference between the outputs of two images, relative to the largest output; NaN if any is NaN."""
    draw = np.random.default_rng(0)
    inputs = [draw.integers(0, 256, (2, *one.shape)).astype(one.dtype) if one.dtype == np.uint8
              else draw.standard_normal((2, *one.shape)).astype(one.dtype) for one in program.inputs.values()]
    expected = jax.device_get(jax.jit(program)(*inputs))
    found = session.run(sorted(expected), dict(zip(program.inputs, inputs)))
    distances = [np.abs(there - here).max() / (np.abs(here).max() or 1) for there, (_, here) in zip(
        found, sorted(expected.items())) if np.issubdtype(here.dtype, np.floating)]
    return float(np.max(distances))


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--format onnx needs {error.name}, which is not installed: pip install \".[export-onnx]\", "
                          "in the folder of cvjax") from None
