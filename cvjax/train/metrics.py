"""Metrics as (sum, count) pairs: added over micro-batches, devices and batches, divided once."""

import math
from collections.abc import Iterable, Mapping

import jax


def add(total: Mapping, metrics: Mapping) -> dict:
    """Add two dicts of (sum, count) pairs with the same names, on the host or inside jit; an empty total is zero."""
    if not total:
        return dict(metrics)
    return jax.tree.map(lambda a, b: a + b, dict(total), dict(metrics))


def to_host(metrics: Mapping) -> dict[str, tuple[float, float]]:
    """Fetch (sum, count) pairs from the device as Python floats; waits until they are computed."""
    return {name: (float(s), float(n)) for name, (s, n) in jax.device_get(dict(metrics)).items()}


def each_to_host(metrics: Mapping) -> list[dict[str, tuple[float, float]]]:
    """The same of K steps at once: pairs of arrays `(K,)` become K dicts of pairs of numbers."""
    fetched = {name: list(zip(s.tolist(), n.tolist(), strict=True)) for name, (s, n) in
               jax.device_get(dict(metrics)).items()}
    return [dict(zip(fetched, pairs, strict=True)) for pairs in zip(*fetched.values(), strict=True)]


def mean(total: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Divide each sum by its count; nan where nothing was counted."""
    return {name: s / n if n else math.nan for name, (s, n) in total.items()}


def sum_over(batches: Iterable[Mapping]) -> dict[str, tuple[float, float]]:
    """Add up an iterable of device metrics, fetching each while the device works on the next."""
    total: dict[str, tuple[float, float]] = {}
    pending = None
    for metrics in batches:
        if pending is not None:
            total = add(total, to_host(pending))
        pending = metrics
    return add(total, to_host(pending)) if pending is not None else total
