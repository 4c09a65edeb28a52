"""The wiring of semantic segmentation: batches of label maps, models, predictions, and what is said of the test split.

Training sees crops of one size; evaluation sees whole images, each padded at most (see `bucket_sizes`), never resized.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data import BadFiles, Dataset, DecodeError
from cvjax.data.augment import normalize
from cvjax.data.decode import decode
from cvjax.data.pipeline import TrainBatches, eval_batches, train_batches
from cvjax.data.segmentation_crops import PadLabelled, RandomLabelledCrop, bucket_sizes
from cvjax.data.segmentation_sources import image_sizes, open_segmentation
from cvjax.evaluate.mean_iou import class_boundary_f, iou_table, pixel_confusion, segmentation_scores
from cvjax.evaluate.pixel_baselines import PixelBaseline
from cvjax.experiment.classifier import asked, check_model, create_model_or_fail, create_with_fields
from cvjax.experiment.config import ConfigError
from cvjax.experiment.inputs import count_bad_files, held_out, statistics
from cvjax.experiment.run import RunFolder
from cvjax.experiment.training import finished_run
from cvjax.train.dispatch import Feed
from cvjax.train.mesh import MeshEngine
from cvjax.visualize.confusion import plot_confusion
from cvjax.visualize.segmentation import segmentation_panel

_STEP = 32  # photos are padded to multiples of it, so that few sizes are compiled
_FITTED = 500  # training images that the baselines look at
_SHOWN = 6  # test images in the picture


@dataclasses.dataclass(frozen=True)
class SegmentationInputs:
    """A data set with label maps, as `cvjax.experiment.training.train` asks for it.

    crop_size: height and width of training crops. crop_scale, crop_ratio, flip: see `RandomLabelledCrop`.
    bad: the unreadable files, of all splits together. pixel_operations: what happens to the colours of a training
    image (key, image) -> image.
    """

    dataset: Dataset
    crop_size: tuple[int, int]
    batch_size: int
    bad: BadFiles
    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: float = 1.0
    flip: bool = False
    pixel_operations: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = ()

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the model sees in training."""
        return *self.crop_size, self.dataset.channels

    def train_batches(self, *, seed: int, workers: int, resident: bool = False,
                      share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """An endless stream of shuffled batches of random crops, resumable; see `Inputs.train_batches`."""
        crop = RandomLabelledCrop(self.crop_size, self.crop_scale, self.crop_ratio, self.flip,
                                  channels=self.dataset.channels)
        return train_batches(self.dataset.train, crop, batch_size=self.batch_size, seed=seed, workers=workers,
                             process_index=share[0], process_count=share[1], bad=self.bad)

    def resident_arrays(self, data: str) -> dict[str, np.ndarray]:
        """ConfigError: crops of images with label maps are made on the host."""
        raise ConfigError(f"--resident with --data {data}: training crops with label maps are made on the host")

    def feed(self, seed: int) -> Feed:
        """What becomes of a batch on the device before its images are augmented: nothing."""
        return lambda batch, resident: dict(batch)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """What all processes' rows of a training batch are together, on the device."""
        shapes = {"image": (self.seen_shape, jnp.uint8), "label_map": (self.crop_size, jnp.int32),
                  "label": ((), jnp.int32), "index": ((), jnp.int32)}
        return {name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    def eval_batches(self, split: str, share: tuple[int, int] = (0, 1)) -> Iterator[dict[str, np.ndarray]]:
        """Every record of a part once, whole, not augmented: the images of each bucket after those of another.

        A batch has the fields of `cvjax.data.pipeline.eval_batches` and `label_map`, 255 beside the image.
        """
        source, buckets = getattr(self.dataset, split), self._buckets[split]
        for bucket in np.unique(buckets, axis=0):
            positions = np.flatnonzero((buckets == bucket).all(axis=1))
            crop = PadLabelled((int(bucket[0]), int(bucket[1])), self.dataset.channels)
            for batch in eval_batches(source.take(positions), crop, batch_size=self.batch_size, bad=self.bad,
                                      process_index=share[0], process_count=share[1]):
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
            if image.shape[:2] == record["label_map"].shape:
                yield image, record["label_map"]

    def augment(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """One training image uint8 `(H, W, C)` to what the model sees, float32."""
        for i, operation in enumerate(self.pixel_operations):
            image = operation(jax.random.fold_in(key, i), image)
        return normalize(image, *statistics(self.dataset.channels))

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Images uint8 `(B, H, W, C)` to what the model sees, float32, without randomness."""
        return normalize(images, *statistics(self.dataset.channels))


class _OnDemand(dict):
    """What a function gives for a key, asked once."""

    def __init__(self, function: Callable[[str], np.ndarray]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: str) -> np.ndarray:
        self[key] = self._function(key)
        return self[key]


def make_segmentation_inputs(config: Any, folder: RunFolder, **augmentation: Any) -> SegmentationInputs:
    """Open the data set of a configuration.

    folder: where `bad_files.txt` goes. augmentation: `pixel_operations`, for training images.
    """
    if config.data_cache:
        raise ConfigError("--data-cache is for images without label maps: leave it out")
    dataset = open_segmentation(config.data, seed=0, ignore_label=config.ignore_label)
    if config.validation and dataset.validation is not None:
        raise ConfigError(f"--validation {config.validation}: {config.data} brings a validation part of "
                          f"{len(dataset.validation)} images; leave it out")
    dataset = held_out(config, dataset)
    return SegmentationInputs(dataset, config.crop_size, config.batch_size, count_bad_files(config, dataset, folder),
                              config.crop_scale, config.crop_ratio, config.flip, **augmentation)


def build_segmenter(config: Mapping[str, Any], *, channels: int, num_classes: int) -> nn.Module:
    """The model that a configuration of `experiments.segment` describes; ConfigError for one that cannot be."""
    known = {field.name for field in dataclasses.fields(create_model_or_fail(config["model"]))}
    height, width = config["crop_size"]
    fields = dict(image_size=(height, width), in_channels=channels, num_classes=num_classes,
                  dtype=jnp.dtype(config["dtype"]))
    for name in ("remat", "scan", "attention"):
        fields |= asked(name, config[name], config["model"], known)
    model = create_with_fields(config["model"], config["model_fields"], fields)
    gives = check_model(model, config["model"], (height, width, channels))
    if gives != (1, height, width, num_classes):
        raise ConfigError(f"--model {config['model']} gives {'x'.join(map(str, gives[1:]))} numbers for an image of "
                          f"{height}x{width}: it must be a class for each pixel, such as fcn or fcn8s_vgg16")
    return model


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained model with its variables, and what its outputs mean. channels: 1 or 3, of what it takes."""

    model: nn.Module
    variables: Any
    class_names: tuple[str, ...]
    channels: int

    def predict(self, image: bytes | np.ndarray) -> np.ndarray:
        """Classes uint8 `(H, W)` of one photo of any size: a file's bytes, or uint8 `(H, W)` or `(H, W, 1 | 3)`.

        The photo is padded to multiples of 32 pixels; each padded size is compiled once. DecodeError for what is no
        image.
        """
        pixels = decode(image, self.channels)
        height, width = pixels.shape[:2]
        padded = PadLabelled((-(-height // _STEP) * _STEP, -(-width // _STEP) * _STEP), self.channels)(pixels)["image"]
        return np.asarray(self._compiled(self.variables, padded[None]))[0, :height, :width]

    def labels(self, variables: Any, images: jax.Array) -> jax.Array:
        """Classes uint8 `(B, H, W)` of images uint8 `(B, H, W, C)`."""
        logits = self.model.apply(variables, normalize(images, *statistics(self.channels)), train=False)
        return logits.argmax(axis=-1).astype(jnp.uint8)

    @functools.cached_property
    def _compiled(self) -> Callable[[Any, np.ndarray], jax.Array]:
        return jax.jit(self.labels)


def load_segmenter(run: Path, step: str | int = "judged") -> Segmenter:
    """The model of a run of `experiments.segment`, and errors as `finished_run`, which says what step is."""
    variables, meta = finished_run(run, "segment", step)
    names = tuple(meta["class_names"])
    model = build_segmenter(meta["config"], channels=meta["channels"], num_classes=len(names))
    return Segmenter(model, variables, names, meta["channels"])


def predictions(segmenter: Segmenter, inputs: SegmentationInputs,
                part: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """`(index, truth, prediction)` of the readable records of a part, label maps `(H, W)` of the image's own size."""
    engine, sizes = MeshEngine(jax.local_devices()), inputs.sizes(part)
    compiled = engine.compile_evaluation(lambda variables, batch: segmenter.labels(variables, batch["image"]))
    for batch in inputs.eval_batches(part):
        labels = np.asarray(compiled(segmenter.variables, engine.put({"image": batch["image"]})))
        for row in np.flatnonzero(batch["mask"]):
            index = int(batch["index"][row])
            height, width = sizes[index]
            yield index, batch["label_map"][row, :height, :width], labels[row, :height, :width]


def report(segmenter: Segmenter, inputs: SegmentationInputs, folder: Path, part: str = "test") -> dict[str, float]:
    """Judge a model on a part: `boundary_f`, the mean over the images of the mean over the classes in an image.

    Writes into `folder`: `classes.txt` (IoU and recall of each class), `confusion.png` and `segmentation.png`.
    """
    names = segmenter.class_names
    confusion, boundaries = np.zeros((len(names), len(names)), np.int64), []
    for _, truth, prediction in predictions(segmenter, inputs, part):
        confusion += pixel_confusion(truth, prediction, len(names))
        boundaries.append(class_boundary_f(truth, prediction).mean())
    (folder / "classes.txt").write_text(iou_table(confusion, names) + "\n")
    share = np.round(100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)).astype(np.int64)
    plot_confusion(folder / "confusion.png", share, names, title=f"{part} split: percent of the true class's pixels")
    shown = list(inputs.examples(part, _SHOWN))
    if inputs.dataset.channels in (1, 3) and shown:
        segmentation_panel(folder / "segmentation.png", [image / np.float32(255) for image, _ in shown],
                           [segmenter.predict(image) for image, _ in shown], [truth for _, truth in shown], names,
                           title=f"{part} split, {len(getattr(inputs.dataset, part)):,} images")
    return {"boundary_f": float(np.mean(boundaries))}


def baselines(inputs: SegmentationInputs, part: str = "test") -> dict[str, float]:
    """mIoU and pixel accuracy of what needs no network: `majority/miou`, `colour/miou`, `colour_position/miou`, ...

    They learn from at most 500 training images and are judged on all of a part.
    """
    dataset, sizes = inputs.dataset, {}
    kinds = {"majority": dict(channels=0), "colour": dict(channels=dataset.channels),
             "colour_position": dict(channels=dataset.channels, bands=True)}
    for name, options in kinds.items():
        baseline = PixelBaseline(dataset.num_classes, **options).fit(inputs.examples("train", _FITTED))
        confusion = np.zeros((dataset.num_classes,) * 2, np.int64)
        for image, truth in inputs.examples(part, len(getattr(dataset, part))):
            confusion += pixel_confusion(truth, baseline.predict(image), dataset.num_classes)
        scores = segmentation_scores(confusion, dataset.class_names)
        sizes |= {f"{name}/miou": scores["miou"], f"{name}/pixel_accuracy": scores["pixel_accuracy"]}
    return sizes


def protocol(inputs: SegmentationInputs) -> dict[str, Any]:
    """The parts `data` and `images` of a protocol (see `cvjax.evaluate.protocol`)."""
    dataset = inputs.dataset
    tested = 0 if dataset.test is None else len(dataset.test)
    return {"data": {"fingerprint": dataset.fingerprint, "classes": dataset.num_classes,
                     "training_images": len(dataset.train), "test_images": tested},
            "images": {"channels": dataset.channels, "resize": None, "crop": None}}
