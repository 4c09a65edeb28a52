"""Label the images of a folder by a trained classifier, where it is sure, for another training to learn from.

    python -m experiments.pseudo_label --checkpoint runs/supervised/folder --images PATH --output labels.csv
    python -m experiments.supervised folder --data folder:PATH --pseudo-labels labels.csv

Lee 2013 (Pseudo-Label); with a threshold as in FixMatch (Sohn et al. 2020, https://arxiv.org/abs/2001.07685).
"""

import dataclasses
from pathlib import Path

from cvjax.experiment.config import ConfigError, command, require


@dataclasses.dataclass(frozen=True)
class Config:
    """Which images, which classifier, and how sure it must be."""

    checkpoint: tuple[Path, ...]
    """Run folders of supervised training; the class probabilities of several are averaged."""
    images: Path
    """A folder of images, searched to any depth; names of its folders mean nothing here."""
    output: Path
    """The CSV file to write: file, label, probability."""
    threshold: float = 0.95
    """The least probability of a label that is kept."""
    batch_size: int = 64
    """Images at once."""

    def __post_init__(self) -> None:
        require(0 <= self.threshold <= 1, "threshold", self.threshold, "in [0, 1]")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.output.parent.is_dir() and not self.output.is_dir(), "output", self.output,
                "a file in a folder that exists")
        if not self.checkpoint:
            raise ConfigError("--checkpoint: give at least one run folder")


def run(config: Config) -> None:
    """Write the file; say how many images of each class were kept, and how many could not be read."""
    import csv
    from collections import Counter

    import jax
    import numpy as np
    from tqdm import tqdm

    from cvjax.data import DataError, DecodeError
    from cvjax.data.folder import image_files
    from cvjax.experiment.classifier import ensemble, load_classifier
    from cvjax.experiment.inputs import eval_crop

    classifiers = [load_classifier(run) for run in config.checkpoint]
    names = classifiers[0].class_names
    crop = eval_crop(max(each.image_size for each in classifiers), classifiers[0].channels)
    compiled, variables = jax.jit(ensemble(classifiers)), [each.variables for each in classifiers]
    files, rows, unreadable = image_files(config.images), [], 0
    blank = np.zeros((crop.size, crop.size, crop.channels), np.uint8)
    for start in tqdm(range(0, len(files), config.batch_size), desc="label", unit="batch"):
        images, readable = [], []
        for file in files[start:start + config.batch_size]:
            try:
                images.append(crop(Path(file).read_bytes()))
                readable.append(file)
            except (OSError, DecodeError):
                unreadable += 1
        padded = np.stack(images + [blank] * (config.batch_size - len(images)))  # one shape, one compilation
        answers = np.asarray(compiled(variables, padded))[:len(images)]
        rows += [(file, names[row.argmax()], float(row.max())) for file, row in zip(readable, answers)]
    if not rows:
        raise DataError(f"none of the {len(files)} images in {config.images} can be read")
    kept = [row for row in rows if row[2] >= config.threshold]
    with open(config.output, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "probability"])
        writer.writerows((file, label, f"{probability:.6f}") for file, label, probability in kept)
    print(f"{len(kept)} of {len(rows)} images got a label of probability {config.threshold} or more"
          f"{f'; {unreadable} could not be read' if unreadable else ''}; written to {config.output}")
    for label, count in Counter(label for _, label, _ in kept).most_common():
        print(f"  {label}: {count}")


if __name__ == "__main__":
    command(run, "pseudo_label", Config, __doc__)
