"""Folders of pictures, video frames and label maps: their order, and how each file is read.

A label map is a PNG of numbers, not colours: a palette image, as those of PASCAL VOC and DAVIS, or a grey one.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from cvjax.data.decode import DecodeError, LazyImage, decode_label_map, to_array
from cvjax.data.picture import picture_of
from cvjax.data.sources.image_files import PICTURES, no_images
from cvjax.errors import DataError

Fit = Callable[[int, int], tuple[int, int]]


def natural_order(path: str | PathLike) -> list[tuple[int, int, str]]:
    """A sorting key by which `frame2` comes before `frame10`."""
    parts = re.split(r"([0-9]+)", Path(path).name)
    numbers = [(0, int(part), part) if place % 2 else (1, 0, part.lower()) for place, part in enumerate(parts)]
    return [part for part in numbers if part[2]] + [(2, 0, Path(path).name)]  # the name itself settles ties


def pictures_in(folder: str | PathLike) -> list[Path]:
    """The image files of a folder, but not of its subfolders, in natural order; DataError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    files = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()
             and not path.name.startswith(".")]
    if not files:
        raise no_images(folder)
    return sorted(files, key=natural_order)


def check_stems(paths: Sequence[Path]) -> None:
    """DataError when two files differ only in folder or ending, because results are named by the files' stems."""
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise DataError(f"{seen[path.stem]} and {path} have the same name: their results would be the same file")
        seen[path.stem] = path


def square(size: int) -> Fit:
    """The whole picture squeezed into a square."""
    return lambda height, width: (size, size)


def short_side(size: int, multiple: int) -> Fit:
    """The short side to `size`, the long side in proportion to the nearest multiple of `multiple`, at least `size`.

    size: itself a multiple of `multiple`.
    """
    def fit(height: int, width: int) -> tuple[int, int]:
        long = round(size * max(height, width) / min(height, width) / multiple) * multiple
        return (long, size) if height > width else (size, long)

    return fit


def short_side_down(size: int, multiple: int) -> Fit:
    """The short side to `size`, the long side in proportion, rounded down to a multiple of `multiple`.

    DINO's `eval_video_segmentation.py` uses 480 and 64. One side of a square frame is rounded down, too, as there.
    """
    def fit(height: int, width: int) -> tuple[int, int]:
        long = size * max(height, width) // min(height, width) // multiple * multiple
        if not long:
            raise DataError(f"a picture of {width}x{height} pixels has a long side of less than {multiple} pixels at a "
                            f"short side of {size}: nothing is left when it is rounded down")
        return (long, size) if height > width else (size, long)

    return fit


def read_picture(path: Path, channels: int, fit: Fit) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture resized (bicubic, antialiased) to `fit(height, width)`, and its own height and width.

    Pixels are uint8 `(h, w, channels)`. DataError in one line, naming the file, when it cannot be read.
    """
    with _named(path), LazyImage(picture_of(path), channels) as lazy:
        size = lazy.height, lazy.width
        height, width = fit(*size)
        return to_array(lazy.load().resize((width, height), Image.Resampling.BICUBIC)), size


def read_label_map(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The labels of a PNG's pixels: uint8 `(H, W)`, 0 background, 255 void.

    size: height and width it must have. DataError in one line, naming the file, for anything that is no label map.
    """
    with _named(path):
        labels = decode_label_map(picture_of(path))
    if size is not None and labels.shape != size:
        raise DataError(f"{path} has {labels.shape[1]}x{labels.shape[0]} pixels, its picture {size[1]}x{size[0]}")
    return labels


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Within this context, the error of an unreadable file becomes a DataError that names it."""
    try:
        yield
    except (OSError, DecodeError) as error:
        raise DataError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None


def label_map_for(picture: Path, folder: Path) -> Path:
    """The PNG in a folder that has a picture's stem; DataError if there is none."""
    path = folder / f"{picture.stem}.png"
    if not path.is_file():
        raise DataError(f"no mask {path} for {picture}")
    return path


def label_colours() -> np.ndarray:
    """A colour for each label, as PASCAL VOC's and DAVIS's palettes have it: uint8 `(256, 3)`.

    The bits of the label, lowest first, go in turn to red, green and blue, whose highest bit is filled first.
    """
    labels, colours = np.arange(256), np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= (labels >> bit & 1) << 7 - bit // 3
    return colours.astype(np.uint8)


def write_label_map(path: Path, labels: np.ndarray) -> None:
    """Write labels uint8 `(H, W)` as a PNG with a palette."""
    image = Image.fromarray(labels)
    image.putpalette(label_colours().tobytes())
    image.save(path, format="PNG")
