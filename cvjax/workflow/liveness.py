"""Reckons the memory that a compiled program needs beside its arguments, from its trace alone.

A compiler for GPUs or TPUs writes few of a program's arrays to memory. Elementwise arithmetic is fused into what uses
it, so an array lies in memory from when it is computed to its last use only if

- a product, a convolution, a gather, a scatter, a loop or a sum computed it: the kernels end there;
- or a kernel of that kind, except a sum, reads it: those begin with arrays in memory;
- or it is used several times, and keeping what it is computed from would take more memory than itself.

The most that lie there at one time, in the order in which the program was traced, is the answer. It was compared with
the compilers' own: docs/performance.md.
"""

import collections
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cvjax.ops.multilinear import product_of

_READS_AND_WRITES = {"dot_general", "conv_general_dilated", "reduce_window", "reduce_window_max", "reduce_window_sum",
                     "select_and_scatter_add", "select_and_gather_add", "gather", "scatter", "scatter-add", "sort",
                     "top_k", "cumsum", "cumprod", "cummax", "while", "scan", "dynamic_update_slice"}
_WRITES = {"argmax", "argmin", "reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod"}
_VIEWS = {"reshape", "squeeze", "expand_dims", "copy", "optimization_barrier", "bitcast_convert_type"}
_NEVER_KEPT = {"broadcast_in_dim", "iota"}


class Operation(NamedTuple):
    """A step of a program: numbers of the arrays that it reads and writes."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    inside: int  # bytes that one turn of a loop needs


class Trace(NamedTuple):
    """A program without its functions: one operation after the other."""

    operations: list[Operation]
    shapes: list[Any]  # of each array, with its dtype
    arguments: frozenset[int]
    outputs: frozenset[int]

    def sizes(self) -> list[int]:
        """Bytes of each array."""
        return [array_bytes(shape) for shape in self.shapes]


def array_bytes(shape: Any) -> int:
    """Bytes of an array; a random key counts as its two words."""
    width = 8 if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key) else np.dtype(shape.dtype).itemsize
    return math.prod(shape.shape) * width


def flatten(jaxpr: core.ClosedJaxpr, platform: str) -> Trace:
    """The operations of a program as it is lowered for "cpu", "cuda" or "tpu"."""
    return _Flattening(platform).whole(jaxpr)


def temporary_bytes(trace: Trace, sizes: Sequence[int] | None = None) -> int:
    """The most bytes that lie in memory at one time, without arguments and outputs, which take the arguments' place.

    An output is computed as soon as all is there that it is computed from: a parameter's update does not wait for
    other gradients, unless their common norm is needed.
    sizes: of each array, where they are not those of its shape.
    """
    sizes = trace.sizes() if sizes is None else sizes
    kept, roots = _kept(trace, sizes)
    last = _last_uses(trace, kept, roots)
    free = trace.arguments | trace.outputs
    ends = collections.defaultdict(list)
    for number, time in last.items():
        ends[time].append(number)
    alive = most = 0
    lying: set[int] = set()
    for time, operation in enumerate(trace.operations):
        for number in operation.outputs:
            if number in kept and number in last and number not in free:
                alive += sizes[number]
                lying.add(number)
        most = max(most, alive + operation.inside)
        for number in ends[time]:
            if number in lying:
                alive -= sizes[number]
                lying.discard(number)
    return most


def _kept(trace: Trace, sizes: Sequence[int]) -> tuple[set[int], dict[int, frozenset[int]]]:
    """Numbers of the arrays that lie in memory at some time, and what `_roots` gives for them."""
    uses = collections.Counter(number for operation in trace.operations for number in set(operation.inputs))
    kernels, never = set(trace.arguments), set()
    for operation in trace.operations:
        if _is_kernel(operation.name):
            kernels.update(operation.outputs)
            if operation.name not in _WRITES:
                kernels.update(operation.inputs)
        elif operation.name in _NEVER_KEPT:
            never.update(operation.outputs)
    kernels -= never
    # First as if all that is used several times and computed from several large arrays were kept: when are they used?
    roots = _roots(trace, kernels)
    several = set()
    for operation in trace.operations:
        for number in operation.outputs:
            if number not in kernels and number not in never and uses[number] > 1:
                large = [root for root in roots[number] if sizes[root] >= sizes[number] / 2]
                if len(large) > 1:
                    several.add(number)
    points = kernels | several
    direct = _last_uses(trace, points, _roots(trace, points))
    reach = _reach(trace, points)
    # Then keep those whose roots would have to lie there for longer otherwise.
    kept, roots = set(kernels), {number: frozenset([number]) for number in trace.arguments}
    for operation in trace.operations:
        under = frozenset[int]().union(*(roots.get(number, frozenset()) for number in operation.inputs))
        for number in operation.outputs:
            if number not in kept and number not in never and uses[number] > 1:
                longer = sum(sizes[root] for root in under - trace.arguments
                             if direct.get(root, -1) < reach.get(number, -1))
                if longer > sizes[number]:
                    kept.add(number)
            roots[number] = frozenset([number]) if number in kept else under
    return kept, roots


def _is_kernel(name: str) -> bool:
    return name in _READS_AND_WRITES or name in _WRITES or name.startswith("dot_product_attention")


def _roots(trace: Trace, kept: Collection[int]) -> dict[int, frozenset[int]]:
    """The kept arrays that each array is computed from without any between them; of a kept one, itself."""
    roots = {number: frozenset([number]) for number in trace.arguments}
    for operation in trace.operations:
        under = frozenset[int]().union(*(roots.get(number, frozenset()) for number in operation.inputs))
        for number in operation.outputs:
            roots[number] = frozenset([number]) if number in kept else under
    return roots


def _last_uses(trace: Trace, kept: Collection[int], roots: dict[int, frozenset[int]]) -> dict[int, int]:
    """When a kept array is last read, to compute another kept one or an output."""
    last: dict[int, int] = {}
    for time, operation in enumerate(trace.operations):
        if any(number in kept for number in operation.outputs):
            last.update((root, time) for number in operation.inputs for root in roots.get(number, ()))
    made = {number: time for time, operation in enumerate(trace.operations) for number in operation.outputs}
    for number in trace.outputs:
        under = roots.get(number, frozenset())
        complete = max((made.get(root, -1) for root in under), default=-1)
        last.update((root, max(last.get(root, -1), complete)) for root in under)
    return last


def _reach(trace: Trace, points: Collection[int]) -> dict[int, int]:
    """When the last array of `points` is computed from each array, without others of them between."""
    reach: dict[int, int] = {}
    for time in range(len(trace.operations) - 1, -1, -1):
        operation = trace.operations[time]
        latest = max((time if number in points else reach.get(number, -1) for number in operation.outputs), default=-1)
        for number in operation.inputs:
            reach[number] = max(reach.get(number, -1), latest)
    return reach


class _Flattening:
    """Puts functions into the program that calls them; loops stay, with the memory of a turn."""

    def __init__(self, platform: str) -> None:
        self._platform = platform
        self._shapes: list[Any] = []
        self._operations: list[Operation] = []
        self._chosen: dict[int, int] = {}  # array -> the number that it holds, where the platform decides

    def whole(self, closed: core.ClosedJaxpr) -> Trace:
        jaxpr = closed.jaxpr
        arguments = [self._new(variable) for variable in (*jaxpr.invars, *jaxpr.constvars)]
        outputs = self._inline(jaxpr, arguments[:len(jaxpr.invars)], arguments[len(jaxpr.invars):])
        return Trace(self._operations, self._shapes, frozenset(arguments),
                     frozenset(number for number in outputs if number is not None))

    def _new(self, variable: Any) -> int:
        self._shapes.append(variable.aval)
        return len(self._shapes) - 1

    def _inline(self, jaxpr: core.Jaxpr, inputs: Sequence[int | None], constants: Sequence[int | None]
                ) -> list[int | None]:
        """Numbers of the outputs; None stands for a number in the program's text."""
        known: dict[Any, int | None] = dict(zip((*jaxpr.invars, *jaxpr.constvars), (*inputs, *constants), strict=True))

        def number_of(variable: Any) -> int | None:
            return None if isinstance(variable, core.Literal) else known[variable]

        for equation in jaxpr.eqns:
            read = [number_of(variable) for variable in equation.invars]
            if (found := self._function_of(equation, read)) is not None:
                function, skipped = found
                constants = [self._new(variable) for variable in function.jaxpr.constvars]
                written = self._inline(function.jaxpr, read[skipped:], constants)
            elif equation.primitive.name in _VIEWS and read[0] is not None:
                written = read[:len(equation.outvars)]
            else:
                written = self._operation(equation, [number for number in read if number is not None])
            known.update(zip(equation.outvars, written, strict=True))
        return [number_of(variable) for variable in jaxpr.outvars]

    def _function_of(self, equation: Any, read: Sequence[int | None]) -> tuple[core.ClosedJaxpr, int] | None:
        """The function that an equation calls, and how many of its inputs are not the function's."""
        name, parameters = equation.primitive.name, equation.params
        if (product := product_of(equation)) is not None:
            shapes = [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in equation.invars]
            return jax.make_jaxpr(lambda *arrays: product(*arrays, **parameters))(*shapes), 0
        if name == "cond":
            chosen = self._chosen.get(-1 if read[0] is None else read[0], -1)
            return parameters["branches"][chosen], 1
        if name in ("while", "scan", "pallas_call"):
            return None
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if isinstance(function := parameters.get(key), core.ClosedJaxpr):
                return function, 0
            if isinstance(function, core.Jaxpr):
                return core.ClosedJaxpr(function, ()), 0
        return None

    def _operation(self, equation: Any, inputs: Iterable[int]) -> list[int]:
        outputs = [self._new(variable) for variable in equation.outvars]
        if equation.primitive.name == "platform_index":
            self._chosen[outputs[0]] = self._branch(equation.params["platforms"])
        inside = max((_inside(body, self._platform) for key in ("jaxpr", "body_jaxpr")
                      if isinstance(body := equation.params.get(key), core.ClosedJaxpr)), default=0)
        self._operations.append(Operation(equation.primitive.name, tuple(inputs), tuple(outputs), inside))
        return outputs

    def _branch(self, platforms: Sequence[Sequence[str] | None]) -> int:
        for place, names in enumerate(platforms):
            if names is None or self._platform in names:
                return place
        return len(platforms) - 1


def _inside(body: core.ClosedJaxpr, platform: str) -> int:
    return temporary_bytes(flatten(body, platform))
