"""One door to every data set: `open_dataset("digits" | "folder:PATH" | "tar:PATH" | ...)`."""

from cvjax.data.arrays import open_digits, open_npz
from cvjax.data.blank import open_blank
from cvjax.data.dataset import Dataset
from cvjax.data.errors import DataError
from cvjax.data.folder import open_folder
from cvjax.data.packed import open_packed
from cvjax.data.tar import open_tar
from cvjax.data.tfds_records import open_tfds

FORMS = "digits, folder:PATH, tar:PATH, packed:DIR, tfds:NAME, npz:FILE, blank:RECORDS,SIDE,CLASSES"


def open_dataset(spec: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens the data set that `spec` names: `digits`, `folder:PATH`, `tar:PATH`, `packed:DIR`, `tfds:NAME`, `npz:FILE`
    or `blank:RECORDS,SIDE,CLASSES`.

    Args:
        seed: decides a held-out part where the data set brings none. The digits' split is always the same.
        cache: decode a folder, tar files or a pack once, into memory. The digits and .npz files always are in memory.

    Raises:
        DataError: with what was asked and what is allowed.
    """
    kind, _, place = spec.partition(":")
    if spec == "digits":
        return open_digits()
    if not place or kind not in ("folder", "tar", "packed", "tfds", "npz", "blank"):
        raise DataError(f"unknown data set {spec!r}; allowed: {FORMS}")
    if kind == "folder":
        return open_folder(place, seed=seed, cache=cache)
    if kind == "tar":
        return open_tar(place, seed=seed, cache=cache)
    if kind == "packed":
        return open_packed(place, seed=seed, cache=cache)
    if kind == "npz":
        return open_npz(place, seed=seed)
    if cache:
        raise DataError(f"cache is for folder:PATH, tar:PATH and packed:DIR, got {spec!r}")
    if kind == "blank":
        return open_blank(place)
    return open_tfds(place)
