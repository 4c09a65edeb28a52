"""Compiles for accelerators that this machine does not have, by their own compilers.

TPUs: libtpu (`pip install ".[compile-tpu]"`). NVIDIA cards: JAX's CUDA plugin (`pip install ".[compile-gpu]"`), whose
compiler is told what it would ask the card. Neither the hardware nor its driver is needed. JAX calls this ahead-of-time
compilation for a topology (https://docs.jax.dev/en/latest/aot.html).
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.experimental import topologies

from cvjax.errors import ConfigError

# Chips -> how they stand. A host has up to 4 or 8 of them, and a smaller slice must be said to be a host's share.
_TORI: Mapping[str, Mapping[int, str]] = {
    "v2": {8: "2x2"}, "v3": {8: "2x2"},  # two cores a chip, each a device
    "v4": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
    "v5e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v5p": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"},
    "v6e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
}
_HOSTS: Mapping[tuple[str, int], tuple[int, int, int]] = {
    (name, chips): bounds for name in ("v5e", "v6e") for chips, bounds in ((1, (1, 1, 1)), (8, (2, 4, 1)))}


class Card(NamedTuple):
    """What XLA's compiler asks an NVIDIA card, from NVIDIA's tables (CUDA C++ Programming Guide, compute capabilities;
    data sheets)."""

    name: str
    capability: tuple[int, int]
    processors: int  # streaming multiprocessors
    gigahertz: float
    cache: int  # bytes of L2
    memory: int  # bytes
    bandwidth: int  # bytes/s
    shared: int  # bytes of shared memory of a multiprocessor; a block can have one KiB less
    threads: int = 2048  # of a multiprocessor
    lanes: int = 128  # float32 operations of a multiprocessor in a clock


CARDS: Mapping[str, Card] = {
    "t4": Card("Tesla T4", (7, 5), 40, 1.59, 4 << 20, 16 << 30, 320 * 10**9, 64 << 10, 1024, 64),
    "l4": Card("NVIDIA L4", (8, 9), 58, 2.04, 48 << 20, 24 << 30, 300 * 10**9, 100 << 10, 1536),
    "a100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 40 << 20, 80 << 30, 2039 * 10**9, 164 << 10, 2048, 64),
    "h100": Card("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 50 << 20, 80 << 30, 3350 * 10**9, 228 << 10),
    "h200": Card("NVIDIA H200", (9, 0), 132, 1.98, 50 << 20, 141 << 30, 4800 * 10**9, 228 << 10),
}


class Target(NamedTuple):
    """Devices that are not here."""

    kind: str  # a name of `cvjax.workflow.accelerators.DEVICES`
    chips: int  # or cores, where each is a device
    platform: str  # "tpu" or "cuda"


def parse_target(text: str) -> Target:
    """A target such as "v5e:4", "tpu_v5e:4" or "h100"; ConfigError if there is none of this name and size."""
    name, _, count = text.removeprefix("tpu_").partition(":")
    if name in CARDS and (not count or count.isdecimal() and 1 <= int(count)):
        return Target(name, int(count or 1), "cuda")
    if name in _TORI and (not count or count.isdecimal() and int(count) in _TORI[name]):
        return Target(f"tpu_{name}", int(count or min(_TORI[name])), "tpu")
    known = [f"{name}:{'|'.join(map(str, sizes))}" for name, sizes in _TORI.items()]
    raise ConfigError(f"target {text!r}: it must be one of {', '.join(known)}, of {', '.join(CARDS)} with any :N, or "
                      "of these names with :fit")


def slices(text: str) -> list[Target]:
    """The target, or of a kind with `:fit`, as in "v5e:fit", all numbers of devices, from one on."""
    name, _, count = text.removeprefix("tpu_").partition(":")
    if count != "fit" or name not in {*CARDS, *_TORI}:
        return [parse_target(text)]
    sizes = _TORI[name] if name in _TORI else [2**power for power in range(8)]
    return [parse_target(f"{name}:{size}") for size in sizes]


def compiler_of(target: Target) -> str | None:
    """The installed package that compiles for the target; None if there is none."""
    packages = ("libtpu",) if target.platform == "tpu" else ("jax-cuda12-plugin", "jax-cuda13-plugin")
    return next((name for name in packages if importlib.util.find_spec(name.replace("-", "_"))), None)


def missing_compiler(target: Target) -> str | None:
    """What to install before programs for the target can be compiled; None if it is installed."""
    return None if compiler_of(target) else f'pip install ".[compile-{"tpu" if target.platform == "tpu" else "gpu"}]"'


def target_of(kind: str, count: int) -> Target | None:
    """So many devices of a kind of `cvjax.workflow.accelerators.DEVICES`; None if there is no compiler for them."""
    name = kind.removeprefix("tpu_")
    if name in CARDS:
        return Target(kind, count, "cuda")
    return Target(kind, count, "tpu") if count in _TORI.get(name, ()) else None


def absent_devices(target: Target) -> list[Any]:
    """The devices, for shardings and compilation; they hold no arrays. Raises ConfigError without their compiler."""
    if needed := missing_compiler(target):
        raise ConfigError(f"the compiler for {target.kind} is not installed: {needed}")
    if target.platform == "cuda":
        description = topologies.get_topology_desc(
            platform="cuda", topology_name=target.kind, target_config=_description(CARDS[target.kind]),
            topology=f"1x1x{target.chips}")
        return list(description.devices)
    # libtpu asks Google's cloud what machine this is unless it is told, and lets one process at a time compile, since
    # only one can hold a TPU.
    for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"),
                        ("TPU_ACCELERATOR_TYPE", "v5litepod-4"), ("TPU_MIN_LOG_LEVEL", "3"),
                        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")):
        os.environ.setdefault(name, value)
    name = target.kind.removeprefix("tpu_")
    options: dict[str, Any] = {}
    if bounds := _HOSTS.get((name, target.chips)):
        options["chips_per_host_bounds"] = bounds
    if name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device
    return list(topologies.get_topology_desc(platform="tpu", topology_name=f"{name}:{_TORI[name][target.chips]}",
                                             **options).devices)


def compile_for_absent(lowered: Any) -> Any:
    """The compiled program of `jax.jit(...).lower(...)` for absent devices.

    XLA chooses the tiles of Triton's products by trying them on the card. Without one it finds none for some products
    in float32, such as those of a resize; then the program is compiled without Triton's products.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as problem:
        if "output tile sizes" not in str(problem):
            raise
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})


@contextlib.contextmanager
def as_on(target: Target) -> Iterator[None]:
    """Let JAX and cvjax answer as on a machine with the target: the backend's name, and cuDNN's for one of CARDS."""
    with contextlib.ExitStack() as stack:
        backend = "gpu" if target.platform == "cuda" else "tpu"
        stack.enter_context(mock.patch.object(jax, "default_backend", lambda: backend))
        if target.kind in CARDS:
            from jax._src.cudnn import fused_attention_stablehlo as cudnn

            capability = CARDS[target.kind].capability

            def check(*_: Any) -> None:
                if capability < (8, 0):  # cuDNN's fused attention begins with Ampere
                    raise RuntimeError("fused attention needs compute capability 8.0")

            stack.enter_context(mock.patch.object(cudnn, "check_cudnn_version", lambda: 91000))
            stack.enter_context(mock.patch.object(cudnn, "check_compute_capability", check))
            stack.enter_context(mock.patch.object(cudnn, "is_cuda_compute_capability_equal",
                                                  lambda wanted: wanted == f"{capability[0]}.{capability[1]}"))
        yield


def _description(card: Card) -> str:
    """A card as XLA's `stream_executor.GpuTargetConfigProto`, in text."""
    major, minor = card.capability
    feature = " feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared}
  shared_memory_per_block_optin: {card.shared - 1024}
  threads_per_core_limit: {card.threads}
  core_count: {card.processors}
  fpus_per_core: {card.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {card.bandwidth}
  l2_cache_size: {card.cache}
  clock_rate_ghz: {card.gigahertz}
  device_memory_size: {card.memory}
  cuda_compute_capability {{ major: {major} minor: {minor}{feature} }}
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability {major}.{minor}"
  device_address_bits: 64
  name: "{card.name}"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{card.name}"
"""
