"""What the class token of a vision transformer looks at, head by head, in someone's pictures or video.

    python -m experiments.attention cat.jpg dog.jpg --checkpoint runs/dino_pretrain/folder
    python -m experiments.attention PHOTOS --model vit_small_patch16_224 --weights dino_deitsmall16_pretrain.pth
    python -m experiments.attention PHOTOS --masks MASKS --checkpoint RUN        # how well its heads fit the objects
    python -m experiments.attention FRAMES --video --checkpoint RUN              # frame2 before frame10

Fig. 1, 3 and 4 of DINO (Caron et al. 2021). The network sees the whole picture: the short side is resized to
--image-size, the long side in proportion, to the nearest multiple of the patches. (DINO's `visualize_attention.py`
squeezes it into a square.) A head's mask is the fewest patches that hold 60 % of its attention. With --masks: the
Jaccard index of each object with the head that fits it best, averaged over objects, then pictures (fig. 4).
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cvjax.experiment.config import ConfigError, command, require
from cvjax.experiment.frozen_vit import FrozenViTConfig


@dataclasses.dataclass(frozen=True)
class Config(FrozenViTConfig):
    """Pictures, and the vision transformer: --checkpoint, or --model with --weights."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, and folders of them."""
    image_size: int | None = None
    """The short side of what the network sees, in pixels; by default the size it was trained on."""
    mass: float = 0.6
    """The share of a head's attention that its mask holds."""
    masks: Path | None = None
    """A folder of true masks, STEM.png for each picture: labels from 1, 0 background, 255 not judged."""
    video: bool = False
    """The pictures are frames: draw one animated GIF instead of a panel for each."""
    frames_per_second: float = 10.0
    """Its speed, 1 to 50."""
    output: Path = Path("attention")
    """The folder to write to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.images:
            raise ConfigError("no pictures given")
        require(0 < self.mass <= 1, "mass", self.mass, "in (0, 1]")
        require(1 <= self.frames_per_second <= 50, "frames_per_second", self.frames_per_second, "from 1 to 50")
        require(self.masks is None or self.masks.is_dir(), "masks", self.masks, "a folder")


def run(config: Config) -> None:
    """Draw, and with --masks judge."""
    import numpy as np

    from cvjax.data import DataError
    from cvjax.experiment.attending import draw_panel, draw_video, judge, look
    from cvjax.experiment.frames import check_stems, label_map_for, pictures_in
    from cvjax.experiment.frozen_vit import check_output, check_sizes, load_vit, write_summary

    paths = [path for given in config.images for path in (pictures_in(given) if given.is_dir() else [given])]
    check_stems(paths)
    check_output(config.output, *(path.parent for path in paths), *([config.masks] if config.masks else []))
    truths = [label_map_for(path, config.masks) for path in paths] if config.masks else [None] * len(paths)
    encoder = load_vit(config)
    size = encoder.image_size if config.image_size is None else config.image_size
    check_sizes(encoder, image_size=size)
    if encoder.model.pool == "avg":
        print("this network averages its patches: nothing reads what its class token gathers in the last block")
    config.output.mkdir(parents=True, exist_ok=True)
    frames, scores = [], {}
    for seen, truth in zip(look(encoder, paths, size, config.mass), truths):
        said = ""
        if truth is not None:
            scores[seen.path.stem] = score = judge(seen, truth)
            said = "  no object" if np.isnan(score) else f"  Jaccard {score:.4f}"
        if config.video:
            frames.append(seen)
            print(f"{seen.path}{said}")
        else:
            draw_panel(config.output / f"{seen.path.stem}.png", seen, config.mass)
            print(f"{seen.path}: drawn to {config.output / seen.path.stem}.png{said}")
    if config.video:
        draw_video(config.output / "attention.gif", frames, config.frames_per_second)
        print(f"drawn to {config.output}/attention.gif")
    if config.masks:
        values = np.array(list(scores.values()))
        if np.isnan(values).all():
            raise DataError(f"--masks {config.masks}: no object in them; objects count from 1, 255 is not judged")
        print(f"mean over {np.isfinite(values).sum()} pictures: Jaccard {np.nanmean(values):.4f}")
        write_summary(config.output, {"jaccard": float(np.nanmean(values))}, {
            "network": encoder.name, "attention": "class token, last block", "mass": config.mass,
            "jaccard": "best head for each object, mean of the objects of a picture, mean of the pictures",
            "image_size": size, "resized": "whole picture, short side; masks judged at their own size",
            "pictures": int(np.isfinite(values).sum())}, pictures=scores)


if __name__ == "__main__":
    command(run, "attention", Config, __doc__)
