"""From a configuration's data to batches on the host and image functions on the device."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data import ArraySource, BadFiles, DataError, Dataset, DecodeError, open_dataset
from cvjax.data.augment import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    alternating_flip,
    denormalize,
    normalize,
    random_flip,
    random_resized_crop,
)
from cvjax.data.crops import RandomResizedCrop, ResizeCenterCrop, Squeeze
from cvjax.data.held_out import hold_out
from cvjax.data.pipeline import TrainBatches, eval_batches, train_batches
from cvjax.experiment.config import ConfigError, DataConfig, TrainingConfig, config_errors
from cvjax.experiment.run import RunFolder
from cvjax.train.dispatch import Feed, check_room
from cvjax.train.layout import check_batch_size
from cvjax.train.processes import is_first

CANVAS = 1.5  # side of the square that whole images are squeezed into, in sides of what the model sees


@dataclass(frozen=True)
class Inputs:
    """A data set at one image size.

    Images of a data set in memory go to the device whole and are cropped there; others are decoded and cropped on
    the host. Either way the device gets uint8 and does the rest inside the compiled step.
    image_size: side of the square images that the model sees.
    bad: the unreadable files, of all splits together.
    whole_images: training images from files come squeezed into a square, uncropped, with their `extent`.
    crop_scale: share of the area a random training crop keeps, (1, 1) for no cropping.
    flip, alternating: mirror half of the training images; by turns in place of by chance.
    repeats: how often each training image comes in a row; see `train_batches`.
    pixel_operations, normalized_operations: what else happens to a training image (key, image) -> image, before and
    after it is normalised.
    """

    dataset: Dataset
    image_size: int
    batch_size: int
    bad: BadFiles
    whole_images: bool = False
    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    alternating: bool = False
    repeats: int = 1
    pixel_operations: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = ()
    normalized_operations: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = ()

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the model sees."""
        return self.image_size, self.image_size, self.dataset.channels

    @property
    def statistics(self) -> tuple[Any, Any]:
        """Mean and standard deviation that images are normalised by: ImageNet's for colour, 0.5 for others."""
        return statistics(self.dataset.channels)

    def train_batches(self, *, seed: int, workers: int, resident: bool = False,
                      share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """An endless stream of shuffled batches with random crops, resumable; positions alone for `resident` data.

        share: which part of each batch, of how many equal ones: an engine's `share`.
        """
        crop: Any = RandomResizedCrop(self.image_size, self.crop_scale, channels=self.dataset.channels)
        if self.whole_images:
            crop = Squeeze(round(self.image_size * CANVAS), channels=self.dataset.channels)
        crop = None if self.dataset.in_memory else crop
        return train_batches(self.dataset.train, crop, batch_size=self.batch_size, seed=seed, workers=workers,
                             process_index=share[0], process_count=share[1], bad=self.bad,
                             only_index=resident, with_epoch=self.flip and self.alternating, repeats=self.repeats)

    def resident_arrays(self, data: str) -> dict[str, np.ndarray]:
        """All training images and labels, for the device; ConfigError where they are in files or have no room there.

        data: what to call the data set in a message.
        """
        source = self.dataset.train
        if not isinstance(source, ArraySource):
            raise ConfigError(f"--resident with --data {data}: its images must be in memory, all of one size; for "
                              "folder: add --data-cache")
        arrays = {"image": source.images, "label": source.labels.astype(np.int32)}
        with config_errors():
            check_room(arrays, jax.local_devices(), f"--resident: {data}")
        return arrays

    def feed(self, seed: int) -> Feed:
        """What becomes of a batch on the device, before its images are augmented one by one: see `compile_dispatch`."""
        def feed(batch: Mapping[str, jax.Array], resident: Mapping[str, jax.Array] | None) -> dict[str, jax.Array]:
            batch = dict(batch)
            if resident is not None:
                batch |= {name: array.at[batch["index"]].get(mode="promise_in_bounds")
                          for name, array in resident.items()}
            if "epoch" in batch:  # one key per image for all epochs
                keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(batch["index"])
                batch["image"] = jax.vmap(alternating_flip)(keys, batch["image"], batch.pop("epoch"))
            return batch

        return feed

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What all processes' rows of a training batch are together, on the device."""
        side = round(self.image_size * CANVAS) if self.whole_images else self.image_size
        height, width = self.dataset.image_size or (side, side)
        shapes = {"image": ((height, width, self.dataset.channels), jnp.uint8), "label": ((), jnp.int32),
                  "index": ((), jnp.int32)}
        if self.whole_images and not self.dataset.in_memory:
            shapes["extent"] = ((2,), jnp.float32)
        if self.repeats > 1:
            shapes["copy"] = ((), jnp.int32)
        return {name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    def eval_batches(self, split: str, share: tuple[int, int] = (0, 1)) -> Iterator[dict]:
        """Every record of a part ("train", "validation" or "test") once, in order, not augmented.

        share: see `train_batches`, for an evaluation by several processes together.
        """
        return eval_batches(getattr(self.dataset, split), self._eval_crop, batch_size=self.batch_size, bad=self.bad,
                            process_index=share[0], process_count=share[1])

    def records(self, part: str, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 `(N, H, W, C)`, as an evaluation sees them, and labels of these records; those readable."""
        source, crop, images, labels = getattr(self.dataset, part), self._eval_crop, [], []
        for index in map(int, positions):
            try:
                record = source[index]
                images.append(record["image"] if crop is None else crop(record["image"]))
                labels.append(record["label"])
            except DecodeError as error:
                self.bad.add(source.name(index), str(error))
        size = self.dataset.image_size or (self.image_size, self.image_size)
        return (np.stack(images) if images else np.zeros((0, *size, self.dataset.channels), np.uint8),
                np.array(labels, np.int32))

    def examples(self, part: str, count: int) -> np.ndarray:
        """About `count` images of a part, evenly spaced, for pictures: uint8 `(N, H, W, C)`; those readable."""
        last = len(getattr(self.dataset, part)) - 1
        return self.records(part, np.unique(np.linspace(0, last, count).astype(int)))[0]

    @property
    def _eval_crop(self) -> ResizeCenterCrop | None:
        if self.dataset.in_memory:
            return None
        return eval_crop(self.image_size, self.dataset.channels)

    def augment(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """One training image uint8 `(H, W, C)` to what the model sees, float32: cropped, flipped, normalised."""
        crop_key, flip_key, key = jax.random.split(key, 3)  # fold_in(key, 0) of one key is the first of its split
        size = (self.image_size, self.image_size)
        if self.dataset.in_memory and (self.crop_scale != (1.0, 1.0) or image.shape[:2] != size):
            image = random_resized_crop(crop_key, image, self.image_size, self.crop_scale)
        if self.flip and not self.alternating:
            image = random_flip(flip_key, image)
        for i, operation in enumerate(self.pixel_operations):
            image = operation(jax.random.fold_in(key, 2 * i), image)
        image = normalize(image, *self.statistics)
        for i, operation in enumerate(self.normalized_operations):
            image = operation(jax.random.fold_in(key, 2 * i + 1), image)
        return image

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Images uint8 `(B, H, W, C)` to what the model sees, float32, without randomness."""
        return preprocess(images, self.image_size)

    def displayable(self, images: jax.Array) -> jax.Array:
        """See the function `displayable`."""
        return displayable(images)


def statistics(channels: int) -> tuple[Any, Any]:
    """Mean and standard deviation that images are normalised by: ImageNet's for colour, 0.5 for others."""
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (HALF, HALF)


def preprocess(images: jax.Array, image_size: int) -> jax.Array:
    """Images uint8 `(B, H, W, C)` to float32 `(B, image_size, image_size, C)`, normalised, without randomness."""
    shape = (images.shape[0], image_size, image_size, images.shape[3])
    if images.shape != shape:
        images = images.astype(jnp.float32)
        images = jnp.clip(jax.image.resize(images, shape, "bicubic", antialias=True), 0, 255)
    return normalize(images, *statistics(images.shape[3]))


def displayable(images: jax.Array) -> jax.Array:
    """The inverse of the normalisation of `(B, H, W, C)`, for pictures: float in [0, 1]."""
    return jnp.clip(denormalize(images, *statistics(images.shape[-1])) / 255, 0, 1)


def eval_crop(image_size: int, channels: int) -> ResizeCenterCrop:
    """What the host does to an image file in evaluation: the short side to 256 / 224 of the size, then its middle."""
    return ResizeCenterCrop(image_size, round(image_size * 256 / 224), channels=channels)


def held_out(config: TrainingConfig, dataset: Dataset) -> Dataset:
    """The data set with the validation part that a configuration asks for."""
    return hold_out(dataset, config.validation, seed=0) if config.validation else dataset


def make_inputs(config: DataConfig, *, image_size: int | None, folder: RunFolder,
                prepare: Callable[[Dataset], Dataset] = lambda dataset: dataset, **augmentation: Any) -> Inputs:
    """Open the data set of a configuration.

    image_size: side of what the model sees; None takes the data set's own, where its images have one.
    folder: where `bad_files.txt` goes. prepare: what is done to the data set first, for example `held_out`.
    augmentation: `crop_scale`, `flip` and operations, for training images.
    """
    dataset = prepare(open_dataset(config.data, seed=0, cache=config.data_cache))
    bad = count_bad_files(config, dataset, folder)
    if image_size is None:
        height, width = dataset.image_size or (None, 0)
        if height != width:
            raise DataError(f"the images of {config.data} are not squares of one size: give --image-size")
        image_size = height
    return Inputs(dataset, image_size, config.batch_size, bad, **augmentation)


def check_batches(inputs: Inputs) -> None:
    """ConfigError unless batches split over the devices of this process."""
    with config_errors():
        check_batch_size(inputs.batch_size, accumulate=1, devices=jax.local_device_count())


def count_bad_files(config: DataConfig, dataset: Dataset, folder: RunFolder) -> BadFiles:
    """The account of all splits' unreadable files, in the run's folder; DataError where no batch can be made."""
    if config.batch_size > len(dataset.train):
        raise DataError(f"--batch-size {config.batch_size} is larger than the training set of "
                        f"{len(dataset.train)} images")
    name = "bad_files.txt" if is_first() else f"bad_files_{jax.process_index()}.txt"
    path = None if config.dry_run else folder.path / name
    files = sum(len(part) for part in (dataset.train, dataset.test, dataset.validation) if part is not None)
    return BadFiles(files, config.data_max_bad, path)
