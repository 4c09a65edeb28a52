"""The report on a trained segmentation model: numbers, tables and pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cvjax.evaluate.mean_iou import class_boundary_f, iou_table, pixel_confusion, segmentation_scores
from cvjax.evaluate.pixel_baselines import PixelBaseline
from cvjax.text import printable, write_text
from cvjax.train.mesh import MeshEngine
from cvjax.visualize.confusion import plot_confusion
from cvjax.visualize.segmentation import segmentation_panel
from cvjax.workflow.segmentation.inputs import SegmentationInputs
from cvjax.workflow.segmentation.model import Segmenter

_FITTED = 500  # training images that the baselines look at

_SHOWN = 6  # test images in the picture


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
    write_text(folder / "classes.txt", iou_table(confusion, list(map(printable, names))) + "\n")
    share = np.round(100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)).astype(np.int64)
    plot_confusion(folder / "confusion.png", share, names, title=f"{part} split: percent of the true class's pixels")
    shown = list(inputs.examples(part, _SHOWN))
    if inputs.dataset.channels in (1, 3) and shown:
        segmentation_panel(folder / "segmentation.png", [image / np.float32(255) for image, _ in shown],
                           [segmenter.predict(image) for image, _ in shown], [truth for _, truth in shown], names,
                           title=f"{part} split, {len(getattr(inputs.dataset, part)):,} images")
    return {"boundary_f": float(np.mean(boundaries))}


def baselines(inputs: SegmentationInputs, part: str = "test") -> dict[str, float]:
    """mIoU and pixel accuracy of baselines without a network: `majority/miou`, `colour/miou`, ...

    They learn from at most 500 training images and are judged on a whole part.
    """
    dataset, sizes = inputs.dataset, {}
    kinds: dict[str, dict[str, Any]] = {
        "majority": dict(channels=0), "colour": dict(channels=dataset.channels),
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
