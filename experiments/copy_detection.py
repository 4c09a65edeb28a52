"""Does a frozen vision transformer find the original of a distorted copy among other pictures?

    python -m experiments.copy_detection --originals ORIGINALS --copies COPIES --checkpoint runs/dino_pretrain/folder
    python -m experiments.copy_detection --originals original --copies strong --prefix 4 --distractors PATH \\
        --whitening PATH --image-size 320 --model vit_base_patch8_224 --weights FILE            # Copydays, as DINO

A copy's name begins with its original's: `cat_blurred.jpg` is a copy of `cat.png`. The protocol is Copydays' as DINO
has it (Caron et al. 2021, sec. 4.2.1): see `cvjax.evaluate.copy_detection`. Pictures are squeezed into a square.
"""

import dataclasses
from pathlib import Path

from cvjax.experiment.config import command, require
from cvjax.experiment.frozen_vit import FrozenViTConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(FrozenViTConfig):
    """Folders of pictures, and the vision transformer: --checkpoint, or --model with --weights."""

    originals: Path
    """A folder of pictures."""
    copies: Path
    """A folder of their copies."""
    prefix: int | None = None
    """Originals of a copy are those with the same first so many characters of the name; Copydays: 4."""
    distractors: Path | None = None
    """A folder of other pictures that stand beside the originals."""
    whitening: Path | None = None
    """A folder of yet others, whose statistics whiten the descriptors; best of thousands."""
    image_size: int | None = None
    """Side of the square that the network sees, in pixels; by default the size it was trained on. DINO: 320."""
    batch_size: int = 16
    """Pictures at once."""
    output: Path = Path("copy_detection")
    """The folder to write summary.json to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.prefix is None or self.prefix >= 1, "prefix", self.prefix, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")


def run(config: Config) -> None:
    """Describe, rank, report; copies that are not found first are named."""
    from cvjax.evaluate.copy_detection import copy_detection, fit_whitening
    from cvjax.experiment.config import config_errors
    from cvjax.experiment.copies import describe, originals_of
    from cvjax.experiment.frames import pictures_in
    from cvjax.experiment.frozen_vit import check_output, check_sizes, load_vit, token_protocol, write_summary

    check_output(config.output)
    originals, copies = pictures_in(config.originals), pictures_in(config.copies)
    distractors, others = (pictures_in(folder) if folder else [] for folder in (config.distractors, config.whitening))
    positives = originals_of(copies, originals, config.prefix)
    encoder = load_vit(config)
    size = encoder.image_size if config.image_size is None else config.image_size
    check_sizes(encoder, image_size=size)
    database, queries, whitening = (describe(encoder, paths, size, config.batch_size, what) if paths else None
                                    for paths, what in ((originals + distractors, "originals and distractors"),
                                                        (copies, "copies"), (others, "whitening")))
    if whitening is not None:
        with config_errors():
            whiten = fit_whitening(whitening)
        database, queries = whiten(database), whiten(queries)
    found = copy_detection(queries, database, positives)
    for path, score in zip(copies, found.average_precision):
        if score < 1:
            print(f"{path.name}: average precision {score:.3f}")
    print(f"mAP {found.mean_average_precision:.4f} of {len(copies)} copies among {len(originals)} originals and "
          f"{len(distractors)} distractors")
    config.output.mkdir(parents=True, exist_ok=True)
    write_summary(config.output, {"map": found.mean_average_precision}, {
        **found.protocol, **token_protocol(encoder), "descriptor": "class token beside the generalised mean (p = 4) of "
        "the patch tokens", "image_size": size, "resized": "squeezed into a square", "distractors": len(distractors),
        "whitening": len(others), "prefix": config.prefix})


if __name__ == "__main__":
    command(run, "copy_detection", Config, __doc__)
