"""From a data set with label maps to batches on the host: an `Inputs`."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import Dataset
from cvjax.data.decode import DecodeError, decode
from cvjax.data.label_maps import open_segmentation
from cvjax.data.label_maps.crops import PadLabelled, RandomLabelledCrop, bucket_sizes
from cvjax.data.label_maps.labels import image_sizes
from cvjax.data.pipeline import Stream, TrainBatches, eval_batches
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.workflow.augmentation import Recoloring
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.gather import Gather
from cvjax.workflow.inputs import count_bad_files, fitting_batch, held_out
from cvjax.workflow.normalization import normalized
from cvjax.workflow.preprocessing import chosen


@dataclasses.dataclass(frozen=True)
class SegmentationInputs:
    """A data set with label maps, as `cvjax.workflow.training.train` asks for it.

    crop_size: height and width of training crops. crop_scale, crop_ratio, flip: see `RandomLabelledCrop`.
    bad: the unreadable files, of all splits together. preprocessing: the statistics by which images are normalised.
    recoloring: what happens to the colours of a training image on the device.
    """

    dataset: Dataset
    crop_size: tuple[int, int]
    batch_size: int
    bad: BadFiles
    preprocessing: Preprocessing
    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: float = 1.0
    flip: bool = False
    recoloring: Recoloring = Recoloring()

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the model sees in training."""
        return *self.crop_size, self.dataset.channels

    def train_batches(self, *, seed: int, workers: int, share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """An endless stream of shuffled batches of random crops, resumable; see `Inputs.train_batches`."""
        crop = RandomLabelledCrop(self.crop_size, self.crop_scale, self.crop_ratio, self.flip,
                                  channels=self.dataset.channels)
        return TrainBatches(self.dataset.train, crop, Stream(self.batch_size, seed, workers=workers, share=share),
                            self.bad)

    def gather(self, seed: int) -> Gather | None:
        """None: the host makes batches whole, because label maps move with the pixels."""
        return None

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What all processes' rows of a training batch are together, on the device."""
        shapes = {"image": (self.seen_shape, jnp.uint8), "label_map": (self.crop_size, jnp.int32),
                  "label": ((), jnp.int32), "index": ((), jnp.int32)}
        return {name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    def eval_batches(self, part: str, share: tuple[int, int] = (0, 1)) -> Iterator[dict[str, np.ndarray]]:
        """Every record of a part once, whole, not augmented: the images of each bucket after those of another.

        A batch has the fields of `cvjax.data.pipeline.eval_batches` and `label_map`, 255 beside the image.
        """
        source, buckets = getattr(self.dataset, part), self._buckets[part]
        for bucket in np.unique(buckets, axis=0):
            positions = np.flatnonzero((buckets == bucket).all(axis=1))
            crop = PadLabelled((int(bucket[0]), int(bucket[1])), self.dataset.channels)
            for batch in eval_batches(source.take(positions), crop, batch_size=self.batch_size, share=share,
                                      bad=self.bad):
                index = batch["index"]
                yield batch | {"index": np.where(index >= 0, positions[index], -1)}

    def sizes(self, split: str) -> np.ndarray:
        """Height and width of each image of a part: int64 `(N, 2)`."""
        return self._sizes[split]

    @functools.cached_property
    def _sizes(self) -> Mapping[str, np.ndarray]:
        return _OnDemand(lambda split: image_sizes(getattr(self.dataset, split)))

    @functools.cached_property
    def _buckets(self) -> Mapping[str, np.ndarray]:
        return _OnDemand(lambda split: bucket_sizes(self.sizes(split)))

    def examples(self, split: str, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """At most `most` images uint8 `(H, W, C)` and label maps of a part, evenly spaced; those that can be read."""
        source = getattr(self.dataset, split)
        for index in np.unique(np.linspace(0, len(source) - 1, most).astype(int)):
            try:
                record = source[int(index)]
                image = decode(record["image"], self.dataset.channels)
            except (DecodeError, OSError) as error:
                self.bad.add(source.name(int(index)), str(error))
                continue
            if image.shape[:2] == record["label_map"].shape:  # others are counted when batches are made
                yield image, record["label_map"]

    def augment(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """One training image uint8 `(H, W, C)` to what the model sees, float32."""
        return self.recoloring(key, image, self.preprocessing)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Images uint8 `(B, H, W, C)` to what the model sees, float32, without randomness."""
        return normalized(images, self.preprocessing)


class _OnDemand(dict):
    """What a function gives for a key, asked once."""

    def __init__(self, function: Callable[[str], np.ndarray]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: str) -> np.ndarray:
        self[key] = self._function(key)
        return self[key]


def make_segmentation_inputs(config: Any, folder: RunFolder, recoloring: Recoloring,
                             preprocessing: Preprocessing | None = None) -> SegmentationInputs:
    """Open the data set of a configuration.

    folder: where `bad_files.txt` goes. recoloring: see `SegmentationInputs`. preprocessing: what the weights were
    trained with; None for that of networks which start here.
    """
    if config.resident:
        raise ConfigError(f"--resident with --data {config.data}: training crops with label maps are made on the host")
    if config.data_cache:
        raise ConfigError("--data-cache is for images without label maps: leave it out")
    if config.channels is not None:
        raise ConfigError(f"--channels {config.channels}: images with label maps are photos; leave it out")
    dataset = open_segmentation(config.data, seed=0, ignore_label=config.ignore_label, mask_values=config.mask_values)
    if config.validation and dataset.validation is not None:
        raise ConfigError(f"--validation {config.validation}: {config.data} brings a validation part of "
                          f"{len(dataset.validation)} images; leave it out")
    dataset = held_out(config, dataset)
    return SegmentationInputs(dataset, config.crop_size, fitting_batch(config, dataset),
                              count_bad_files(config, dataset, folder),
                              chosen(config, preprocessing, dataset.channels), config.crop_scale, config.crop_ratio,
                              config.flip, recoloring)
