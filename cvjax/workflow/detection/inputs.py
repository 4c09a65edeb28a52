"""From a data set with boxes to batches on the host: an `Inputs`.

Geometry, which moves boxes with pixels, happens on the host; colours change on the device, inside the compiled step.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes import open_detection
from cvjax.data.boxes.annotations import BoxAnnotations
from cvjax.data.boxes.crops import Letterbox, RandomView
from cvjax.data.boxes.mosaic import Mosaic
from cvjax.data.boxes.proposal_records import SplitProposals
from cvjax.data.dataset import Dataset
from cvjax.data.decode import DecodeError
from cvjax.data.pipeline import Crop, Stream, TrainBatches, eval_batches
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError, DataError
from cvjax.workflow.augmentation import Recoloring
from cvjax.workflow.config import DataConfig, TrainingConfig
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.gather import Gather
from cvjax.workflow.inputs import count_bad_files, fitting_batch
from cvjax.workflow.normalization import normalized
from cvjax.workflow.preprocessing import chosen

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class DetectionInputs:
    """A data set with boxes on one canvas; batches are as `cvjax.data.boxes.canvas` says.

    canvas: height and width of what the model sees.
    max_boxes: M, boxes of an example at most.
    max_proposals: P; where it is not 0, sources and batches have proposals, see `cvjax.data.boxes.proposal_records`.
    bad: the unreadable files, of all splits together.
    preprocessing: the statistics by which images are normalised.
    crop_scale, ratio, zoom_out, flip: of a training picture, see `RandomView`; as they stand here nothing is random.
    mosaic: share of the training examples that are made of four pictures.
    recoloring: what happens to the colours of a training image on the device.
    sides: pixels of a picture's short side, and of its long one at most; None for as large as fits the canvas.
    """

    dataset: Dataset
    canvas: tuple[int, int]
    batch_size: int
    max_boxes: int
    bad: BadFiles
    preprocessing: Preprocessing
    max_proposals: int = 0
    crop_scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    zoom_out: float = 1.0
    flip: bool = False
    mosaic: float = 0.0
    recoloring: Recoloring = Recoloring()
    sides: tuple[int, int] | None = None

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the model sees."""
        return *self.canvas, self.dataset.channels

    def train_batches(self, *, seed: int, workers: int, share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """An endless stream of shuffled batches with random geometry, resumable.

        share: which part of each batch, of how many equal ones.
        """
        view = RandomView(*self.canvas, self._rows, self.crop_scale, self.ratio, self.zoom_out, self.flip,
                          channels=self.dataset.channels, sides=self.sides)
        crop = Mosaic(view, self.dataset.train, self.mosaic) if self.mosaic else view
        return TrainBatches(self.dataset.train, self._split(crop),
                            Stream(self.batch_size, seed, workers=workers, share=share), self.bad)

    def gather(self, seed: int) -> Gather | None:
        """None: the host makes batches whole, because boxes move with the pixels."""
        return None

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What all processes' rows of a training batch are together, on the device."""
        m = self.max_boxes
        shapes = {"image": (self.seen_shape, jnp.uint8), "extent": ((2,), jnp.float32), "scale": ((), jnp.float32),
                  "boxes": ((m, 4), jnp.float32), "box_label": ((m,), jnp.int32), "box_mask": ((m,), bool),
                  "box_difficult": ((m,), bool), "label": ((), jnp.int32), "index": ((), jnp.int32)}
        if self.max_proposals:
            p = self.max_proposals
            shapes |= {"proposals": ((p, 4), jnp.float32), "proposal_mask": ((p,), bool)}
        return {name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    def eval_batches(self, part: str, share: tuple[int, int] = (0, 1)) -> Iterator[dict[str, Any]]:
        """Every record of a part ("train", "validation" or "test") once, in order, whole and not augmented.

        `part` int32 (B,), the part's place in `PARTS`, says whose `index` it is.
        share: see `train_batches`, for an evaluation by several processes together.
        """
        for batch in eval_batches(getattr(self.dataset, part), self._letterbox, batch_size=self.batch_size,
                                  share=share, bad=self.bad):
            yield batch | {"part": np.full(len(batch["index"]), PARTS.index(part), np.int32)}

    def ground_truth(self, part: str) -> BoxAnnotations:
        """The objects of a part's records by their `index`, all of them, in pixels of the files; none is decoded."""
        return getattr(self.dataset, part).ground_truth()

    def examples(self, part: str, count: int) -> dict[str, np.ndarray]:
        """A batch of about `count` records of a part, evenly spaced, as an evaluation sees them, for pictures."""
        source = getattr(self.dataset, part)
        chosen = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
        (batch,) = eval_batches(source.take(chosen), self._letterbox, batch_size=len(chosen), bad=self.bad)
        batch["index"] = chosen
        return {name: values[batch["mask"]] for name, values in batch.items()}

    @property
    def _letterbox(self) -> Crop:
        return self._split(Letterbox(*self.canvas, self._rows, channels=self.dataset.channels, sides=self.sides))

    @property
    def _rows(self) -> int:
        """Boxes and proposals that a crop keeps."""
        return self.max_boxes + self.max_proposals if self.max_proposals else self.max_boxes

    def _split(self, crop: Crop) -> Crop:
        return SplitProposals(crop, self.max_boxes, self.max_proposals) if self.max_proposals else crop

    def augment(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """One training image uint8 `(H, W, C)` to what the model sees, float32."""
        return self.recoloring(key, image, self.preprocessing)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Images uint8 `(B, H, W, C)` to what the model sees, float32, without randomness."""
        return normalized(images, self.preprocessing)


def make_detection_inputs(config: DataConfig, *, canvas: tuple[int, int], max_boxes: int, folder: RunFolder,
                          prepare: Callable[[Dataset], Dataset] = lambda dataset: dataset,
                          preprocessing: Preprocessing | None = None, **augmentation: Any) -> DetectionInputs:
    """Open the data set of a configuration.

    canvas: height and width of what the model sees. folder: where `bad_files.txt` goes. prepare: what is done to the
    data set first, for example `held_out`. preprocessing: what the weights were trained with; None for that of
    networks which start here. augmentation: the fields of `DetectionInputs` that have a default.
    """
    dataset = prepare(open_detection(config.data, seed=0, max_bad=config.data_max_bad))
    if config.data_cache:
        raise ConfigError(f"--data-cache with --data {config.data}: pictures with boxes are not cached")
    if config.channels is not None:
        raise ConfigError(f"--channels {config.channels}: pictures with boxes are photos; leave it out")
    if isinstance(config, TrainingConfig) and config.resident:
        raise ConfigError(f"--resident with --data {config.data}: pictures with boxes are cropped on the host; "
                          "leave it out")
    check_objects(config.data, dataset)
    batch_size, bad = fitting_batch(config, dataset), count_bad_files(config, dataset, folder)
    ignored = "; ".join(filter(None, [dataset.ignored, crowded(dataset, max_boxes)]))
    dataset = dataclasses.replace(dataset, ignored=ignored)
    height, width = canvas
    return DetectionInputs(dataset, (height, width), batch_size, max_boxes, bad,
                           chosen(config, preprocessing, dataset.channels), **augmentation)


def check_objects(data: str, dataset: Dataset) -> None:
    """DataError when no picture of a part has an object that counts: nothing could be learnt, or nothing judged.

    It says what was left out, and why.
    """
    for part in PARTS:
        source = getattr(dataset, part)
        if source is None:
            continue
        known, pictures, difficult = getattr(source, "annotations", None), 0, 0
        for i in range(len(source)):
            try:
                flags = (known if isinstance(known, BoxAnnotations) else source)[i]["box_difficult"]
            except (DecodeError, OSError):  # counted once batches are made
                continue
            pictures, difficult = pictures + 1, difficult + len(flags)
            if not np.all(flags):
                break
        else:
            reasons = "; ".join(filter(None, [f"{difficult} objects are difficult" * bool(difficult), dataset.ignored]))
            raise DataError(f"--data {data}: none of the {pictures} {part} pictures has an object that counts: "
                            f"{reasons or 'their annotations name none'}")


def crowded(dataset: Dataset, max_boxes: int) -> str:
    """Says how many training pictures have more than `max_boxes` boxes; empty where none has, or nobody has counted."""
    annotations = getattr(dataset.train, "annotations", None)
    if not isinstance(annotations, BoxAnnotations):
        return ""
    over = annotations.counts[annotations.counts > max_boxes]
    if not len(over):
        return ""
    return (f"the smallest boxes of {len(over)} training pictures, which have up to {over.max()} where --max-boxes is "
            f"{max_boxes}: {int((over - max_boxes).sum())} boxes")
