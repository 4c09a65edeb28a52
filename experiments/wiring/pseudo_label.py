"""The work of `python -m experiments.pseudo_label`; its options are in experiments/pseudo_label.py."""

import csv
from collections import Counter

import jax
import numpy as np
from tqdm import tqdm

from cvjax.data.crops import EvaluationCrop
from cvjax.data.decode import DecodeError
from cvjax.data.picture import picture_of
from cvjax.data.sources.folder import image_files
from cvjax.errors import DataError
from cvjax.text import open_text, printable
from cvjax.workflow.classification.model import ensemble, load_classifier
from experiments.pseudo_label import Config


def run(config: Config) -> None:
    """Write the file; print how many images of each class were kept, and how many could not be read."""
    classifiers = [load_classifier(run, kinds=("classifier",)) for run in config.checkpoint]
    names = classifiers[0].goal.names
    crop = EvaluationCrop(max(each.image_size for each in classifiers), classifiers[0].channels,
                          classifiers[0].preprocessing)
    compiled, variables = jax.jit(ensemble(classifiers)), [each.variables for each in classifiers]
    files, rows, unreadable = image_files(config.images), [], 0
    blank = np.zeros((crop.size, crop.size, crop.channels), np.uint8)
    for start in tqdm(range(0, len(files), config.batch_size), desc="label", unit="batch"):
        images, readable = [], []
        for file in files[start:start + config.batch_size]:
            try:
                images.append(crop(picture_of(file)))
                readable.append(file)
            except (OSError, DecodeError):
                unreadable += 1
        padded = np.stack(images + [blank] * (config.batch_size - len(images)))  # one shape, one compilation
        answers = np.asarray(compiled(variables, padded))[:len(images)]
        rows += [(file, names[row.argmax()], float(row.max())) for file, row in zip(readable, answers)]
    if not rows:
        raise DataError(f"none of the {len(files)} images in {config.images} can be read")
    kept = [row for row in rows if row[2] >= config.threshold]
    with open_text(config.output, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "probability"])
        writer.writerows((file, label, f"{probability:.6f}") for file, label, probability in kept)
    print(f"{len(kept)} of {len(rows)} images got a label of probability {config.threshold} or more"
          f"{f'; {unreadable} could not be read' if unreadable else ''}; written to {config.output}")
    for label, count in Counter(label for _, label, _ in kept).most_common():
        print(f"  {printable(label)}: {count}")
