"""Regions that may hold an object, by selective search (Uijlings et al. 2013), for R-CNN, SPP-net and Fast R-CNN.

OpenCV's contrib modules segment and merge. That takes seconds for an image, so the boxes are kept on disk, under a name
made of the pixels: a picture is searched once, wherever it comes from.
"""

import contextlib
import ctypes
import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cvjax.data.cache import cache_folder
from cvjax.durable import whole
from cvjax.errors import DataError

MODES = ("fast", "quality")
MAX_PROPOSALS = 2000


def selective_search(image: np.ndarray, mode: str = "fast", *, max_proposals: int = MAX_PROPOSALS,
                     folder: Path | None = None) -> np.ndarray:
    """Boxes of an image, float32 `(N, 4)` with N <= max_proposals, as x1, y1, x2, y2 in its pixels, best first.

    The order is OpenCV's and the paper's: by a region's place in the hierarchy times a random number. The seed is fixed
    here, so that the same image has the same boxes (by glibc's or macOS's `rand`; the seed of the process is set).
    No box occurs twice, and none is empty.

    Args:
        image: uint8 `(H, W, 3)`, RGB.
        mode: `fast` or `quality`, which merges under more colour spaces: about four times the boxes, and slower.
        folder: where boxes are kept; None: `proposals` in the user's cache folder. A file there that cannot be read is
            made anew.

    Raises:
        ValueError: for another shape, type or mode, or `max_proposals` below 1.
        DataError: when OpenCV was built without its contrib modules.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image must be uint8 (H, W, 3), received {image.dtype} of shape {image.shape}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, received {mode!r}")
    if max_proposals < 1:
        raise ValueError(f"max_proposals must be at least 1, received {max_proposals}")
    folder = cache_folder() / "proposals" if folder is None else Path(folder)
    kept = folder / f"{_name(image)}-{mode}.npy"
    boxes = _read(kept)
    if boxes is None:
        boxes = _search(image, mode)
        _write(kept, boxes)
    return boxes[:max_proposals].astype(np.float32)


def search_all(images: Iterable[np.ndarray], mode: str = "fast", *, max_proposals: int = MAX_PROPOSALS,
               folder: Path | None = None, total: int | None = None) -> list[np.ndarray]:
    """`selective_search` of many images, one after the other, with a progress bar; `total` for its length."""
    bar = tqdm(images, total=total, desc=f"selective search ({mode})", unit="image", delay=2, leave=False)
    return [selective_search(image, mode, max_proposals=max_proposals, folder=folder) for image in bar]


def _search(image: np.ndarray, mode: str) -> np.ndarray:
    """All boxes, int32 `(N, 4)`."""
    if not hasattr(cv2, "ximgproc"):
        raise DataError("selective search needs OpenCV's contrib modules: pip install opencv-contrib-python-headless "
                        "in place of opencv-python-headless")
    ctypes.CDLL(None).srand(0)  # ranks are drawn by C's rand
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))  # BGR
    getattr(search, {"fast": "switchToSelectiveSearchFast", "quality": "switchToSelectiveSearchQuality"}[mode])()
    found = np.asarray(search.process(), np.int32).reshape(-1, 4)  # x, y, width, height
    found = found[(found[:, 2:] > 0).all(axis=1)]
    _, first = np.unique(found, axis=0, return_index=True)
    found = found[np.sort(first)]
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)


def _name(image: np.ndarray) -> str:
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def _read(path: Path) -> np.ndarray | None:
    try:
        boxes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    sound = isinstance(boxes, np.ndarray) and boxes.dtype == np.int32 and boxes.ndim == 2 and boxes.shape[1] == 4
    return boxes if sound else None


def _write(path: Path, boxes: np.ndarray) -> None:
    with contextlib.suppress(OSError):  # nowhere to keep it: the next time searches again
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path, synced=False) as partial, open(partial, "wb") as file:  # given a name, numpy appends `.npy`
            np.save(file, boxes)
