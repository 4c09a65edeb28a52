"""Products with hand-written transposes, which every transform of JAX can be applied to.

We write a transpose by hand where the one that JAX derives is slow or loses digits. `jax.custom_vjp` allows that too,
but it rules out forward mode. A primitive (https://docs.jax.dev/en/latest/jax-primitives.html) does not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class Multilinear:
    """`product(*arrays, **static)`, one array, linear in each of the arrays that has a transpose.

    transposes: one for each array. `transpose(cotangent, *arrays, **static)` returns the cotangent of its array; among
    the arguments this array is only a shape and a dtype. A transpose must be differentiable. None: no gradient.
    cpu: the same product, in a form for programs that are lowered for a CPU. All other platforms use `product` itself,
    and so does `jax.vmap` on every platform.
    static: hashable, by name.
    """

    def __init__(self, name: str, product: Callable[..., jax.Array],
                 transposes: tuple[Callable[..., jax.Array] | None, ...],
                 cpu: Callable[..., jax.Array] | None = None) -> None:
        self.product = product
        self._primitive = primitive = Primitive(name)
        primitive.def_abstract_eval(partial(_abstract, product))
        primitive.def_impl(lambda *arrays, **static: jax.jit(
            primitive.bind, static_argnames=tuple(static))(*arrays, **static))
        ad.defjvp(primitive, *(transpose and partial(_tangent, primitive, i) for i, transpose in enumerate(transposes)))
        ad.primitive_transposes[primitive] = partial(_transposed, transposes)
        batching.primitive_batchers[primitive] = partial(_batched, product)
        mlir.register_lowering(primitive, mlir.lower_fun(product, multiple_results=False))
        if cpu is not None:
            mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
        _PRODUCTS[name] = product

    def __call__(self, *arrays: jax.Array, **static: Any) -> jax.Array:
        varying = [frozenset(varying_axes(x)) for x in arrays]
        # Where an array that all devices share meets one that differs between them, its gradients must be summed.
        missing = [tuple(frozenset().union(*varying) - own) for own in varying]
        arrays = tuple(jax.lax.pcast(x, axes, to="varying") for x, axes in zip(arrays, missing))
        return self._primitive.bind(*arrays, **static)


def varying_axes(x: jax.Array) -> tuple[str, ...]:
    """The axes of a `jax.shard_map` over which the devices' values of an array differ; empty outside of one."""
    return tuple(jax.typeof(x).manual_axis_type.varying)


_PRODUCTS: dict[str, Callable[..., jax.Array]] = {}


def product_of(equation: Any) -> Callable[..., jax.Array] | None:
    """The function of arrays that an equation of a jaxpr computes, if it is a `Multilinear`; otherwise None."""
    product = _PRODUCTS.get(equation.primitive.name)
    return None if product is None else partial(product, **equation.params)


def _abstract(product: Callable[..., jax.Array], *arrays: Any, **static: Any) -> Any:
    return jax.make_jaxpr(partial(product, **static))(*arrays).out_avals[0]


def _tangent(primitive: Primitive, place: int, tangent: jax.Array, *arrays: jax.Array, **static: Any) -> jax.Array:
    return primitive.bind(*arrays[:place], tangent, *arrays[place + 1:], **static)


def _transposed(transposes: tuple[Callable[..., jax.Array] | None, ...], cotangent: Any, *arrays: Any,
                **static: Any) -> list[Any]:
    wanted = [ad.is_undefined_primal(x) for x in arrays]
    avals = [x.aval if want else x for x, want in zip(arrays, wanted)]
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x) if want else None for x, want in zip(avals, wanted)]
    return [transpose(cotangent, *avals, **static) if transpose and want else None
            for transpose, want in zip(transposes, wanted)]


def _batched(product: Callable[..., jax.Array], arrays: Any, axes: Any, **static: Any) -> tuple[jax.Array, int]:
    return jax.vmap(partial(product, **static), tuple(axes))(*arrays), 0
