"""The training and the validation part of a data set, as a run's configuration asks for them."""

from collections.abc import Mapping
from typing import Any

from cvjax.data.dataset import Dataset
from cvjax.data.held_out import fold_out, hold_out, take_share
from cvjax.data.sources.file_list import add_labelled_files
from cvjax.errors import ConfigError

# The fields that say it, and what they are where nothing is asked for.
PARTS = {"fraction": 1.0, "folds": 0, "fold": None, "validation": 0.0, "pseudo_labels": None}


def training_parts(learnt: Mapping[str, Any], dataset: Dataset) -> Dataset:
    """Take a share of the training images, hold some out for validation, and add pseudo-labelled ones.

    learnt: the configuration of a run as JSON, in which any of `PARTS` may be missing. The same one always gives the
    same parts. ConfigError for pseudo-labels of data without classes.
    """
    config = {name: learnt.get(name, default) for name, default in PARTS.items()}
    if config["fraction"] < 1:
        dataset = take_share(dataset, config["fraction"], seed=0)
    if config["fold"] is not None:
        dataset = fold_out(dataset, config["folds"], config["fold"], seed=0)
    if config["validation"]:
        dataset = hold_out(dataset, config["validation"], seed=0)
    labels = config["pseudo_labels"]
    if labels is not None and dataset.targets is not None:
        raise ConfigError(f"--pseudo-labels {labels}: they are classes, {learnt['data']} has {dataset.targets.kind}; "
                          "leave them out")
    if labels is not None:  # never into the validation part: they are not true labels
        dataset = add_labelled_files(dataset, labels)
    return dataset
