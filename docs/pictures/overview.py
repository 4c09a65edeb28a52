"""README's picture, `overview.png`: parts of the pictures that the default runs drew, side by side.

    python -m experiments.reproduce mae_digits dino_digits segment_scenes detect_scenes --store    # draws them anew
    python docs/pictures/overview.py

A crop is chosen by eye: look at the picture after either has changed.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet

DOCS = Path(__file__).parents[1]
HEIGHT = 330

# A title, the picture below docs/results, and the part of it: left, top, right, bottom in pixels.
PARTS = (
    ("masked autoencoder: hidden, filled in", "mae_digits/reconstruction.png", (120, 24, 318, 340)),
    ("DINO: nearest neighbours, without labels", "dino_digits/neighbours.png", (0, 24, 330, 340)),
    ("FCN: a class for each pixel", "segment_scenes/segmentation.png", (18, 24, 408, 446)),
    ("YOLO: objects", "detect_scenes/detections.png", (18, 24, 420, 440)),
)


def main() -> None:
    """Writes the picture."""
    parts = [(title, scaled(Image.open(DOCS / "results" / name).convert("RGB").crop(box))) for title, name, box in PARTS]
    width = sum(part.shape[1] for _, part in parts) + 3 * GAP * (len(parts) - 1) + 2 * MARGIN
    sheet = Sheet(width, HEIGHT + LINE + GAP + 2 * MARGIN, "")
    left = MARGIN
    for title, part in parts:
        sheet.write(title, left, MARGIN, part.shape[1], centred=True)
        sheet.paste(part, left, MARGIN + LINE + GAP)
        left += part.shape[1] + 3 * GAP
    sheet.save(DOCS / "pictures" / "overview.png")


def scaled(part: Image.Image) -> np.ndarray:
    """Float32 `(HEIGHT, w, 3)` in [0, 1]."""
    size = round(part.width * HEIGHT / part.height), HEIGHT
    return np.asarray(part.resize(size, Image.Resampling.LANCZOS), np.float32) / 255


if __name__ == "__main__":
    main()
