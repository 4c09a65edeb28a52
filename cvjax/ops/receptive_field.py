"""The inputs that an output of a chain of convolutions and poolings depends on, along one axis.

Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks"
(https://distill.pub/2019/computing-receptive-fields): their eq. 2 gives the size, eq. 4 the stride, eq. 5 the padding.
Deviations: the recurrences run from input to output and so give the field of every layer on the way. In place of the
padding we store its negative, the start of the field of output 0.
"""

from collections.abc import Iterable
from typing import NamedTuple


class ReceptiveField(NamedTuple):
    """Output `i` sees the inputs `start + i * stride` to `start + i * stride + size - 1`, some of them padding.

    A negative start is the effective padding on the left. The default is the input itself.
    """

    size: int = 1
    stride: int = 1
    start: int = 0

    def through(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> "ReceptiveField":
        """The field after one more layer; `padding` is what the layer adds before the first element."""
        if kernel < 1 or stride < 1 or dilation < 1:
            raise ValueError(f"kernel, stride and dilation must be at least 1, received {kernel}, {stride}, {dilation}")
        return ReceptiveField(self.size + dilation * (kernel - 1) * self.stride, self.stride * stride,
                              self.start - padding * self.stride)

    def join(self, other: "ReceptiveField") -> "ReceptiveField":
        """The field where two branches meet (added or concatenated): from the first start to the last end (sec. 3).

        Branches of unequal stride do not line up, which is a ValueError.
        """
        if self.stride != other.stride:
            raise ValueError(f"branches that meet must have one stride, received {self.stride} and {other.stride}")
        start = min(self.start, other.start)
        return ReceptiveField(max(self.start + self.size, other.start + other.size) - start, self.stride, start)


def receptive_field(layers: Iterable[tuple[int, ...]]) -> ReceptiveField:
    """Receptive field of a chain of layers, input first: `(kernel, stride, padding)`, a dilation as the fourth."""
    field = ReceptiveField()
    for layer in layers:
        if len(layer) not in (3, 4):
            raise ValueError(f"a layer is (kernel, stride, padding) or (kernel, stride, padding, dilation), "
                             f"received {layer}")
        field = field.through(*layer)
    return field
