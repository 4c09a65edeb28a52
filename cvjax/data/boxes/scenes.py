"""Scenes of painted digits with their boxes."""

from cvjax.data.dataset import Dataset
from cvjax.data.scenes import open_scenes, scene_numbers


def open_boxed_scenes(numbers: str) -> Dataset:
    """`TRAIN,TEST,SIDE` painted scenes, or the usual number of them for ""; see `cvjax.data.scenes`."""
    return open_scenes("boxes", **scene_numbers(numbers))
