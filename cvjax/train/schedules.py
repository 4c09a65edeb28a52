"""Learning-rate schedules: functions of the optimizer step, counted from 0.

Each schedule is a function here whose keyword-only arguments are the options that it reads; it describes the run after
the warm-up, which `make_schedule` puts before it (one-cycle and DINO's have a rise of their own).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from cvjax.train._options import choose


def scaled_learning_rate(base: float, batch_size: int) -> float:
    """The linear scaling rule (Goyal et al. 2017, https://arxiv.org/abs/1706.02677): `base * batch_size / 256`."""
    return base * batch_size / 256


def _constant(peak: float, warmup: int, total: int) -> optax.Schedule:
    """`peak` to the end."""
    return optax.constant_schedule(peak)


def _step(peak: float, warmup: int, total: int, *, milestones: Sequence[float] = (1 / 3, 2 / 3),
          factor: float = 0.1) -> optax.Schedule:
    """Multiplied by `factor` at each milestone, a share of the whole run, warm-up included.

    The defaults are those of ResNet: a tenth after 30 and 60 of 90 epochs (Goyal et al. 2017, sec. 5.1,
    https://arxiv.org/abs/1706.02677).
    """
    if not all(a < b for a, b in zip((0, *milestones), (*milestones, 1))):
        raise ValueError(f"milestones {tuple(milestones)}: they must be rising shares of the run, between 0 and 1")
    if not 0 < factor < 1:
        raise ValueError(f"factor {factor}: it must be between 0 and 1")
    steps = [round(share * total) for share in milestones]
    if steps and steps[0] < warmup:
        raise ValueError(f"the first milestone is step {steps[0]}: it must not be in the warm-up of {warmup} steps")
    after = [step - warmup for step in steps]
    return lambda count: peak * jnp.prod(jnp.where(count >= jnp.array(after), factor, 1.0))


def _cosine(peak: float, warmup: int, total: int, *, final: float = 0.0) -> optax.Schedule:
    """Half a cosine to `final` at the end: Loshchilov & Hutter 2017, eq. 5, without restarts.

    https://arxiv.org/abs/1608.03983.
    """
    return optax.cosine_decay_schedule(peak, total - warmup, alpha=final / peak if peak else 0.0)


def _linear(peak: float, warmup: int, total: int, *, final: float = 0.0) -> optax.Schedule:
    """A straight line to `final` at the end."""
    return optax.linear_schedule(peak, final, total - warmup)


def _polynomial(peak: float, warmup: int, total: int, *, final: float = 0.0, power: float = 2.0) -> optax.Schedule:
    """`final + (peak - final) * (share of the steps left) ** power`.

    Power 2: LARS (You et al. 2017, https://arxiv.org/abs/1708.03888). Power 0.9, called "poly": semantic
    segmentation (Chen et al. 2018, sec. 4.1, https://arxiv.org/abs/1606.00915).
    """
    if not power > 0:
        raise ValueError(f"power {power}: it must be more than 0")
    return optax.polynomial_schedule(peak, final, power, total - warmup)


def _one_cycle(peak: float, warmup: int, total: int) -> optax.Schedule:
    """Half a cosine from `peak / 25` up to `peak`, and half a cosine down to `peak / 25 / 1e4`.

    Smith & Topin 2018 (https://arxiv.org/abs/1708.07120, sec. 3), with the shape and the numbers of torch's OneCycleLR,
    whose pct_start is `warmup / total` (0.3 by default there): the peak is at step `warmup - 1` and the smallest rate
    at step `total - 1`. Momentum stays as it is; torch by default moves it the other way.
    """
    if warmup < 2:
        raise ValueError(f"one_cycle with a warm-up of {warmup} steps: its rise needs at least 2")
    start, final, top = peak / 25, peak / 25 / 1e4, warmup - 1

    def schedule(count: Any) -> Any:
        risen = (1 - jnp.cos(jnp.pi * count / top)) / 2
        left = (1 + jnp.cos(jnp.pi * jnp.minimum((count - top) / (total - 1 - top), 1.0))) / 2
        return jnp.where(count <= top, start + (peak - start) * risen, final + (peak - final) * left)

    return schedule


def _dino(peak: float, warmup: int, total: int, *, final: float = 0.0) -> optax.Schedule:
    """A line from 0 that reaches the peak in the last step of the warm-up, then the cosine, which starts at the peak.

    So the peak comes twice, and the line is steeper than that of the other schedules by `warmup / (warmup - 1)`:
    `cosine_scheduler` of DINO's authors (https://github.com/facebookresearch/dino, utils.py).
    """
    cosine = _cosine(peak, warmup, total, final=final)

    def schedule(count: Any) -> Any:
        return jnp.where(count < warmup, peak * count / max(warmup - 1, 1), cosine(jnp.maximum(count - warmup, 0)))

    return schedule


SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    "constant": _constant, "step": _step, "cosine": _cosine, "one_cycle": _one_cycle, "linear": _linear,
    "polynomial": _polynomial, "dino": _dino,
}
# Whose first steps are not a line from a rate that one can choose, and where they begin.
_OWN_RISE = {"one_cycle": "one_cycle starts at peak / 25", "dino": "dino starts at 0"}


def make_schedule(name: str, peak: float, *, warmup_steps: int, total_steps: int, start: float | None = None,
                  final: float | None = None, milestones: Sequence[float] | None = None, factor: float | None = None,
                  power: float | None = None) -> optax.Schedule:
    """The learning rate as a function of the step 0 to `total_steps - 1`, by its name in SCHEDULES.

    A straight line from `start` (None for 0) at step 0 to `peak` at step `warmup_steps`, then the schedule `name`;
    "one_cycle" and "dino" rise in their own way, and take no start.
    A schedule with a final rate reaches it at step `total_steps`, one after the last, as in torch, and then keeps it.
    final ("cosine", "dino", "linear", "polynomial"), milestones and factor ("step"), power ("polynomial"): None for the
    schedule's own.
    Raises ValueError for an unknown name, a value out of range, an option that this schedule does not read, and a
    warm-up that is not shorter than the run.
    """
    given = {"final": final, "milestones": milestones, "factor": factor, "power": power}
    build, options = choose("schedule", SCHEDULES, name, given)
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warm-up of {warmup_steps} steps does not fit into {total_steps} steps: "
                         "it must be shorter than the run")
    if not 0 <= peak < float("inf"):
        raise ValueError(f"peak {peak}: it must be a number from 0 on")
    for key, value in (("start", start), ("final", final)):
        if value is not None and not 0 <= value <= peak:
            raise ValueError(f"{key} {value}: it must be from 0 to the peak {peak}")
    if start is not None and (name in _OWN_RISE or not warmup_steps):
        allowed = _OWN_RISE.get(name, "without warm-up the rate starts at the peak")
        raise ValueError(f"start {start}: it must be None, {allowed}")
    schedule = build(peak, warmup_steps, total_steps, **options)
    if name in _OWN_RISE or not warmup_steps:
        return schedule
    return optax.join_schedules([optax.linear_schedule(start or 0.0, peak, warmup_steps), schedule], [warmup_steps])


def cosine_between(start: float, end: float, total_steps: int) -> optax.Schedule:
    """Half a cosine from `start` at step 0 to `end` at step `total_steps`, up or down, without warm-up.

    It serves DINO's teacher momentum and weight decay (Caron et al. 2021, sec. 3.2 and app. C).
    """
    def schedule(step: Any) -> Any:
        return end + 0.5 * (start - end) * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total_steps, 1.0)))

    return schedule


def stairs(start: float, end: float, rises: int, steps_per_rise: float) -> optax.Schedule:
    """`start` to `end` over `rises` levels, each held for `steps_per_rise` steps, then `end`.

    DINO's teacher temperature, which rises with the epochs (`np.linspace(start, end, rises)` and then `end`).
    """
    def schedule(step: Any) -> Any:
        risen = jnp.floor(step / steps_per_rise)
        value = start + (end - start) * risen / max(rises - 1, 1)
        return jnp.where(risen < rises, value, end)

    return schedule
