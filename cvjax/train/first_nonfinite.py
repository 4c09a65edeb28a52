"""Names the first layer whose output, or the gradient of whose output, is not finite: `--debug-nans`.

While a step is traced, an interceptor of Flax looks at what each module returns. In the compiled step each of these
arrays, and each gradient that comes back to one, reports to the host when it is not finite. Modules report in the order
in which they return, so that an inner one comes before those around it. The rounds of a loop over blocks (`--scan`)
cannot be told apart, so do not watch such a model.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class FirstNonFinite:
    """Watches the modules of a training step. Read `found` after each step: it forgets what it said."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._forward: set[int] = set()
        self._backward: set[int] = set()

    def watching(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step`, to be compiled, with reports from all modules that it calls; its results are the same."""
        def watched(*arguments: Any) -> Any:
            self._names = []
            with nn.intercept_methods(self._intercept):
                return step(*arguments)

        return watched

    def found(self) -> str | None:
        """Where the steps since the last call first met a number that is not finite; None if no module did.

        Waits for the device.
        """
        jax.effects_barrier()
        forward, backward = min(self._forward, default=None), max(self._backward, default=None)
        self._forward.clear()
        self._backward.clear()
        if forward is not None:
            return self._names[forward]
        return None if backward is None else f"the gradient of {self._names[backward]}"

    def _intercept(self, call: Callable[..., Any], arguments: tuple, options: dict[str, Any],
                   context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "setup":
            return call(*arguments, **options)
        module = context.module
        name = "/".join(module.path) or type(module).__name__
        if not self._names:
            arguments = self._watch(arguments, f"the input of {name}")
        output = call(*arguments, **options)
        method = "" if context.method_name == "__call__" else f".{context.method_name}"
        return self._watch(output, f"the output of {name}{method}")

    def _watch(self, values: Any, name: str) -> Any:
        self._names.append(name)
        number = len(self._names) - 1
        watch = partial(_watched, partial(_report, self._forward, number), partial(_report, self._backward, number))
        return jax.tree.map(lambda x: watch(x) if _has_fractions(x) else x, values)


def _report(found: set[int], number: int, x: jax.Array) -> None:
    """In the compiled step: note on the host that `x` is not finite."""
    jax.debug.callback(lambda finite: None if finite else found.add(number), jnp.isfinite(x).all())


def _has_fractions(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _watched(forward: Callable[[jax.Array], None], backward: Callable[[jax.Array], None], x: jax.Array) -> jax.Array:
    """`x`; `forward(x)` is called, and `backward` with its gradient."""
    forward(x)
    return x


def _watched_forward(forward: Any, backward: Any, x: jax.Array) -> tuple[jax.Array, None]:
    forward(x)
    return x, None


def _watched_backward(forward: Any, backward: Any, saved: None, gradient: jax.Array) -> tuple[jax.Array]:
    backward(gradient)
    return (gradient,)


_watched.defvjp(_watched_forward, _watched_backward)
