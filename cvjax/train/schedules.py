"""Learning-rate schedules: functions of the optimizer step."""

import optax


def scaled_learning_rate(base: float, batch_size: int) -> float:
    """The linear scaling rule (Goyal et al. 2017, https://arxiv.org/abs/1706.02677): `base * batch_size / 256`."""
    return base * batch_size / 256


def warmup_cosine(peak: float, *, warmup_steps: int, total_steps: int, final: float = 0.0) -> optax.Schedule:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine to `final` at `total_steps`."""
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warm-up of {warmup_steps} steps does not fit into {total_steps} steps: "
                         "it must be shorter than the run")
    return optax.warmup_cosine_decay_schedule(0.0 if warmup_steps else peak, peak, warmup_steps, total_steps, final)
