"""scikit-learn's handwritten digits, which need no download."""

import contextlib
import importlib.metadata
import zipfile

import numpy as np

from cvjax.data.cache import cache_folder
from cvjax.data.dataset import ArraySource, Dataset
from cvjax.durable import whole


def open_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 x 1, in a fixed stratified split of 1,437 and 360.

    They are kept in the user's cache folder, because scikit-learn takes a second to import.
    """
    kept = cache_folder() / f"digits-{importlib.metadata.version('scikit-learn')}.npz"
    try:
        arrays = dict(np.load(kept, allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        arrays = _digits()
        with contextlib.suppress(OSError):  # no home to write to: the next start takes the second again
            kept.parent.mkdir(parents=True, exist_ok=True)
            with whole(kept, synced=False) as partial, open(partial, "wb") as file:  # given a name, it appends `.npz`
                np.savez(file, allow_pickle=False, **arrays)
    train, test = (ArraySource(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    return Dataset(train, test, tuple("0123456789"), 1, usual_statistics=True)


def _digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, target = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[..., None]
    labels = np.asarray(target, np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return {"train_images": images[train], "train_labels": labels[train], "test_images": images[test],
            "test_labels": labels[test]}
