"""Fixtures of the benchmarks' tests."""

import functools

import pytest

from tests.visualize.conftest import saved  # noqa: F401


@pytest.fixture
def benchmark(command):
    """`benchmark("steps", "lenet5")`: a benchmark's command in this process."""
    return functools.partial(command, package="benchmarks")
