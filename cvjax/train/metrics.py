"""Metrics as (sum, count) pairs: added over micro-batches, devices and batches, divided once; or by example."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np


def add(total: Mapping, metrics: Mapping) -> dict:
    """Add two dicts of (sum, count) pairs with the same names, on the host or inside jit; an empty total is zero."""
    if not total:
        return dict(metrics)
    return jax.tree.map(lambda a, b: a + b, dict(total), dict(metrics))


def to_host(metrics: Mapping) -> dict[str, tuple[float, float]]:
    """Fetch (sum, count) pairs from the device as Python floats; waits until they are computed."""
    return {name: (float(s), float(n)) for name, (s, n) in jax.device_get(dict(metrics)).items()}


def each_to_host(metrics: Mapping) -> list[dict[str, tuple[float, float]]]:
    """The same for K steps at once: pairs of arrays `(K,)` become K dicts of pairs of numbers."""
    fetched = {name: list(zip(s.tolist(), n.tolist(), strict=True)) for name, (s, n) in
               jax.device_get(dict(metrics)).items()}
    return [dict(zip(fetched, pairs, strict=True)) for pairs in zip(*fetched.values(), strict=True)]


def mean(total: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Divide each sum by its count; nan where nothing was counted."""
    return {name: s / n if n else math.nan for name, (s, n) in total.items()}


def sum_over(batches: Iterable[Mapping]) -> dict[str, tuple[float, float]]:
    """Add up an iterable of device metrics, fetching each while the device works on the next."""
    total: dict[str, tuple[float, float]] = {}
    for pairs in _fetched(batches, to_host):
        total = add(total, pairs)
    return total


def examples_of(batches: Iterable[Mapping]) -> Iterator[dict[str, np.ndarray]]:
    """Device arrays by example `(B, ...)`, `mask` among them, as host arrays without the rows where it is False."""
    for arrays in _fetched(batches, jax.device_get):
        mask = arrays.pop("mask")
        yield {name: array[mask] for name, array in arrays.items()}


def _fetched(batches: Iterable[Mapping], fetch: Callable[[Mapping], Any]) -> Iterator[Any]:
    """Each batch is fetched once the device has been given the next."""
    pending = None
    for values in batches:
        if pending is not None:
            yield fetch(pending)
        pending = values
    if pending is not None:
        yield fetch(pending)
