"""Features of the regions of many images, by a network that describes regions: R-CNN's way, or SPP-net's."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Describe = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


class RegionFeatures:
    """`extract(image, boxes, extent) -> float32 (R, D)`, one image after the other.

    describe(variables, images (1, H, W, C), boxes (1, n, 4), extent (1, 2)) -> (1, n, D).
    chunk: regions that go through the network together; the last ones are filled up with empty boxes. None: all of an
    image, filled up to a multiple of 64, for a network whose cost is in the map that they share.
    """

    def __init__(self, describe: Describe, variables: Any, chunk: int | None) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, received {chunk}")
        self._describe, self._variables, self._chunk = jax.jit(describe), variables, chunk

    def __call__(self, image: np.ndarray, boxes: np.ndarray, extent: Sequence[float]) -> np.ndarray:
        count = len(boxes)
        chunk = self._chunk or max(-(-count // 64), 1) * 64
        boxes = np.pad(np.float32(boxes), ((0, -count % chunk), (0, 0)))
        extent, image = np.float32(extent)[None], jnp.asarray(image)[None]
        parts = [self._describe(self._variables, image, boxes[None, i:i + chunk], extent)[0]
                 for i in range(0, len(boxes), chunk)]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])[:count]
