"""A function in JAX's own operations, and for one platform: what converters to other formats can read."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from cvjax.ops.multilinear import product_of

# Operations that only call another jaxpr, and the parameter that holds it.
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
          "remat": "jaxpr", "checkpoint": "jaxpr"}


def plain(function: Callable[..., Any], inputs: Sequence[jax.ShapeDtypeStruct]) -> Callable[..., list[jax.Array]]:
    """A function that gives the leaves of `function(*inputs)`. Where sizes are symbolic, only these inputs fit it.

    Nothing in it is a `Multilinear`, depends on the platform (`jax.lax.platform_dependent` becomes what a CPU does), or
    is one of the operations that jax2onnx 0.13 lacks or gets wrong: `stack`, `pad` of a symbolic batch, transposed
    convolutions. Functions that only wrap others are gone.
    """
    once = _plain(jax.make_jaxpr(function)(*inputs))
    return jaxpr_as_fun(_plain(once))  # without what the first pass left unused


def _plain(closed: ClosedJaxpr) -> ClosedJaxpr:
    return jax.make_jaxpr(lambda *inputs: _evaluate(closed, inputs))(*closed.in_avals)


def _evaluate(closed: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *inputs), strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in _used(jaxpr):
        values.update(zip(equation.outvars, _outputs(equation, list(map(value, equation.invars)))))
    return list(map(value, jaxpr.outvars))


def _used(jaxpr: Any) -> list[Any]:
    """The equations whose results lead to an output."""
    used, needed = [], set(filter(_is_variable, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            used.append(equation)
            needed.update(filter(_is_variable, equation.invars))
    return used[::-1]


def _is_variable(atom: Any) -> bool:
    return not isinstance(atom, Literal)


def _outputs(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if (product := product_of(equation)) is not None:
        return [product(*inputs)]
    if name == "platform_index":
        return [np.int32(next(i for i, those in enumerate(params["platforms"]) if those is None or "cpu" in those))]
    if name == "cond" and isinstance(inputs[0], np.generic):  # which branch is known
        return _evaluate(params["branches"][int(inputs[0])], inputs[1:])
    if name == "pad":
        return [_padded(inputs[0], inputs[1], params["padding_config"])]
    if name == "concatenate":
        return [_joined(inputs, params["dimension"])]
    if name == "stack":
        return [_joined([jax.lax.expand_dims(x, [params["axis"]]) for x in inputs], params["axis"])]
    if name == "conv_general_dilated" and any(step != 1 for step in params["lhs_dilation"]):
        return [_spread_first(equation, *inputs)]
    if name in _CALLS:
        inner = params[_CALLS[name]]
        return _evaluate(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), inputs)
    outputs = equation.primitive.bind(*inputs, **{key: _plain_within(each) for key, each in params.items()})
    return outputs if equation.primitive.multiple_results else [outputs]


def _plain_within(param: Any) -> Any:
    """A parameter of an operation; the functions in it are made plain."""
    if isinstance(param, ClosedJaxpr):
        return _plain(param)
    if isinstance(param, tuple) and param and all(isinstance(each, ClosedJaxpr) for each in param):
        return tuple(map(_plain, param))
    return param


def _padded(x: jax.Array, fill: Any, config: Sequence[tuple[int, int, int]]) -> jax.Array:
    """`lax.pad` as slices and concatenations."""
    for axis, (low, high, interior) in enumerate(config):
        if interior:
            x = _spread(x, fill, axis, interior)
        if low < 0 or high < 0:
            x = jax.lax.slice_in_dim(x, max(-low, 0), x.shape[axis] - max(-high, 0), axis=axis)
        before, after = ([jax.lax.broadcast(fill, (*x.shape[:axis], width, *x.shape[axis + 1:]))] if width > 0 else []
                         for width in (low, high))
        x = _joined([*before, x, *after], axis)
    return x


def _spread(x: jax.Array, fill: Any, axis: int, interior: int) -> jax.Array:
    """So many times `fill` between two elements along an axis."""
    before, length, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1:]
    between = jax.lax.broadcast(fill, (*before, length, interior, *after))
    whole = jax.lax.concatenate([jax.lax.expand_dims(x, [axis + 1]), between], axis + 1)
    whole = jax.lax.reshape(whole, (*before, length * (1 + interior), *after))
    return jax.lax.slice_in_dim(whole, 0, length * (1 + interior) - interior, axis=axis)


def _spread_first(convolution: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A transposed convolution as zeros between the pixels and a convolution."""
    params = convolution.params
    config = [(0, 0, 0)] * x.ndim
    for axis, step in zip(params["dimension_numbers"].lhs_spec[2:], params["lhs_dilation"]):
        config[axis] = (0, 0, step - 1)
    x = _padded(x, np.zeros((), x.dtype), config)
    return convolution.primitive.bind(x, kernel, **params | {"lhs_dilation": (1,) * len(params["lhs_dilation"])})


def _joined(arrays: Sequence[Any], axis: int) -> jax.Array:
    """`lax.concatenate` without arrays that are empty along the axis: ONNX reads a size of 0 as "as it was"."""
    return jax.lax.concatenate([x for x in arrays if x.shape[axis] != 0] or arrays[:1], axis)
