"""One door to every data set with boxes: `open_detection("scenes" | "voc:PATH" | "coco:PATH" | "tfds:NAME")`."""

from cvjax.data.coco import open_coco
from cvjax.data.dataset import Dataset
from cvjax.data.errors import DataError
from cvjax.data.scenes import open_scenes, scene_numbers
from cvjax.data.tfds_boxes import open_tfds_boxes
from cvjax.data.voc import open_voc

FORMS = "scenes, scenes:TRAIN,TEST,SIDE, voc:PATH, coco:PATH, tfds:NAME"


def open_detection(spec: str, *, seed: int = 0, validation: bool = False, max_bad: float = 0.01) -> Dataset:
    """Opens the data set that `spec` names; its sources have `ground_truth() -> BoxAnnotations` besides records.

    Args:
        spec: `scenes:TRAIN,TEST,SIDE`: so many painted scenes to train on and to test with, of so many pixels a side.
        seed: decides a held-out part where the data set brings none. Scenes are always the same.
        validation: voc: only: its list `val` is the validation part and not trained on.
        max_bad: share of unreadable annotation files past which it is an error.

    Raises:
        DataError: with what was asked and what is allowed.
    """
    kind, _, place = spec.partition(":")
    if validation and kind != "voc":
        raise DataError(f"a validation part of its own has voc:PATH alone, got {spec!r}")
    if kind == "scenes":
        return open_scenes("boxes", **scene_numbers(spec))
    if place and kind == "voc":
        return open_voc(place, seed=seed, validation=validation, max_bad=max_bad)
    if place and kind == "coco":
        return open_coco(place, seed=seed)
    if place and kind == "tfds":
        return open_tfds_boxes(place)
    raise DataError(f"unknown data set {spec!r} for detection; allowed: {FORMS}")
