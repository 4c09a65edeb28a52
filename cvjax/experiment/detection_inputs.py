"""From a data set with boxes to batches on the host and image functions on the device: what `train` takes as `inputs`.

Geometry, which moves boxes with pixels, happens on the host; colours change on the device, inside the compiled step.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data import BadFiles, Dataset
from cvjax.data.augment import normalize
from cvjax.data.box_annotations import BoxAnnotations
from cvjax.data.detection_crops import Letterbox, Mosaic, RandomView
from cvjax.data.detection_sources import open_detection
from cvjax.data.pipeline import Crop, TrainBatches, eval_batches, train_batches
from cvjax.data.proposal_records import SplitProposals
from cvjax.experiment.config import ConfigError, DataConfig
from cvjax.experiment.inputs import count_bad_files, displayable, statistics
from cvjax.experiment.run import RunFolder
from cvjax.train.dispatch import Feed

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class DetectionInputs:
    """A data set with boxes on one canvas; batches are as `cvjax.data.detection_crops` says.

    canvas: height and width of what the model sees.
    max_boxes: M, boxes of an example at most.
    max_proposals: P; where it is not 0, sources have proposals and batches too, see `cvjax.data.proposal_records`.
    bad: the unreadable files, of all splits together.
    crop_scale, ratio, zoom_out, flip: of a training picture, see `RandomView`; as they stand here nothing is random.
    mosaic: share of the training examples that are made of four pictures.
    pixel_operations: what else happens to a training image (key, image) -> image in [0, 255] before it is normalised;
        pixels must stay where they are.
    """

    dataset: Dataset
    canvas: tuple[int, int]
    batch_size: int
    max_boxes: int
    bad: BadFiles
    max_proposals: int = 0
    crop_scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    zoom_out: float = 1.0
    flip: bool = False
    mosaic: float = 0.0
    pixel_operations: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = ()

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the model sees."""
        return *self.canvas, self.dataset.channels

    @property
    def statistics(self) -> tuple[Any, Any]:
        """Mean and standard deviation that images are normalised by."""
        return statistics(self.dataset.channels)

    def train_batches(self, *, seed: int, workers: int, resident: bool = False,
                      share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """An endless stream of shuffled batches with random geometry, resumable.

        resident: must be False, see `resident_arrays`. share: which part of each batch, of how many equal ones.
        """
        if resident:
            self.resident_arrays("boxes")
        view = RandomView(*self.canvas, self._rows, self.crop_scale, self.ratio, self.zoom_out, self.flip,
                          channels=self.dataset.channels)
        crop = Mosaic(view, self.dataset.train, self.mosaic) if self.mosaic else view
        return train_batches(self.dataset.train, self._split(crop), batch_size=self.batch_size, seed=seed,
                             workers=workers, process_index=share[0], process_count=share[1], bad=self.bad)

    def resident_arrays(self, data: str) -> dict[str, np.ndarray]:
        """ConfigError: boxes move with the pixels, which happens on the host. data: what to call the data set."""
        raise ConfigError(f"--resident with --data {data}: pictures with boxes are cropped on the host; leave it out")

    def feed(self, seed: int) -> Feed:
        """A batch goes on as it is: see `compile_dispatch`."""
        def feed(batch: Mapping[str, jax.Array], resident: Mapping[str, jax.Array] | None) -> dict[str, jax.Array]:
            return dict(batch)

        return feed

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

    def eval_batches(self, split: str, share: tuple[int, int] = (0, 1)) -> Iterator[dict]:
        """Every record of a part ("train", "validation" or "test") once, in order, whole and not augmented.

        `part` int32 (B,), the part's place in `PARTS`, says whose `index` it is.
        share: see `train_batches`, for an evaluation by several processes together.
        """
        for batch in eval_batches(getattr(self.dataset, split), self._letterbox, batch_size=self.batch_size,
                                  bad=self.bad, process_index=share[0], process_count=share[1]):
            yield batch | {"part": np.full(len(batch["index"]), PARTS.index(split), np.int32)}

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
        return self._split(Letterbox(*self.canvas, self._rows, channels=self.dataset.channels))

    @property
    def _rows(self) -> int:
        """Boxes and proposals that a crop keeps."""
        return self.max_boxes + self.max_proposals if self.max_proposals else self.max_boxes

    def _split(self, crop: Crop) -> Crop:
        return SplitProposals(crop, self.max_boxes, self.max_proposals) if self.max_proposals else crop

    def augment(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """One training image uint8 `(H, W, C)` to what the model sees, float32: its colours changed, normalised."""
        for i, operation in enumerate(self.pixel_operations):
            image = operation(jax.random.fold_in(key, i), image)
        return normalize(image, *self.statistics)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Images uint8 `(B, H, W, C)` to what the model sees, float32, without randomness."""
        return normalize(images, *self.statistics)

    def displayable(self, images: jax.Array) -> jax.Array:
        """The inverse of the normalisation, for pictures: float in [0, 1]."""
        return displayable(images)


def make_detection_inputs(config: DataConfig, *, canvas: tuple[int, int], max_boxes: int, folder: RunFolder,
                          prepare: Callable[[Dataset], Dataset] = lambda dataset: dataset,
                          **augmentation: Any) -> DetectionInputs:
    """Open the data set of a configuration.

    canvas: height and width of what the model sees. folder: where `bad_files.txt` goes. prepare: what is done to the
    data set first, for example `held_out`. augmentation: the fields of `DetectionInputs` that have a default.
    """
    dataset = prepare(open_detection(config.data, seed=0, max_bad=config.data_max_bad))
    if config.data_cache:
        raise ConfigError(f"--data-cache with --data {config.data}: pictures with boxes are not cached")
    bad = count_bad_files(config, dataset, folder)
    ignored = "; ".join(filter(None, [dataset.ignored, crowded(dataset, max_boxes)]))
    dataset = dataclasses.replace(dataset, ignored=ignored)
    return DetectionInputs(dataset, tuple(canvas), config.batch_size, max_boxes, bad, **augmentation)


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
