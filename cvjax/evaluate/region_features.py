"""Features of regions, image by image, from a network that describes regions (R-CNN or SPP-net)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Describe = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


class RegionFeatures:
    """A function from an image `(H, W, C)`, boxes `(R, 4)` and the image's extent `(2,)` to features float32 `(R, D)`.

    Args:
        describe: variables, images `(1, H, W, C)`, boxes `(1, n, 4)` and extent `(1, 2)` to features `(1, n, D)`.
        variables: those of the network.
        chunk: number of regions that pass the network together; empty boxes pad the last chunk. None: all regions of an
            image, padded to a multiple of 64, for a network that spends its time on the feature map they share.
    """

    def __init__(self, describe: Describe, variables: Any, chunk: int | None) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, received {chunk}")
        self._describe, self._variables, self._chunk = jax.jit(describe), variables, chunk

    def __call__(self, image: np.ndarray, boxes: np.ndarray, extent: Sequence[float]) -> np.ndarray:
        count = len(boxes)
        chunk = self._chunk or max(-(-count // 64), 1) * 64
        boxes = np.pad(np.asarray(boxes, np.float32), ((0, -count % chunk), (0, 0)))
        images, extents = jnp.asarray(image)[None], np.asarray(extent, np.float32)[None]
        parts = [self._describe(self._variables, images, boxes[None, i:i + chunk], extents)[0]
                 for i in range(0, len(boxes), chunk)]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])[:count]
