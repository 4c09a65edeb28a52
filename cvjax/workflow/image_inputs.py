"""From a data set of images, labelled or not, to batches on the host."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import EvaluationCrop, RandomResizedCrop
from cvjax.data.dataset import Dataset
from cvjax.data.decode import DecodeError
from cvjax.data.pipeline import Crop, Stream, TrainBatches, eval_batches
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.data.statistics import channel_statistics
from cvjax.errors import CheckpointError, DataError
from cvjax.train.checkpoint import read_meta
from cvjax.workflow.augmentation import Augmentation
from cvjax.workflow.config import DataConfig, TrainingConfig
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.gather import Gather, resident_arrays
from cvjax.workflow.inputs import count_bad_files, fitting_batch
from cvjax.workflow.normalization import preprocess
from cvjax.workflow.preprocessing import chosen


@dataclasses.dataclass(frozen=True)
class ImageInputs:
    """A data set at one image size; an `Inputs`.

    Training images of a data set in memory go to the device whole and are cropped there; others are decoded and cropped
    on the host, by the same law (`RandomResizedCrop`, `random_resized_crop`): a random box of `crop_scale` of the area,
    and with (1, 1) an image of the model's size as it is. Evaluation sees `EvaluationCrop` of every image, made on the
    host. The device gets uint8 and does the rest inside the compiled step.
    image_size: side of the square images that evaluations see.
    training_size: side of the training crops; None for `image_size`.
    bad: the unreadable files, of all splits together.
    preprocessing: the statistics by which images are normalised, and the evaluation's crop.
    augmentation: the changes of a training image.
    reader: what a training image that is not in memory becomes on the host; by default a random crop.
    repeats: how many times each training image comes in a row; see `Stream`.
    resident: all training images and labels, if they stay on the device and batches are positions only.
    """

    dataset: Dataset
    image_size: int
    batch_size: int
    bad: BadFiles
    preprocessing: Preprocessing
    augmentation: Augmentation = Augmentation()
    training_size: int | None = None
    reader: Crop | None = None
    repeats: int = 1
    resident: dict[str, np.ndarray] | None = None

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the model's input in evaluations."""
        return self.image_size, self.image_size, self.dataset.channels

    @property
    def crop_size(self) -> int:
        """Side of the training crops."""
        return self.training_size or self.image_size

    def train_batches(self, *, seed: int, workers: int, share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """An endless stream of shuffled batches with random crops, resumable; only positions if data are `resident`.

        share: which part of each batch, of how many equal ones: an engine's `share`.
        """
        crop = None if self.dataset.in_memory else self._reader
        stream = Stream(self.batch_size, seed, repeats=self.repeats, with_epoch=self._by_turns,
                        only_index=self.resident is not None, share=share, workers=workers)
        return TrainBatches(self.dataset.train, crop, stream, self.bad)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a training batch on the device: the rows of all processes together, after `gather`."""
        targets = self.dataset.targets
        label = ((), jnp.int32) if targets is None else ((len(targets.names),), jnp.float32)
        shapes: dict[str, Any] = {"label": label, "index": ((), jnp.int32)}
        if self.dataset.image_size is not None:
            shapes["image"] = ((*self.dataset.image_size, self.dataset.channels), self.dataset.image_dtype)
        else:
            blank = np.zeros((1, 1, self.dataset.channels), self.dataset.image_dtype)
            blank = self._reader(blank, np.random.default_rng(0))
            fields = blank if isinstance(blank, dict) else {"image": blank}
            shapes |= {name: (array.shape, array.dtype) for name, array in fields.items()}
        if self.repeats > 1:
            shapes["copy"] = ((), jnp.int32)
        return {name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    @property
    def _reader(self) -> Crop:
        return self.reader or RandomResizedCrop(self.crop_size, self.augmentation.crop_scale,
                                                channels=self.dataset.channels)

    def gather(self, seed: int) -> Gather | None:
        """The first step of a batch on the device; None if the batch stays as it is."""
        return Gather(self.resident, seed) if self.resident is not None or self._by_turns else None

    @property
    def _by_turns(self) -> bool:
        return self.augmentation.flip and self.augmentation.alternating

    def eval_batches(self, part: str, share: tuple[int, int] = (0, 1)) -> Iterator[dict[str, Any]]:
        """Every record of a part ("train", "validation" or "test") once, in order, not augmented.

        share: as in `train_batches`, for an evaluation by several processes together.
        """
        return eval_batches(getattr(self.dataset, part), self._eval_crop, batch_size=self.batch_size, share=share,
                            bad=self.bad)

    def records(self, part: str, positions: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 `(N, H, W, C)`, as an evaluation sees them, and labels of the readable ones of these records."""
        source, crop, images, labels = getattr(self.dataset, part), self._eval_crop, [], []
        for index in map(int, positions):
            try:
                record = source[index]
                images.append(record["image"] if crop is None else crop(record["image"]))
                labels.append(record["label"])
            except DecodeError as error:
                self.bad.add(source.name(index), str(error))
        return (np.stack(images) if images else np.zeros((0, *self.seen_shape), np.uint8),
                np.array(labels, np.int32 if self.dataset.targets is None else np.float32))

    def examples(self, part: str, count: int) -> np.ndarray:
        """About `count` readable images of a part, evenly spaced, for pictures: uint8 `(N, H, W, C)`."""
        last = len(getattr(self.dataset, part)) - 1
        return self.records(part, np.unique(np.linspace(0, last, count).astype(int)))[0]

    @property
    def _eval_crop(self) -> EvaluationCrop | None:
        """None if the crop would leave each image as it is, so that a batch from memory is one gather."""
        if self.dataset.image_size == (self.image_size, self.image_size):
            return None
        return EvaluationCrop(self.image_size, self.dataset.channels, self.preprocessing)

    def augment(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """One training image uint8 `(H, W, C)` to the model's input, float32; cropped here if it is in memory."""
        size = self.crop_size if self.dataset.in_memory else None
        return self.augmentation(key, image, self.preprocessing, size=size)

    def preprocess(self, images: ArrayLike) -> jax.Array:
        """Images uint8 `(B, H, W, C)` to the model's input, float32, without randomness."""
        return preprocess(images, self.image_size, self.preprocessing)


def own_statistics(dataset: Dataset, usual: Preprocessing, image_size: int, raw_pixels: bool, folder: RunFolder
                   ) -> Preprocessing:
    """`usual`, or with the mean and deviation of the training part if its images are not as ImageNet's; prints these.

    A run that goes on has those in its checkpoints.
    """
    if not dataset.measured:
        return usual
    if not folder.anew:
        with contextlib.suppress(CheckpointError):  # there is none yet, or none that can be read
            how = Preprocessing.from_json(read_meta(folder.checkpoints)["preprocessing"])
            print(f"images: {how}, as in the run's checkpoints")
            return how
    crop = None if dataset.in_memory else EvaluationCrop(image_size, dataset.channels, usual)
    mean, std, pictures = channel_statistics(dataset.train, crop)
    how = dataclasses.replace(usual, mean=mean, std=usual.std if raw_pixels else std)
    print(f"images: {how}; mean and deviation measured on {pictures} training pictures")
    return how


def make_inputs(config: DataConfig, *, image_size: int | None, folder: RunFolder, eval_size: int | None = None,
                prepare: Callable[[Dataset], Dataset] = lambda dataset: dataset,
                preprocessing: Preprocessing | None = None, raw_pixels: bool = False, **training: Any) -> ImageInputs:
    """Open the data set of a configuration.

    image_size: side of the model's images; None for the size of the data set's images, if all have the same.
    eval_size: that of evaluations, if it is another.
    folder: gets `bad_files.txt`. prepare: a function that first changes the data set, for example `held_out`.
    preprocessing: what the weights were trained with; None for that of networks which start here.
    raw_pixels: whether these see pixels that are not divided by a deviation.
    training: `augmentation`, `reader` and `repeats`.
    """
    dataset = prepare(open_dataset(config.data, seed=0, cache=config.data_cache, channels=config.channels))
    batch_size, bad = fitting_batch(config, dataset), count_bad_files(config, dataset, folder)
    if image_size is None:
        height, width = dataset.image_size or (None, None)
        if height is None or height != width:
            raise DataError(f"the images of {config.data} are not squares of one size: give --image-size")
        image_size = height
    how = chosen(config, preprocessing, dataset.channels, raw_pixels,
                 lambda usual: own_statistics(dataset, usual, eval_size or image_size, raw_pixels, folder))
    resident = None
    if isinstance(config, TrainingConfig) and config.resident:
        resident = resident_arrays(dataset.train, config.data)
    return ImageInputs(dataset, eval_size or image_size, batch_size, bad, how, training_size=image_size,
                       resident=resident, **training)
