"""Where examples come from, and how they become batches."""

from cvjax.data import augment
from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import RandomResizedCrop, ResizeCenterCrop
from cvjax.data.dataset import ArraySource, Dataset, Source
from cvjax.data.decode import DecodeError
from cvjax.data.errors import DataError
from cvjax.data.pipeline import TrainBatches, eval_batches, train_batches
from cvjax.data.sources import open_dataset

__all__ = [
    "ArraySource",
    "BadFiles",
    "DataError",
    "Dataset",
    "DecodeError",
    "RandomResizedCrop",
    "ResizeCenterCrop",
    "Source",
    "TrainBatches",
    "augment",
    "eval_batches",
    "open_dataset",
    "train_batches",
]
