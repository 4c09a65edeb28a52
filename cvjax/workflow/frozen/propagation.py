"""Carries the labels of a video's first frame through the video by a frozen vision transformer.

`experiments.propagate` runs it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

from cvjax.errors import DataError
from cvjax.evaluate.label_propagation import grid_labels, pixel_labels, propagate, start_memory
from cvjax.evaluate.mask_scores import VOID, VideoScores, video_scores
from cvjax.storage import check_within
from cvjax.text import printable, read_text
from cvjax.workflow.frozen.encoder import Encoder, tokens_of
from cvjax.workflow.frozen.pictures import (
    check_stems,
    label_colours,
    label_map_for,
    pictures_in,
    read_label_map,
    read_picture,
    short_side_down,
    write_label_map,
)

_TALLEST = 240  # greatest short side of an overlay, in pixels: a video of this size is small enough to send


class Video(NamedTuple):
    """Frames in order, the label map of the first one, and the true label maps of all frames if they are known."""

    name: str
    frames: list[Path]
    mask: Path
    truths: list[Path]


def video_in(folder: Path, mask: Path | None, truth: Path | None) -> Video:
    """The video of a folder of frames; DataError for a file that is missing.

    mask: None for the truth of the first frame. truth: a folder of STEM.png for each frame.
    """
    frames = pictures_in(folder)
    check_stems(frames)
    truths = [label_map_for(frame, truth) for frame in frames] if truth else []
    if len(frames) < (3 if truth else 2):
        raise DataError(f"{folder} has {len(frames)} frame{'s' * (len(frames) > 1)}: a video needs 2, and 3 to be "
                        "judged, because the first and the last frame are not judged")
    return Video(folder.resolve().name, frames, mask or truths[0], truths)


def davis_videos(root: Path) -> list[Video]:
    """The validation videos of DAVIS 2017 at 480p."""
    listed = root / "ImageSets" / "2017" / "val.txt"
    if not listed.is_file():
        raise DataError(f"{root} is no DAVIS folder: it has no ImageSets/2017/val.txt")
    names = read_text(listed, names=True).split()
    if not names:
        raise DataError(f"{listed} names no video")
    for name in names:
        try:
            check_within(name)
        except ValueError as error:
            raise DataError(f"{listed}: {error}") from None
    return [video_in(root / "JPEGImages" / "480p" / name, None, root / "Annotations" / "480p" / name) for name in names]


def carrier(encoder: Encoder, *, image_size: int, side_multiple: int, queue: int,
            **options: Any) -> Callable[[Video], np.ndarray]:
    """A function from a video to label maps uint8 `(T, H, W)` of its frames, the first as given (void: background).

    image_size, side_multiple: see `cvjax.workflow.frozen.pictures.short_side_down`; multiples of the patch size. queue
    and options: those of `cvjax.evaluate.label_propagation`. Compiles once for each size of frames.

    Raises DataError for files that cannot be read, frames of several sizes, or a first frame without an object.
    """
    tokens, fit = tokens_of(encoder), short_side_down(image_size, side_multiple)
    patch, prefix = encoder.model.patch_size, encoder.model.prefix

    def carry(video: Video) -> np.ndarray:
        _, size = read_picture(video.frames[0], encoder.channels, fit)
        first = first_labels(video.mask, size)
        labels, memory = [first], None
        for path in video.frames:
            picture, its_size = read_picture(path, encoder.channels, fit)
            if its_size != size:
                raise DataError(f"{path} has {its_size[1]}x{its_size[0]} pixels, {video.frames[0].name} "
                                f"{size[1]}x{size[0]}: the frames of a video have one size")
            rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
            features = tokens(encoder.variables, jnp.asarray(picture)[None])[0, prefix:].reshape(rows, columns, -1)
            if memory is None:
                given = grid_labels(first, rows, columns)
                if lost := sorted(set(np.unique(first)) - set(np.unique(given))):
                    print(f"{printable(str(video.mask))}: label {', '.join(map(str, lost))} covers the middle of no "
                          f"patch of {patch} pixels and is lost; a larger --image-size has finer patches")
                memory = start_memory(features, np.eye(int(first.max()) + 1)[given], queue=queue)
                continue
            memory, shares = propagate(memory, features, **options)
            labels.append(np.asarray(pixel_labels(shares, patch_size=patch, height=size[0], width=size[1]), np.uint8))
        return np.stack(labels)

    return carry


def first_labels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The label map of a first frame, with 0 in place of void: uint8 `(H, W)`. DataError if it has no object."""
    given = read_label_map(path, size)
    labels = np.where(given == VOID, 0, given).astype(np.uint8)
    if not labels.any():
        hint = f"; it has {VOID}, which marks pixels without a label" * bool(given.any())
        raise DataError(f"{path} has no object: objects count from 1{hint}")
    return labels


def judge(video: Video, predicted: np.ndarray) -> VideoScores:
    """J and F of a video whose truth is known; DataError if the truth does not fit the prediction."""
    truth = np.stack([read_label_map(path, predicted.shape[1:]) for path in video.truths])
    try:
        return video_scores(predicted, truth)
    except ValueError as error:
        raise DataError(f"{video.name}: {error}") from None


def write_video(folder: Path, video: Video, labels: np.ndarray, frames_per_second: float) -> None:
    """Write `FOLDER/NAME/STEM.png`, a label map for each frame, and `FOLDER/NAME.gif`, the frames in their colours."""
    (folder / video.name).mkdir(parents=True, exist_ok=True)
    for path, each in zip(video.frames, labels):
        write_label_map(folder / video.name / f"{path.stem}.png", each)
    images = [coloured(path, each) for path, each in zip(video.frames, labels)]
    # Each frame has its own palette. Dither is left out, because its grain would crawl from frame to frame.
    images = [Image.fromarray(image).quantize(256, dither=Image.Dither.NONE) for image in images]
    images[0].save(folder / f"{video.name}.gif", format="GIF", save_all=True, append_images=images[1:], loop=0,
                   optimize=False, duration=10 * round(100 / frames_per_second))


def coloured(path: Path, labels: np.ndarray) -> np.ndarray:
    """A frame with its objects half in their colours and outlined in white: uint8 `(h, w, 3)`, with a short side of at
    most 240 pixels."""
    height, width = labels.shape
    scale = min(1, _TALLEST / min(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    frame, _ = read_picture(path, 3, lambda *_: (height, width))
    small = np.array(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    edge = np.zeros(small.shape, bool)
    edge[:, :-1] |= small[:, :-1] != small[:, 1:]
    edge[:-1] |= small[:-1] != small[1:]
    half = (frame.astype(np.int64) + label_colours()[small]) // 2
    picture = np.where((small > 0)[..., None], half, frame)
    return np.where(edge[..., None], 255, picture).astype(np.uint8)
