"""Pictures with the attention of a vision transformer's class token, which `experiments.attention` draws."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from cvjax.errors import DataError
from cvjax.evaluate.attention_maps import best_head_jaccard, class_attention, mass_mask
from cvjax.visualize.attention import attention_panel
from cvjax.visualize.video import attention_video
from cvjax.workflow.frozen.encoder import Encoder
from cvjax.workflow.frozen.pictures import read_label_map, read_picture, short_side
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.normalization import normalized

_SHORT = 240  # greatest short side of a drawn picture, in pixels: four photos then fit side by side


class Seen(NamedTuple):
    """A picture with the attention of the heads of the last block."""

    path: Path
    size: tuple[int, int]  # the file's height and width
    picture: np.ndarray  # uint8 (H, W, C), as the network saw it
    attention: np.ndarray  # float32 (heads, gh, gw)
    masks: np.ndarray  # bool (heads, gh, gw)


def look(encoder: Encoder, paths: Sequence[Path], image_size: int, mass: float) -> Iterator[Seen]:
    """Each picture in turn, whole, its short side resized to `image_size`; compiles once for each shape.

    Raises DataError for a picture that cannot be read. image_size: a multiple of the patch size.
    """
    fit = short_side(image_size, encoder.model.patch_size)
    attend = jax.jit(lambda variables, images: class_attention(
        encoder.model, variables, normalized(images, encoder.preprocessing)))
    for path in paths:
        picture, size = read_picture(path, encoder.channels, fit)
        attention = np.asarray(attend(encoder.variables, picture[None]))[0]
        yield Seen(path, size, picture, attention, mass_mask(attention, mass))


def draw_attention(path: Path, encoder: Encoder, inputs: ImageInputs, part: str, mass: float = 0.6) -> None:
    """Save some images of a data set with each head's attention and its mask as a PNG; the encoder is a ViT."""
    images = inputs.examples(part, 6)
    attention = np.asarray(jax.jit(lambda variables, images: class_attention(encoder.model, variables, images))(
        encoder.variables, inputs.preprocess(images)))
    attention_panel(path, images / 255, attention, mass_mask(attention, mass),
                    title=f"class token's attention, last block; masks hold {100 * mass:g} %")


def judge(seen: Seen, truth: Path) -> float:
    """The mean over a picture's objects of the best head's Jaccard index, NaN without objects; see
    `cvjax.evaluate.attention_maps.best_head_jaccard`. The truth must have the size of the picture's file."""
    return float(best_head_jaccard(seen.masks[None], read_label_map(truth, seen.size)[None])[0])


def draw_panel(path: Path, seen: Seen, mass: float) -> None:
    """Save the picture, each head's attention and its mask as a PNG."""
    attention_panel(path, _drawable(seen)[None], seen.attention[None], seen.masks[None],
                    title=f"{seen.path.name}: class token's attention, last block; masks hold {100 * mass:g} %")


def draw_video(path: Path, frames: Sequence[Seen], frames_per_second: float) -> None:
    """Save the frames beside the mean attention of the heads as a GIF; DataError when their sizes differ."""
    first = frames[0]
    for frame in frames:
        if frame.size != first.size:
            raise DataError(f"{frame.path} has {frame.size[1]}x{frame.size[0]} pixels, {first.path.name} "
                            f"{first.size[1]}x{first.size[0]}: the frames of a video have one size")
    attention_video(path, np.stack([_drawable(frame) for frame in frames]),
                    {"mean of the heads": np.stack([frame.attention.mean(axis=0) for frame in frames])},
                    frames_per_second=frames_per_second)


def _drawable(seen: Seen) -> np.ndarray:
    """The picture, made smaller if it is large: float `(h, w, C)` in [0, 1]."""
    height, width, channels = seen.picture.shape
    scale = min(1, _SHORT / min(height, width))
    shape = max(1, round(height * scale)), max(1, round(width * scale)), channels
    small = seen.picture if scale == 1 else jax.image.resize(seen.picture.astype(np.float32), shape, "linear")
    return np.clip(np.asarray(small) / 255, 0, 1)
