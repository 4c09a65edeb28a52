"""The first step of a batch on the device, before its images are augmented one by one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from cvjax.data.augment import alternating_flip
from cvjax.data.dataset import ArraySource, Source
from cvjax.errors import ConfigError
from cvjax.train.dispatch import check_room
from cvjax.workflow.config import config_errors


@dataclass(frozen=True)
class Gather:
    """Fetches the rows of a batch from the device's memory, and mirrors images by turns; a `Feed`, see `cvjax.train`.

    arrays: all training images and labels, if batches come as positions only.
    seed: decides which images are mirrored in even epochs; the others are mirrored in odd epochs.
    """

    arrays: Mapping[str, np.ndarray] | None
    seed: int

    def __call__(self, batch: Mapping[str, jax.Array], arrays: Mapping[str, jax.Array] | None
                 ) -> dict[str, jax.Array]:
        batch = dict(batch)
        if arrays is not None:
            batch |= {name: array.at[batch["index"]].get(mode="promise_in_bounds") for name, array in arrays.items()}
        if "epoch" in batch:  # one key per image for all epochs
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(self.seed)))(batch["index"])
            batch["image"] = jax.vmap(alternating_flip)(keys, batch["image"], batch.pop("epoch"))
        return batch


def resident_arrays(source: Source, data: str) -> dict[str, np.ndarray]:
    """All training images and labels, for the device; ConfigError if they are in files or do not fit there.

    data: the name of the data set in a message.
    """
    if not isinstance(source, ArraySource):
        raise ConfigError(f"--resident with --data {data}: its images must be in memory, all of one size; for "
                          "folder: add --data-cache")
    labels = source.labels.astype(np.int32 if source.labels.ndim == 1 else np.float32)
    arrays = {"image": source.images, "label": labels}
    with config_errors():
        check_room(arrays, jax.local_devices(), f"--resident: {data}")
    return arrays
