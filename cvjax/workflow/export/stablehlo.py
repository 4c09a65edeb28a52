"""A program as StableHLO, which JAX alone runs: `jax.export`, https://docs.jax.dev/en/latest/export/export.html.

One file is for several platforms and for any number of images. What the models compute otherwise on a CPU than on an
accelerator is in it both ways, except for convolutions: their form for CPUs needs to know the number of images.
"""

import jax

from cvjax.errors import ConfigError
from cvjax.workflow.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(program: Program) -> bytes:
    """The file's content; `jax.export.deserialize(content).call(*inputs)` gives the program's outputs.

    ConfigError for weights that are too large, and where flatbuffers, by which JAX writes, is not installed.
    """
    program.check_size("--format stablehlo")
    exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*program.batched())
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise ConfigError("--format stablehlo needs flatbuffers, which is not installed: pip install flatbuffers"
                          ) from None
