"""Accelerators and their rates, as their makers state them."""

from collections.abc import Mapping
from typing import NamedTuple


class Device(NamedTuple):
    """Rates of one device: a GPU, a TPU chip, or one of the two cores of a chip of TPU v2 and v3."""

    bfloat16: float  # FLOP/s of dense matrix products; float16 where there is no bfloat16
    float32: float  # FLOP/s, as JAX multiplies by default: TF32 on newer NVIDIA cards, one pass of bfloat16 on TPUs
    memory: float  # bytes
    bandwidth: float  # bytes/s of this memory
    link: float  # bytes/s out of a device to its peers, one direction
    clock: float | None = None  # Hz of a TPU's core, whose compiler estimates cycles


# Makers' data sheets; links are NVLink, PCIe, Infinity Fabric and the TPU's inter-chip interconnect, within a machine
# or pod.
DEVICES: Mapping[str, Device] = {
    "t4": Device(65e12, 8.1e12, 16e9, 320e9, 16e9),
    "l4": Device(121e12, 60e12, 24e9, 300e9, 32e9),
    "a100": Device(312e12, 156e12, 80e9, 2039e9, 300e9),
    "h100": Device(989e12, 494e12, 80e9, 3350e9, 450e9),
    "h200": Device(989e12, 494e12, 141e9, 4800e9, 450e9),
    "b200": Device(2250e12, 1125e12, 180e9, 8000e9, 900e9),
    "mi300x": Device(1307e12, 163e12, 192e9, 5300e9, 448e9),
    "tpu_v2": Device(22.5e12, 22.5e12, 8e9, 350e9, 62e9, 0.7e9),
    "tpu_v3": Device(61.5e12, 61.5e12, 16e9, 450e9, 82e9, 0.94e9),
    "tpu_v4": Device(275e12, 275e12, 32e9, 1228e9, 150e9, 1.05e9),
    "tpu_v5e": Device(197e12, 197e12, 16e9, 819e9, 100e9, 1.5e9),
    "tpu_v5p": Device(459e12, 459e12, 95e9, 2765e9, 300e9, 1.75e9),
    "tpu_v6e": Device(918e12, 918e12, 32e9, 1640e9, 224e9, 1.75e9),
}
