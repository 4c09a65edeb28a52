"""The formats in which a network leaves: the words of a command line."""

from typing import Literal

Format = Literal["stablehlo", "onnx", "safetensors"]
