"""What training needs of a data set, whatever is labelled in it, and how a data set is opened for it."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import jax

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import Dataset
from cvjax.data.first_look import look_at_all
from cvjax.data.held_out import hold_out
from cvjax.data.pipeline import TrainBatches
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import DataError
from cvjax.train.layout import check_batch_size
from cvjax.train.processes import is_first
from cvjax.workflow.config import DataConfig, TrainingConfig, config_errors
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.gather import Gather

AnyConfig = TypeVar("AnyConfig", bound=DataConfig)


class Inputs(Protocol):
    """A data set as training sees it: batches from the host, and their shapes.

    `ImageInputs`, `DetectionInputs` and `SegmentationInputs` are its implementations. What the device does to single
    images (`cvjax.workflow.augmentation`, `cvjax.workflow.normalization`) goes to the task, not to the training.
    """

    @property
    def dataset(self) -> Dataset: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def bad(self) -> BadFiles:
        """The unreadable files, of all splits together."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """The statistics by which images are normalised, and the crop of whole images in an evaluation."""
        ...

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the model sees in training."""
        ...

    def train_batches(self, *, seed: int, workers: int, share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """An endless stream of shuffled batches, resumable.

        share: which part of each batch, of how many equal ones: an engine's `share`.
        """
        ...

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a training batch on the device: the rows of all processes together, after `gather`."""
        ...

    def gather(self, seed: int) -> Gather | None:
        """What becomes of a batch on the device first; None if it goes on as it is."""
        ...

    def eval_batches(self, part: str, share: tuple[int, int] = (0, 1)) -> Iterator[dict[str, Any]]:
        """Every record of a part ("train", "validation" or "test") once, not augmented.

        share: as in `train_batches`, for an evaluation by several processes together.
        """
        ...


def held_out(config: TrainingConfig, dataset: Dataset) -> Dataset:
    """The data set with the validation part that a configuration asks for."""
    return hold_out(dataset, config.validation, seed=0) if config.validation else dataset


def check_batches(inputs: Inputs) -> None:
    """ConfigError unless batches split over the devices of this process."""
    with config_errors():
        check_batch_size(inputs.batch_size, accumulate=1, devices=jax.local_device_count())


def fitting_batch(config: DataConfig, dataset: Dataset) -> int:
    """The batch size, or the largest one below it that a smaller training set fills; then a line says so.

    DataError for a training set that fills no batch over all devices.
    """
    count, accumulate = len(dataset.train), config.accumulate if isinstance(config, TrainingConfig) else 1
    least = jax.device_count() * accumulate
    if config.batch_size <= count:
        return config.batch_size
    if count < least:
        raise DataError(f"--batch-size {config.batch_size} is larger than the training set of {count} images, which "
                        f"does not split over {jax.device_count()} devices x accumulate {accumulate}")
    print(f"--batch-size {config.batch_size} is larger than the training set of {count} images: "
          f"{count // least * least} are taken at a time")
    return count // least * least


def with_batches_of(config: AnyConfig, inputs: Inputs) -> AnyConfig:
    """The configuration with the batch size that its inputs have."""
    return dataclasses.replace(config, batch_size=inputs.batch_size)


def count_bad_files(config: DataConfig, dataset: Dataset, folder: RunFolder) -> BadFiles:
    """The account of all splits' unreadable files, in the run's folder once it has begun; see `look_at_all` for what it
    has at once.

    DataError for too many unreadable files.
    """
    listed = folder.path / ("bad_files.txt" if is_first() else f"bad_files_{jax.process_index()}.txt")
    files = sum(len(part) for part in (dataset.train, dataset.test, dataset.validation) if part is not None)
    bad = BadFiles(files + len(dataset.lost), config.data_max_bad)
    folder.when_begun(lambda: bad.keep_in(listed))
    bad.add_all(dict(dataset.lost))
    if not config.dry_run:
        look_at_all([part for part in (dataset.train, dataset.test, dataset.validation) if part is not None], bad)
    return bad
