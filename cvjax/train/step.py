"""The training step: one optimizer update as a pure function of state and batch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cvjax.train import metrics
from cvjax.train.optim import leaf_names
from cvjax.train.state import TrainState

Step = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict]]


class Lookahead(NamedTuple):
    """Average every `period` steps, with a decay that rises with the cube of the share of the run; train on from there.

    The slow weights of Zhang et al. 2019 (https://arxiv.org/abs/1907.08610), whose alpha is one minus the decay, with
    the schedule of tysam-code 2023 (https://github.com/tysam-code/hlb-CIFAR10).
    """

    period: int
    total_steps: int


def _split(batch: Any, parts: int) -> Any:
    """Cut a batch into `parts` micro-batches `(parts, B / parts, ...)` by stride.

    A strided cut leaves every row on the device that holds it; cutting off whole blocks would move rows about.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1), batch)


def _finite(tree: Any) -> jax.Array:
    """Whether all numbers are finite. A variance that overflows gives a finite loss, and would stay for ever."""
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in numbers])) if numbers else jnp.array(True)


def _without_gradients(params: Any, frozen: Callable[[str], bool]) -> Any:
    """The same numbers; for frozen ones no gradient is formed."""
    return jax.tree.map(lambda path, x: jax.lax.stop_gradient(x) if frozen(path) else x, leaf_names(params), params)


def make_train_step(task: Any, optimizer: optax.GradientTransformation, *, accumulate: int = 1,
                    ema_decay: float | None = None, ema_every: int = 1, ema_start: int = 0,
                    lookahead: Lookahead | None = None, skip_nonfinite: bool = False,
                    frozen: Callable[[str], bool] | None = None, axis_name: str | None = None) -> Step:
    """`step(state, batch) -> (state, metrics)` for a task (see `cvjax.tasks.task.Task`).

    accumulate: gradients are averaged over this many equal micro-batches before the one update; batch statistics,
    where a model has them, are then those of micro-batches.
    ema_decay: running average of the parameters and of the model state, None for none. It moves once in `ema_every`
    steps, and before `ema_start` steps are done it is the newest parameters, so that it forgets where they started.
    lookahead: the average moves by its law, and takes the parameters and the model state with it; None: nothing moves
    with the average.
    skip_nonfinite: where the loss or `gradient_norm` is not finite, only `step` moves on and all else keeps every bit;
    such a step counts in the metric `skipped` and in no other. Schedules inside the optimizer count the steps it made.
    frozen(path): parameters that the optimizer holds still. Their gradients are not formed and count in no norm, and a
    network that is frozen up to a layer computes nothing backward below it.
    axis_name: the mapped axis to average over under pmap; under jit the batch mean is global already.
    metrics: the task's, `gradient_norm` before clipping, NaN where the model state is not finite, and `skipped` where
    steps can be, all as (sum, count).
    """
    def loss(params: Any, *inputs: Any) -> tuple[jax.Array, Any]:
        return task.loss(params if frozen is None else _without_gradients(params, frozen), *inputs)

    gradients_of = jax.value_and_grad(loss, has_aux=True)

    def accumulated(state: TrainState, batch: Any, rng: jax.Array) -> tuple[Any, Any]:
        def body(carry: Any, micro: Any) -> tuple[Any, Any]:
            gradients, model_state = carry
            (_, aux), new = gradients_of(state.params, {**model_state, **state.constants}, micro, rng)
            carry = jax.tree.map(lambda a, b: a + b / accumulate, gradients, new), aux.model_state
            return carry, aux._replace(model_state=None)

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        (gradients, model_state), aux = jax.lax.scan(body, (zeros, state.model_state), _split(batch, accumulate))
        summed = jax.tree.map(lambda x: x.sum(axis=0), aux.metrics)
        extra = jax.tree.map(lambda x: x.mean(axis=0), aux.extra)
        return gradients, aux._replace(metrics=summed, model_state=model_state, extra=extra)

    def average(decay: Any, old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.inexact):  # a counter
            return new
        return old + (1.0 - decay) * (new - old)  # in this form what stands still (frozen) keeps every bit

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict]:
        rng = jax.random.fold_in(state.rng, state.step)
        if accumulate == 1:
            (_, aux), gradients = gradients_of(state.params, {**state.model_state, **state.constants}, batch, rng)
        else:
            gradients, aux = accumulated(state, batch, rng)
        if axis_name:
            gradients = jax.lax.pmean(gradients, axis_name)
            aux = aux._replace(metrics=jax.lax.psum(aux.metrics, axis_name),
                               extra=jax.lax.pmean(aux.extra, axis_name))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params, model_state, ema = optax.apply_updates(state.params, updates), aux.model_state, state.ema
        if ema_decay is not None:
            fast, done = {"params": params, **model_state}, state.step + 1
            if lookahead is None:
                decay = jnp.where(done > ema_start, ema_decay, 0.0) if ema_start else ema_decay
                averaged = jax.tree.map(partial(average, decay), ema, fast)
                if ema_every > 1:
                    averaged = jax.tree.map(partial(jnp.where, done % ema_every == 0), averaged, ema)
                ema = averaged
            else:
                decay, due = ema_decay * (done / lookahead.total_steps) ** 3, done % lookahead.period == 0
                slow = jax.tree.map(partial(average, decay), ema, fast)
                ema, fast = (jax.tree.map(partial(jnp.where, due), slow, other) for other in (ema, fast))
                model_state = dict(fast)
                params = model_state.pop("params")
        new = state.replace(step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state, ema=ema)
        if task.post_update is not None:
            new = task.post_update(new, aux)
        norm = jnp.where(_finite(aux.model_state), optax.tree.norm(gradients), jnp.nan)
        measured = metrics.add({}, aux.metrics) | {"gradient_norm": (norm, jnp.ones(()))}
        if skip_nonfinite:
            finite = jnp.isfinite(norm) & jnp.isfinite(aux.metrics["loss"][0])
            new = jax.tree.map(partial(jnp.where, finite), new, state.replace(step=new.step))
            measured = jax.tree.map(lambda x: jnp.where(finite, x, 0.0), measured)
            measured["skipped"] = (1.0 - finite, jnp.ones(()))
        return new, measured

    return step
