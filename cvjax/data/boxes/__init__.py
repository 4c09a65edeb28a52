"""Readers of images with boxes, one file each, and the one door to them; what the host does to both together."""

from cvjax.data.dataset import Dataset
from cvjax.data.forms import BOXES
from cvjax.errors import DataError


def open_detection(spec: str, *, seed: int = 0, validation: bool = False, max_bad: float = 0.01) -> Dataset:
    """Opens the data set that `spec` names, such as `scenes` or `voc:PATH`; `cvjax.data.forms.BOXES` has them all.

    Its sources have `ground_truth() -> BoxAnnotations` besides records.

    Args:
        seed: decides the held-out part if the data set has none. Scenes are always the same.
        validation: take VOC's list `val` as the validation part, and do not train on it.
        max_bad: it is an error if more than this share of the annotation files is unreadable.

    Raises:
        DataError: with what was asked and what is allowed.
    """
    if validation and "validation" not in BOXES.find(spec).options:
        raise DataError(f"only {BOXES.taking('validation')} has a validation part of its own, got {spec!r}")
    return BOXES.open(spec, seed=seed, validation=validation, max_bad=max_bad)
