"""README's picture, `overview.png`: parts of the pictures that the default runs drew, side by side.

    python -m experiments.reproduce mae_digits dino_digits segment_scenes detect_scenes --store    # draws them anew
    python -m docs.pictures.overview

The parts are chosen by eye: look at the picture after either has changed.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet

DOCS = Path(__file__).parents[1]
HEIGHT = 300  # of a part, in pixels

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

# A title, a picture below docs/results, and boxes of it that stand one below the other, of one width.
PARTS: tuple[tuple[str, str, tuple[Box, ...]], ...] = (
    ("MAE: 60 % hidden, filled in", "mae_digits/reconstruction.png", ((120, 40, 318, 338),)),
    ("DINO: neighbours, no labels", "dino_digits/neighbours.png", ((18, 40, 344, 144), (18, 322, 344, 426),
                                                                   (18, 464, 344, 568))),
    ("FCN: each pixel's class", "segment_scenes/segmentation.png", ((18, 254, 410, 446), (18, 682, 410, 874))),
    ("YOLO: objects", "detect_scenes/detections.png", ((280, 330, 536, 586), (822, 614, 1078, 870))),
)


def main() -> None:
    """Writes the picture."""
    parts = [(title, stacked(Image.open(DOCS / "results" / name).convert("RGB"), boxes))
             for title, name, boxes in PARTS]
    width = sum(part.shape[1] for _, part in parts) + 3 * GAP * (len(parts) - 1) + 2 * MARGIN
    sheet = Sheet(width, HEIGHT + LINE + GAP + 2 * MARGIN, "")
    left = MARGIN
    for title, part in parts:
        sheet.write(title, left, MARGIN, part.shape[1], centred=True)
        sheet.paste(part, left, MARGIN + LINE + GAP)
        left += part.shape[1] + 3 * GAP
    sheet.save(DOCS / "pictures" / "overview.png")


def stacked(picture: Image.Image, boxes: tuple[Box, ...]) -> np.ndarray:
    """Boxes of a picture, one below the other: float32 `(HEIGHT, w, 3)` in [0, 1]."""
    crops = [np.asarray(picture.crop(box)) for box in boxes]
    white = np.full((GAP, crops[0].shape[1], 3), 255, np.uint8)
    column = Image.fromarray(np.concatenate([row for crop in crops for row in (crop, white)][:-1]))
    size = round(column.width * HEIGHT / column.height), HEIGHT
    return np.asarray(column.resize(size, Image.Resampling.LANCZOS), np.float32) / 255


if __name__ == "__main__":
    main()
