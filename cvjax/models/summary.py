"""A table of a model's layers: shapes, parameters, arithmetic, receptive fields. No numbers of the model are computed.

The model is traced once on shapes (`jax.make_jaxpr`), and every operation is credited to the module that called it.
So arithmetic is counted from the operations themselves, without a list of layer classes. Receptive fields are followed
through the traced operations from the input (`cvjax.ops.receptive_field`; Araujo et al. 2019).
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from cvjax.ops.multilinear import product_of
from cvjax.ops.receptive_field import ReceptiveField

NOT_CALLED = "(not called)"

Fields = tuple[ReceptiveField, ReceptiveField]  # along rows and columns, which are axes 1 and 2 of an array
_MIXED = "each output may see every input"
_View = Fields | str | None  # None: does not depend on the input
_INPUT: Fields = (ReceptiveField(), ReceptiveField())

# These may keep the shape of their operand, but not each element in its place.
_MIXING = {"cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "fft", "gather", "rev", "scatter", "scatter-add",
           "sort", "transpose"}


class Layer(NamedTuple):
    """One row: a call of a module that has parameters, multiplies, or changes the size itself, not in a submodule."""

    path: str  # "layer1/0/conv1", the place of its parameters; "" for the model itself
    type: str  # class name; NOT_CALLED for parameters that a forward pass in evaluation mode does not reach
    shape: tuple[int, ...] | None  # of the output, batch of 1 in front; None where the output is no array
    parameters: int  # of its own; counted at the first call of a module that is called several times
    macs: int  # multiply-accumulates of convolutions and matrix products, for one image
    receptive_field: tuple[int, int] | None  # rows, columns; None after global operations such as attention
    stride: tuple[int, int] | None  # input pixels from one output to the next; None as for receptive_field


class Summary(NamedTuple):
    """The layers in the order of their calls, and their totals."""

    layers: list[Layer]
    parameters: int
    macs: int


def summarize(model: nn.Module, image_shape: tuple[int, int, int]) -> Summary:
    """Layers of a model `apply(variables, images, train=False)` for one image of shape `(H, W, C)`.

    Multiply-accumulates (half of the usual FLOPs) are those of convolutions, of dense layers and of attention's two
    matrix products; additions of biases, normalisation, activations and pooling are left out, as the papers do.
    Positions outside the image count as multiplied where a convolution pads.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (H, W, C), each at least 1, received {tuple(image_shape)}")
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    parameters = dict(_own_parameters(variables.get("params", {})))
    calls: list[_Call] = []
    with nn.intercept_methods(_marking(calls)):
        jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images).jaxpr
    views: list[_View] = [*[None] * (len(jaxpr.invars) - 1), _INPUT]
    _walk(jaxpr, views, calls, calls[0], 1)

    layers = []
    for call in calls:
        own = parameters.pop(call.path, 0)
        resizes = call.is_leaf and call.input_shape not in (None, call.shape)
        if own or call.macs or call.has_window or resizes:
            receptive_field = stride = None
            if isinstance(call.view, tuple):
                rows, columns = call.view
                receptive_field, stride = (rows.size, columns.size), (rows.stride, columns.stride)
            layers.append(Layer("/".join(call.path), call.type, call.shape, own, call.macs, receptive_field, stride))
    layers += [Layer("/".join(path), NOT_CALLED, None, own, 0, None, None) for path, own in parameters.items()]
    return Summary(layers, sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers))


def table(summary: Summary) -> str:
    """The summary as text, one row per layer and a last one of totals; "-" where a column does not apply."""
    def pair(numbers: tuple[int, ...] | None) -> str:
        return "-" if numbers is None else str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))

    rows = [("layer", "type", "output", "parameters", "MACs", "receptive field", "stride")]
    rows += [(layer.path or "(model)", layer.type, "-" if layer.shape is None else "x".join(map(str, layer.shape[1:])),
              f"{layer.parameters:,}", f"{layer.macs:,}", pair(layer.receptive_field), pair(layer.stride))
             for layer in summary.layers]
    rows.append(("total", "", "", f"{summary.parameters:,}", f"{summary.macs:,}", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *layers, total = (
        "  ".join([*map(str.ljust, row[:3], widths), *map(str.rjust, row[3:], widths[3:])]).rstrip() for row in rows)
    line = "-" * len(head)
    return "\n".join([head, line, *layers, line, total])


class _Call:
    """The facts that are collected about one call of a module."""

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...] | None) -> None:
        self.path, self.type, self.input_shape = module.path, type(module).__name__, input_shape
        self.is_leaf, self.has_window, self.macs = True, False, 0
        self.shape: tuple[int, ...] | None = None
        self.view: _View = _MIXED


def _marking(calls: list[_Call]) -> Any:
    """Interceptor that notes each call, names the scope of its operations, and names its output."""
    active: list[_Call] = []

    def intercept(function: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        # A method that calls another one of its own module stays one call.
        if context.method_name == "setup" or active and active[-1].path == module.path:
            return function(*arguments, **options)
        if active:
            active[-1].is_leaf = False
        number, call = len(calls), _Call(module, _shape(arguments))
        calls.append(call)
        active.append(call)
        try:
            with jax.named_scope(_mark(number)):
                output = function(*arguments, **options)
        finally:
            active.pop()
        call.shape = _shape(output)
        return checkpoint_name(output, _mark(number)) if isinstance(output, jax.Array) else output

    return intercept


def _mark(number: int) -> str:
    return f"#{number}#"


def _last_mark(text: str) -> int | None:
    """The number of the innermost call in a stack of scopes such as "ResNet/#0#/layer1/#3#/vmap()"."""
    parts = text.split("#")
    return int(parts[-2]) if len(parts) > 2 else None


def _shape(values: Any) -> tuple[int, ...] | None:
    """Shape of an array, or of the first argument; None for anything else."""
    first = values[0] if isinstance(values, tuple) and values else values
    return first.shape if isinstance(first, jax.Array) else None


def _own_parameters(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    arrays = [value for value in tree.values() if hasattr(value, "shape")]
    if arrays:
        yield path, sum(math.prod(array.shape) for array in arrays)
    for name, value in tree.items():
        if not hasattr(value, "shape"):
            yield from _own_parameters(value, (*path, name))


def _walk(jaxpr: Any, views: list[_View], calls: list[_Call], owner: _Call, times: int) -> list[_View]:
    """Credit the operations of a jaxpr to calls, and follow views from its inputs to its outputs."""
    seen = dict(zip(jaxpr.invars, views, strict=True))
    for equation in jaxpr.eqns:
        number = _last_mark(str(equation.source_info.name_stack))
        own = owner if number is None else calls[number]
        # Literals are not hashable, and do not depend on the image.
        inputs = [None if hasattr(value, "val") else seen.get(value) for value in equation.invars]
        inner = _inner(equation)
        if "branches" in equation.params:  # by platform; the last one is the default
            inner, inputs = [_as_jaxpr(equation.params["branches"][-1])], inputs[1:]
        if len(inner) == 1 and len(inner[0].invars) == len(inputs):
            outputs = _walk(inner[0], inputs, calls, own, times * equation.params.get("length", 1))
            if equation.primitive.name == "scan":  # one pass over the carry does not tell its field
                outputs = [_MIXED] * len(outputs)
        else:
            own.macs += times * _macs(equation)
            own.has_window |= equation.primitive.name.startswith("reduce_window")
            outputs = [_view(equation, inputs)] * len(equation.outvars)
        seen.update(zip(equation.outvars, outputs, strict=True))
        if equation.primitive.name == "name" and (number := _last_mark(equation.params["name"])) is not None:
            calls[number].view = outputs[0]
    return [None if hasattr(value, "val") else seen.get(value) for value in jaxpr.outvars]


def _inner(equation: Any) -> list[Any]:
    """The jaxprs that an equation runs."""
    if (product := product_of(equation)) is not None:
        return [jax.make_jaxpr(product)(*(value.aval for value in equation.invars)).jaxpr]
    return [value for value in map(_as_jaxpr, equation.params.values()) if value is not None]


def _as_jaxpr(value: Any) -> Any:
    value = getattr(value, "jaxpr", value)  # a closed one holds an open one
    return value if hasattr(value, "eqns") else None


def _macs(equation: Any) -> int:
    out = equation.outvars[0].aval.shape
    if equation.primitive.name == "conv_general_dilated":
        right = equation.invars[1].aval.shape
        _, inputs, *window = equation.params["dimension_numbers"].rhs_spec  # axes of the kernel
        # A transposed convolution puts zeros between its inputs. Products with these zeros do not count.
        zeros = math.prod(equation.params["lhs_dilation"])
        return math.prod(out) * right[inputs] * math.prod(right[axis] for axis in window) // zeros
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(out) * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 0


def _view(equation: Any, inputs: list[_View]) -> _View:
    """The view of the image that an output of an operation has, from the views of its inputs."""
    if _MIXED in inputs:
        return _MIXED
    views = [view for view in inputs if isinstance(view, tuple)]
    if not views:
        return None
    windows = _windows(equation, inputs)
    if windows is None:
        return _MIXED
    joined = views[0]
    for view in views[1:]:
        if any(a.stride != b.stride for a, b in zip(joined, view)):
            return _MIXED
        rows, columns = (a.join(b) for a, b in zip(joined, view))
        joined = rows, columns
    rows, columns = (field.through(*window) for field, window in zip(joined, windows))
    return rows, columns


def _windows(equation: Any, inputs: list[_View]) -> list[tuple[int, int, int, int]] | None:
    """Window (kernel, stride, padding, dilation) along rows and columns; None if places are not kept apart."""
    name, params, same = equation.primitive.name, equation.params, [(1, 1, 0, 1)] * 2
    out = equation.outvars[0].aval.shape
    operands = [value.aval.shape for value, view in zip(equation.invars, inputs) if view is not None]
    operand = operands[0]

    def per_axis(kernel: Any, strides: Any, padding: Any, dilation: Any) -> list[tuple[int, int, int, int]]:
        return [(kernel[a], strides[a], padding[a][0], dilation[a]) for a in (0, 1)]

    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        if inputs[1] is not None or numbers.lhs_spec[2:] != (1, 2) or numbers.out_spec[2:] != (1, 2) or math.prod(
                params["lhs_dilation"]) != 1:
            return None
        right = equation.invars[1].aval.shape
        return per_axis([right[a] for a in numbers.rhs_spec[2:]], params["window_strides"], params["padding"],
                        params["rhs_dilation"])
    if len(operand) < 3:
        return None
    if name.startswith("reduce_window"):
        return per_axis(*(params[key][1:3] for key in ("window_dimensions", "window_strides", "padding",
                                                       "window_dilation")))
    if name == "slice":
        return [(1, (params["strides"] or (1,) * len(operand))[a], -params["start_indices"][a], 1) for a in (1, 2)]
    if name == "pad" and all(params["padding_config"][a][2] == 0 for a in (1, 2)):
        return [(1, 1, params["padding_config"][a][0], 1) for a in (1, 2)]
    if name == "dot_general":  # a dense layer on the channels
        (contracted, _), (batch, _) = params["dimension_numbers"]
        return same if inputs[1] is None and not batch and min(contracted) > 2 else None
    if name == "concatenate":
        return same if params["dimension"] not in (1, 2) else None
    if name == "broadcast_in_dim":
        return same if params["broadcast_dimensions"][:3] == (0, 1, 2) and out[:3] == operand[:3] else None
    if name.startswith(("reduce_", "argm")) and "axes" in params:  # over the channels
        return same if min(params["axes"]) > 2 else None
    if name in ("reshape", "split", "squeeze"):  # of the channels
        return same if out[:3] == operand[:3] else None
    # Element by element; the channels may be broadcast.
    in_place = all(len(shape) == len(out) and shape[:3] == out[:3] for shape in operands)
    return same if in_place and name not in _MIXING else None


def multiply_accumulates(function: Any, *arguments: Any) -> int:
    """Multiply-accumulates of the convolutions and matrix products of `function(*arguments)`; arguments may be shapes.

    A loop is counted once per iteration. Among alternatives (`jax.lax.cond`) the costliest is counted.
    """
    def count(jaxpr: Any) -> int:
        total = 0
        for equation in jaxpr.eqns:
            branches = equation.params.get("branches")
            if branches is not None:
                total += max(count(branch.jaxpr) for branch in branches)
                continue
            inner = _inner(equation)
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += times * sum(map(count, inner)) if inner else _macs(equation)
        return total

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)
