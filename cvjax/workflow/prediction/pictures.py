"""Finds the pictures that a person names: files, folders, patterns such as "photos/*.jpg", and the frames of videos."""

import contextlib
import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from cvjax.data.decode import MAX_PIXELS, DecodeError
from cvjax.data.sources.image_files import PICTURES, no_images
from cvjax.errors import ConfigError, DataError
from cvjax.storage import open_file
from cvjax.workflow.frozen.pictures import natural_order

ENDINGS = (*PICTURES, ".gif", ".bmp")
VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")


@dataclasses.dataclass(frozen=True)
class Found:
    """A file to read. place: where its results go within an output folder, by its own name."""

    path: Path
    place: Path

    @property
    def is_video(self) -> bool:
        """Whether it has frames."""
        return self.path.suffix.lower() in VIDEOS


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of a video. number: from 0. rate: frames in a second. picture: uint8 `(H, W, 3)`."""

    number: int
    rate: float
    picture: np.ndarray

    @property
    def seconds(self) -> float:
        """From the start of the video."""
        return self.number / self.rate


def find(given: Sequence[str], *, videos: bool = False) -> tuple[list[Found], str]:
    """The files that are meant, in natural order within each folder, and in words what was left out.

    given: files, folders (with all folders in them) and patterns. A file counts whatever its name ends in; in folders
    those of `ENDINGS` count, and of `VIDEOS` if asked for. ConfigError for a pattern that fits nothing, DataError for a
    folder without pictures, and for two files whose results would be one.
    """
    endings = (*ENDINGS, *VIDEOS) if videos else ENDINGS
    found: list[Found] = []
    left: list[Path] = []
    for one in given:
        for path in _matching(one):
            if not path.is_dir():
                found.append(Found(path, Path(path.name)))
                continue
            files = sorted((file for file in path.rglob("*") if not file.is_dir() and not _hidden(file, path)),
                           key=lambda file: [natural_order(part) for part in file.relative_to(path).parts])
            kept = [file for file in files if file.suffix.lower() in endings]
            if not kept:
                raise no_images(path, ", ".join(file.name for file in files[:3]))
            left += [file for file in files if file.suffix.lower() not in endings]
            found += [Found(file, Path(path.resolve().name) / file.relative_to(path)) for file in kept]
    _check_places(found)
    if not left:
        return found, ""
    return found, (f"{len(left):,} file{'s that are' if len(left) > 1 else ' that is'} no picture"
                   f"{'s' * (len(left) > 1)}, such as {left[0]}")


def frames(path: Path, every: int) -> Iterator[Frame]:
    """Each `every`-th frame of a video; DecodeError if it has none, OSError if it cannot be read."""
    open_file(path).close()  # refuses what is no regular file
    with _quiet():
        video = cv2.VideoCapture(os.fspath(path))
    try:
        width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if width * height > MAX_PIXELS:
            raise DecodeError(f"frames of {width:.0f} x {height:.0f} pixels, the limit is {MAX_PIXELS} in all")
        stated = video.get(cv2.CAP_PROP_FPS)
        rate, number = stated if 0 < stated < 1000 else 25.0, 0
        while video.grab():
            if number % every == 0:
                whole, pixels = video.retrieve()
                if whole:
                    yield Frame(number, rate, np.ascontiguousarray(pixels[:, :, ::-1]))  # OpenCV has BGR
            number += 1
        if not number:
            raise DecodeError("no video that OpenCV can read")
    finally:
        video.release()


def _matching(given: str) -> list[Path]:
    """The one path that is given, or those that a pattern fits."""
    if os.path.lexists(given) or not set("*?") & set(given):
        return [Path(given)]
    paths = [Path(path) for path in glob.glob(given, recursive=True)]
    if not paths:
        raise ConfigError(f"no file fits {given}")
    return sorted(paths, key=lambda path: [natural_order(part) for part in path.parts])


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _check_places(found: Sequence[Found]) -> None:
    seen: dict[str, Path] = {}
    for one in found:
        other = seen.setdefault(str(one.place).lower(), one.path)
        if other is not one.path:
            raise DataError(f"{other} and {one.path} would have their results in one place: give a folder above both")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within this context OpenCV and FFmpeg write no lines of their own; what cannot be read is told by an error."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # as FFmpeg's AV_LOG_QUIET
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
