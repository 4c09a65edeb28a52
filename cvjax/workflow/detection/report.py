"""The report on a detector: average precision on a part of a data set, and pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cvjax.data.boxes.canvas import to_original
from cvjax.errors import ConfigError
from cvjax.evaluate.mean_ap import Curve, Detections, Truth, coco_ap, precision_recall, voc_ap
from cvjax.train.mesh import MeshEngine
from cvjax.train.metrics import examples_of
from cvjax.visualize.boxes import detection_panel
from cvjax.visualize.precision_recall import plot_precision_recall
from cvjax.workflow.detection.inputs import PARTS, DetectionInputs
from cvjax.workflow.detection.model import (
    BEST_SCORES,
    DetectorOptions,
    ProposalSearch,
    TrainedDetector,
    thresholds,
)
from cvjax.workflow.folder import write_json

_SHOWN = 6  # test pictures in the figure


def collected(parts: Iterable[Mapping[str, np.ndarray]],
              inputs: DetectionInputs) -> tuple[str, list[Truth], list[Detections]]:
    """The name of a part, and the true and the found objects in its readable pictures, in pixels of the files.

    parts: the outputs of `detection_task`'s evaluation, batch by batch.
    """
    rows = list(parts)
    joined = {name: np.concatenate([batch[name] for batch in rows]) for name in rows[0]}
    part = PARTS[int(joined["part"][0])]
    truth = inputs.ground_truth(part)
    truths, detections = [], []
    boxes = to_original(joined["boxes"].astype(np.float64), joined["scale"])
    for row in np.argsort(joined["index"], kind="stable"):
        index, valid = int(joined["index"][row]), joined["valid"][row]
        there = truth[index]
        truths.append(Truth(there["boxes"], there["box_label"], there["box_difficult"], truth.areas_of(index)))
        detections.append(Detections(boxes[row][valid], joined["score"][row][valid], joined["box_label"][row][valid]))
    return part, truths, detections


def average_precision(truths: Sequence[Truth], detections: Sequence[Detections],
                      class_names: Sequence[str]) -> dict[str, float]:
    """`ap50` (VOC's area), `ap50_11point`, COCO's `ap` and `ap75`, and `ap50/NAME` of each class that occurs.

    Where annotations state the objects' areas also COCO's `ap_small`, `ap_medium` and `ap_large`, of the sizes that
    occur.
    """
    voc, coco = voc_ap(truths, detections, class_names), coco_ap(truths, detections, class_names)
    if np.isnan(voc.mean):
        raise ConfigError("there is no average precision: the pictures of this part have no objects to find")
    eleven = voc_ap(truths, detections, class_names, eleven_points=True)
    each = {f"ap50/{name}": float(ap) for name, ap in zip(class_names, voc.per_class) if not np.isnan(ap)}
    stated = any(truth.areas is not None for truth in truths)
    sizes = {name: getattr(coco, name) for name in ("ap_small", "ap_medium", "ap_large") if stated}
    sizes = {name: ap for name, ap in sizes.items() if not np.isnan(ap)}
    return {"ap50": voc.mean, "ap50_11point": eleven.mean, "ap": coco.ap, "ap75": coco.ap75} | sizes | each


def summarize(inputs: DetectionInputs) -> Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]]:
    """`summarize` of `detection_task`: average precision of a part of a data set."""
    def summarize(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
        _, truths, detections = collected(parts, inputs)
        return average_precision(truths, detections, inputs.dataset.class_names)

    return summarize


def report(trained: TrainedDetector, inputs: DetectionInputs, folder: Path, part: str = "test") -> None:
    """Write pictures of a part into `folder`: `detections.png` and `precision_recall.png`.

    A box is drawn if its score is at least the one at which its class has its best F1. `best_scores.json` keeps these.
    """
    engine, names = MeshEngine(jax.local_devices()), trained.class_names
    find = engine.compile_evaluation(lambda variables, batch: trained.found(variables, batch)
                                     | {name: batch[name] for name in ("index", "mask", "scale", "part")},
                                     by_example=True)
    outputs = (find(trained.variables, engine.put(batch)) for batch in inputs.eval_batches(part))
    _, truths, detections = collected(examples_of(outputs), inputs)
    curves = [precision_recall(truths, detections, label) for label in range(len(names))]
    plot_precision_recall(folder / "precision_recall.png", curves, names,
                          title=f"{part} split, {len(truths):,} images, IoU of at least 0.5")
    least = best_scores(curves)
    write_json(folder / BEST_SCORES, dict(zip(names, least, strict=True)))
    shown = inputs.examples(part, _SHOWN)
    found = jax.device_get(jax.jit(trained.found)(trained.variables, shown))
    detection_panel(folder / "detections.png", shown["image"] / np.float32(255), names, truth=shown, found=found,
                    extent=shown["extent"], least_score=least,
                    title=f"{part} split, {len(truths):,} images; found: down to the score of each class's best F1")


def best_scores(curves: Sequence[Curve | None]) -> list[float]:
    """The least score of the detections with which a class has its best F1; 1 for a class that is never found."""
    scores = []
    for curve in curves:
        if curve is None or not curve.recall.any():
            scores.append(1.0)
            continue
        # Half of F1, which is 2 / (1 / precision + 1 / recall).
        half_f1 = curve.recall * curve.precision / np.maximum(curve.recall + curve.precision, 1e-12)
        scores.append(float(curve.scores[half_f1.argmax()]))
    return scores


def protocol(inputs: DetectionInputs, config: DetectorOptions,
             search: ProposalSearch | None = None) -> dict[str, Any]:
    """The parts `data`, `images` and `test` of a protocol (see `cvjax.evaluate.protocol`)."""
    dataset = inputs.dataset
    tested = 0 if dataset.test is None else len(dataset.test)
    given = {"regions": f"selective search ({search.mode}), at most {search.max_proposals}"} if search else {}
    resize = "as large as fits"
    if inputs.sides is not None:
        resize = f"short side {inputs.sides[0]}, long side at most {inputs.sides[1]}"
    return {"data": {"fingerprint": dataset.fingerprint, "classes": dataset.num_classes,
                     "training_images": len(dataset.train), "test_images": tested},
            "images": {"canvas": list(inputs.canvas), "channels": dataset.channels, "resize": resize},
            "test": thresholds(config)
            | {"iou": 0.5, "boxes": "pixels of the files", "difficult": "neither asked for nor wrong to find"} | given}
