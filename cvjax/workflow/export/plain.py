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
    """A function that gives the leaves of `function(*inputs)`; sizes may be symbolic.

    Nothing in it is a `Multilinear`, depends on the platform (`jax.lax.platform_dependent` becomes what a CPU does), or
    is one of the operations that jax2onnx 0.13 lacks: `stack`, and `pad` of a symbolic batch. Functions that only wrap
    others are gone.
    """
    return jaxpr_as_fun(_plain(jax.make_jaxpr(function)(*inputs)))


def _plain(closed: ClosedJaxpr) -> ClosedJaxpr:
    return jax.make_jaxpr(lambda *inputs: _evaluate(closed, inputs))(*closed.in_avals)


def _evaluate(closed: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *inputs), strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        values.update(zip(equation.outvars, _outputs(equation, list(map(value, equation.invars)))))
    return list(map(value, jaxpr.outvars))


def _outputs(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if (product := product_of(equation)) is not None:
        return [product(*inputs)]
    if name == "platform_index":
        return [np.int32(next(i for i, those in enumerate(params["platforms"]) if those is None or "cpu" in those))]
    if name == "cond" and isinstance(inputs[0], np.generic):  # which branch is known
        return _evaluate(params["branches"][int(inputs[0])], inputs[1:])
    if name == "pad":
        return [_padded(*inputs, params["padding_config"])]
    if name == "stack":
        return [jax.lax.concatenate([jax.lax.expand_dims(x, [params["axis"]]) for x in inputs], params["axis"])]
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


def _padded(x: jax.Array, fill: jax.Array, config: Sequence[tuple[int, int, int]]) -> jax.Array:
    """`lax.pad` as slices and concatenations."""
    for axis, (low, high, interior) in enumerate(config):
        if interior:
            raise NotImplementedError("padding between elements")
        x = jax.lax.slice_in_dim(x, max(-low, 0), x.shape[axis] - max(-high, 0), axis=axis)

        before, after = (jax.lax.broadcast(fill, (*x.shape[:axis], max(width, 0), *x.shape[axis + 1:]))
                         for width in (low, high))
        x = jax.lax.concatenate([before] * bool(low > 0) + [x] + [after] * bool(high > 0), axis)
    return x
