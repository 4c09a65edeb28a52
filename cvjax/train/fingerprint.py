"""A 32-bit hash per array that does not depend on how the array is spread over devices.

The hash is the sum, over the array's bits read as unsigned words, of a scrambled (word + position). Integer
sums do not care about order, so one device and eight agree. Scrambling is invertible, so any single altered
word alters the hash; other damage goes unseen with a chance of about 2**-32.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # a 64-bit value becomes two words


# One jit per leaf, not one for the tree: leaves of equal shape share a compilation (Adam's moments, an
# average), run side by side, and may live on different devices.
@jax.jit
def _hash(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)
    # The position is summed axis by axis: one long arange, reshaped, could gather a sharded array.
    position, stride = jnp.uint32(0), 1
    for axis in reversed(range(words.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    # MurmurHash3's finalizer. Mere odd weights would not do: two flipped sign bits would cancel.
    words += position * jnp.uint32(0x9E3779B1)
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(words ^ (words >> 16), dtype=jnp.uint32)


def fingerprints(leaves: Mapping[str, Any]) -> dict[str, int]:
    """Hash every leaf by name.

    A leaf is a device array of any sharding, a typed key or a numpy array, with at most 64 bits per value. In
    a distributed run all processes call this together and get the same values.
    """
    with jax.enable_x64(True):  # else a 64-bit numpy array is cut to 32 bits on its way to the device
        hashes = {name: _hash(leaf) for name, leaf in leaves.items()}
    return {name: int(value) for name, value in jax.device_get(hashes).items()}
