"""Scenes of painted digits with their label maps."""

from cvjax.data.dataset import Dataset
from cvjax.data.scenes import open_scenes, scene_numbers
from cvjax.errors import DataError


def open_label_map_scenes(numbers: str, *, seed: int, ignore_label: int | None = None,
                          mask_values: tuple[int, ...] = ()) -> Dataset:
    """`TRAIN,TEST,SIDE` painted scenes with label maps, or the usual number of them for ""; `seed` decides which.

    Raises:
        DataError: for a label to ignore, or numbers that do not fit; see `cvjax.data.scenes`.
    """
    if ignore_label is not None:
        raise DataError(f"all pixels of scenes count: there is no label to ignore, got {ignore_label}")
    if mask_values:
        raise DataError(f"the labels of scenes are their classes: no other numbers stand for them, got {mask_values}")
    return open_scenes("label_map", **scene_numbers(numbers), seed=seed)
