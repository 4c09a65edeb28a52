"""Carry the labels of a video's first frame on by a frozen vision transformer, which was never trained to.

    python -m experiments.propagate FRAMES --mask first.png --checkpoint runs/dino_pretrain/folder
    python -m experiments.propagate FRAMES --truth MASKS --checkpoint RUN        # J, F and their mean besides
    python -m experiments.propagate --davis DAVIS --model vit_small_patch16_224 --weights FILE

DINO's protocol of DAVIS 2017 (Caron et al. 2021, sec. 4.2.2): frames of a short side of 480 pixels, the long side
rounded down to a multiple of 64; patch tokens after the last norm; each patch takes the labels of the 5 patches most
like it within 12 rows and columns, in the first frame and the 7 before it. Deviations: frames are
resized by antialiased bicubic interpolation, DINO's by bilinear; DINO divides red by 0.228, here it is 0.229.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cvjax.experiment.config import ConfigError, command, require
from cvjax.experiment.frozen_vit import FrozenViTConfig


@dataclasses.dataclass(frozen=True)
class Config(FrozenViTConfig):
    """A video with its first frame's labels, and the vision transformer: --checkpoint, or --model with --weights."""

    frames: Annotated[Path | None, tyro.conf.Positional] = None
    """A folder of frames, frame2 before frame10."""
    mask: Path | None = None
    """The labels of the first frame, a palette or grey PNG: 0 background, objects from 1; by default --truth's."""
    truth: Path | None = None
    """A folder of true masks, STEM.png for each frame, to judge by; 255 is not judged."""
    davis: Path | None = None
    """The root of DAVIS 2017 instead: the validation videos at 480p are carried on and judged."""
    image_size: int = 480
    """The short side of what the network sees, in pixels."""
    side_multiple: int = 64
    """Its long side is rounded down to a multiple of this."""
    queue: int = 7
    """Frames remembered besides the first."""
    radius: int = 12
    """Rows and columns of patches between a patch and those it takes labels from."""
    temperature: float = 0.1
    """Of the weights exp(cosine similarity / temperature)."""
    top_k: int = 5
    """Patches that a patch takes labels from."""
    frames_per_second: float = 10.0
    """Of the GIF, 1 to 50."""
    output: Path = Path("propagated")
    """The folder to write to: NAME/STEM.png, NAME.gif and, where there are true masks, summary.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.frames is None) == (self.davis is None):
            raise ConfigError("give a folder of frames, or --davis")
        if self.davis and (self.mask or self.truth):
            raise ConfigError("--davis has the masks: leave --mask and --truth out")
        if self.frames and not (self.mask or self.truth):
            raise ConfigError("give --mask, the labels of the first frame, or --truth, those of all")
        require(self.truth is None or self.truth.is_dir(), "truth", self.truth, "a folder")
        for name, least in (("queue", 0), ("radius", 0), ("top_k", 1)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        require(self.temperature > 0, "temperature", self.temperature, "more than 0")
        require(1 <= self.frames_per_second <= 50, "frames_per_second", self.frames_per_second, "from 1 to 50")


def run(config: Config) -> None:
    """Carry on, draw, and judge where the truth is known."""
    from cvjax.evaluate.mask_scores import davis_summary
    from cvjax.experiment.frozen_vit import check_output, check_sizes, load_vit, token_protocol, write_summary
    from cvjax.experiment.propagation import carrier, davis_videos, judge, video_in, write_video
    from cvjax.experiment.run import print_metrics

    videos = davis_videos(config.davis) if config.davis else [video_in(config.frames, config.mask, config.truth)]
    check_output(config.output)
    for video in videos:
        check_output(config.output / video.name, video.frames[0].parent, video.mask.parent,
                     *(path.parent for path in video.truths[:1]))
    encoder = load_vit(config)
    check_sizes(encoder, image_size=config.image_size, side_multiple=config.side_multiple)
    options = {name: getattr(config, name) for name in ("image_size", "side_multiple", "queue", "radius", "temperature",
                                                        "top_k")}
    carry, scores = carrier(encoder, **options), []
    for video in videos:
        labels = carry(video)
        write_video(config.output, video, labels, config.frames_per_second)
        said = ""
        if video.truths:
            scores.append(judge(video, labels))
            said = f", J&F {davis_summary(scores[-1:])['jf_mean']:.4f}"
        print(f"{video.name}: {len(labels)} frames, {labels.max()} objects{said}; "
              f"written to {config.output / video.name}/ and .gif")
    if scores:
        metrics = davis_summary(scores)
        print_metrics(metrics)
        write_summary(config.output, metrics, {"task": "DAVIS 2017, semi-supervised, first and last frame not judged",
                                               "videos": [video.name for video in videos], **token_protocol(encoder),
                                               **options})


if __name__ == "__main__":
    command(run, "propagate", Config, __doc__)
