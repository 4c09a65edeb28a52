"""`python -m tests.programs` sees changes of a computation, and nothing else."""

import json

import jax
import jax.numpy as jnp
import pytest

from tests.programs import compare, fingerprint


def exported(function):
    return jax.export.export(jax.jit(function), platforms=("cpu", "tpu"))(jax.ShapeDtypeStruct((3,), jnp.float32))


def sha256(function):
    return fingerprint(exported(function).mlir_module())[0]


@jax.jit
def twice(x):
    return 2 * x


@jax.jit
def doubled(x):

    return 2 * x


@jax.jit
def thrice(x):
    return 3 * x


def first(x):
    return {"a": jax.random.uniform(jax.random.key(1), (3,)) + jnp.sort(twice(twice(x) + 1))}


def renamed(values):
    noise = jax.random.uniform(jax.random.key(1), (3,))
    # Two functions where the other has one, under other names, in other lines.
    return {"b": noise + jnp.sort(doubled(twice(values) + 1))}


def inside(x):
    return {"a": jax.random.uniform(jax.random.key(1), (3,)) + jnp.sort(twice(thrice(x) + 1))}


def constant(x):
    return {"a": jax.random.uniform(jax.random.key(1), (3,)) + jnp.sort(twice(twice(x) + 1.0000001))}


def test_names_and_places_do_not_matter():
    assert exported(first).mlir_module() != exported(renamed).mlir_module()
    assert sha256(first) == sha256(renamed)


@pytest.mark.parametrize("other", [inside, constant])
def test_a_change_of_a_constant_is_seen(other):
    """One is in a function that is called, the other in the last digit of a float32."""
    assert sha256(other) != sha256(first)


def test_the_order_of_independent_operations_does_not_matter_that_of_operands_does():
    def swapped(x):
        y = 2 * x
        return {"a": jnp.cos(y) - jnp.sin(x)}

    def other(x):
        right, y = jnp.sin(x), 2 * x
        return {"a": jnp.cos(y) - right}

    assert exported(swapped).mlir_module() != exported(other).mlir_module()
    assert sha256(swapped) == sha256(other)
    assert sha256(lambda x: {"a": jnp.sin(x) - jnp.cos(2 * x)}) != sha256(swapped)


def test_custom_calls_keep_their_names():
    def text(target):
        return ("module @m {\n  func.func public @main(%arg0: tensor<f32>) -> tensor<f32> {\n"
                f"    %0 = stablehlo.custom_call @{target}(%arg0) : (tensor<f32>) -> tensor<f32>\n"
                "    return %0 : tensor<f32>\n  }\n}\n")

    assert fingerprint(text("Sharding")) != fingerprint(text("Cholesky"))


def test_comparing_names_what_differs(tmp_path, capsys):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps({"same": {"sha256": "1", "bytes": 9}, "gone": {"sha256": "2", "bytes": 9},
                                  "runs/x": {"sha256": "3", "steps": 2}, "broken": {"error": "Error: no"}}))
    after.write_text(json.dumps({"same": {"sha256": "1", "bytes": 9}, "added": {"sha256": "2", "bytes": 9},
                                 "runs/x": {"sha256": "4", "steps": 2}, "broken": {"error": "Error: no"}}))
    assert compare(before, before) == 1, "what could not be lowered was not compared"
    capsys.readouterr()
    assert compare(before, after) == 1
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "missing: gone", "new: added", "differs: runs/x: 3 -> 4", "failed in both: broken: Error: no"]
    after.write_text(json.dumps({"same": {"sha256": "1", "bytes": 9}}))
    assert compare(after, after) == 0
