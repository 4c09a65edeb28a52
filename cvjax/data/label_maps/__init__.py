"""Readers of images with label maps, one file each, and the one door to them; what the host does to both together."""

from cvjax.data.dataset import Dataset
from cvjax.data.forms import LABEL_MAPS
from cvjax.data.label_maps.labels import IGNORE, check_values
from cvjax.errors import DataError


def open_segmentation(spec: str, *, seed: int = 0, ignore_label: int | None = None,
                      mask_values: tuple[int, ...] = ()) -> Dataset:
    """Opens the data set that `spec` names, such as `scenes` or `voc:PATH`; `cvjax.data.forms.LABEL_MAPS` has them all.

    The test part is `test`, and `val` is then the validation part. Without `test`, the test part is `val`. Images
    without a label map, or the other way round, are left out and counted in `ignored`.

    Args:
        seed: decides the held-out part if the data set has none; for `scenes`, it decides the scenes.
        ignore_label: label of pixels that do not count, besides 255. For CamVid it is known: 11. Giving 255 confirms
            that pixels of 255 do not count.
        mask_values: the numbers that stand for classes 0, 1, ... in label maps, such as 0 and 255; empty where each
            stands for itself.

    Raises:
        DataError: with what was asked and what is allowed. A label map that is damaged or has labels beyond the classes
            is a record that cannot be read.
    """
    if ignore_label is not None and not 0 <= ignore_label <= IGNORE:
        raise DataError(f"the label to ignore must lie in [0, {IGNORE}], got {ignore_label}")
    check_values(mask_values, ignore_label)
    return LABEL_MAPS.open(spec, seed=seed, ignore_label=ignore_label, mask_values=mask_values)
