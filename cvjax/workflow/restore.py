"""Describes a run's network in its checkpoints, and reads a run back: `load_run("runs/supervised/digits")`.

A checkpoint describes its network completely: the name and fields for `create_model`, and the place of the network's
variables. So a run can be read without knowing which experiment wrote it. `record_of` writes what `load_run` reads.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import CheckpointError, ConfigError
from cvjax.models import create_model, list_models
from cvjax.models.described import described, rebuilt
from cvjax.models.image_model import ImageModel
from cvjax.models.registry import name_of
from cvjax.storage import is_address
from cvjax.tasks.lora import merged
from cvjax.train.checkpoint import describe, restore_weights
from cvjax.workflow.config import as_json
from cvjax.workflow.far_folder import local_copy
from cvjax.workflow.origin import RunOrigin, find_checkpoint, origin_of_run
from cvjax.workflow.run_files import SUMMARY

Kind = Literal["classifier", "multi_label_classifier", "regressor", "encoder", "segmenter", "detector"]
SUPERVISED: tuple[Kind, ...] = ("classifier", "multi_label_classifier", "regressor")  # image models with a head
_ARTICLE = {"classifier": "a classifier", "multi_label_classifier": "a multi-label classifier",
            "regressor": "a regressor", "encoder": "an encoder", "segmenter": "a segmenter", "detector": "a detector"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run read back.

    kind: what its network is for. variables: the network's, averaged where the run kept averages.
    image_size: height and width of the images that it is judged on; of a segmenter, of its training crops.
    channels: those of its images.
    preprocessing: what its images become before the network sees them.
    class_names: what its outputs stand for: classes, labels, or numbers that are predicted; () for an encoder. facts:
    more about networks of this kind, as JSON. config: the fields of its training. origin: the checkpoint.
    """

    path: Path
    experiment: str
    kind: Kind
    model: ImageModel
    variables: Any
    image_size: tuple[int, int]
    channels: int
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    origin: RunOrigin

    @property
    def network_name(self) -> str:
        """The registered name that its configuration has for its network, or the closest one."""
        given = str(self.config.get("model"))
        known = given in list_models() and type(create_model(given)) is type(self.model)
        return given if known else name_of(self.model)

    def require_trained(self) -> "Run":
        """This run; ConfigError if it did not train the network that it holds."""
        if self.experiment == "linear_probe":
            raise ConfigError(f"{self.path} is a run of linear_probe, which judges a network that it did not train "
                              "and has layers of its own that are no part of it: give what its summary.json names as "
                              "sources")
        return self

    def require(self, *kinds: Kind) -> "Run":
        """This run; ConfigError if its network is for something else."""
        if self.kind not in kinds:
            raise ConfigError(f"{self.path} is a run of {self.experiment} and holds {_ARTICLE[self.kind]}; this takes "
                              f"{' or '.join(_ARTICLE[kind] for kind in kinds)}")
        return self


def record_of(experiment: str, config: Any, kind: Kind, model: ImageModel, *, image_size: tuple[int, int],
              channels: int, preprocessing: Preprocessing, class_names: Sequence[str] = (), validated: bool,
              root: Sequence[str] = (), part: str = "", lora_alpha: float | None = None, **facts: Any
              ) -> dict[str, Any]:
    """The description of a run that each of its checkpoints holds, as JSON.

    config: of the training: a dataclass, or what one has been written as.
    model: the network that is read back, which may be a part of the trained one. root: the path to its variables within
    all evaluated variables. part: its subtree in each collection there, "" for the whole. lora_alpha: of the low-rank
    updates that are to be merged with its kernels (`cvjax.tasks.lora`); None where there are none.
    validated: whether the test numbers are those of the checkpoint that was best on a validation part.
    """
    updates = {} if lora_alpha is None else {"lora_alpha": lora_alpha}
    return {"experiment": experiment, "config": dict(config) if isinstance(config, Mapping) else as_json(config),
            "kind": kind, "network": described(model),
            "root": list(root), "part": part, "image_size": list(image_size), "channels": channels,
            "preprocessing": preprocessing.as_json(), "class_names": list(class_names), "validated": validated,
            "facts": facts, **updates}


def load_run(path: str | Path, step: str | int = "judged") -> Run:
    """The network of a run, whose folder may be at an address.

    step: "judged" (the checkpoint that the run's own test numbers judge), "best", "latest" or a number.
    Prints it if the run is unfinished. Raises ConfigError for a folder without checkpoints, and CheckpointError for a
    missing or damaged checkpoint or one that another version wrote.
    """
    named, path = path, local_copy(str(path)) if is_address(path) else Path(path)
    folder = path / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"{named}: no checkpoints in it; give the folder of a run")
    saved = find_checkpoint(path, step)
    origin = origin_of_run(str(named), saved, step)
    if not (path / SUMMARY).exists() and describe(folder).step != origin.total_steps:
        print(f"{named} is unfinished: step {saved.step}{f' of {origin.total_steps}' if origin.total_steps else ''}",
              file=sys.stderr)
    weights, meta = restore_weights(folder, saved.step)
    try:
        model = _rebuilt(meta["network"])
        variables = network_variables(evaluated_variables(weights), meta)
        height, width = meta["image_size"]
        return Run(path, meta["experiment"], meta["kind"], model, variables, (height, width), meta["channels"],
                   Preprocessing.from_json(meta["preprocessing"]), tuple(meta["class_names"]), meta["facts"],
                   meta["config"], origin)
    except KeyError as error:
        raise CheckpointError(f"{path}: another version wrote its checkpoints, which lack {error}") from None


def evaluated_variables(weights: Mapping[str, Any]) -> Any:
    """The variables of a checkpoint (see `restore_weights`) that an evaluation takes: the averages if there are any."""
    return weights["ema"] or {"params": weights["params"], **weights["model_state"]}


def network_variables(variables: Any, meta: Mapping[str, Any]) -> Any:
    """The network's variables among all evaluated ones, as its run's description says (see `record_of`)."""
    for name in meta["root"]:
        variables = variables[name]
    if part := meta["part"]:
        variables = {collection: tree[part] for collection, tree in variables.items() if part in tree}
    return merged(variables, meta["lora_alpha"]) if "lora_alpha" in meta else variables


def _rebuilt(description: Mapping[str, Any]) -> ImageModel:
    try:
        return rebuilt(description)
    except ValueError as error:
        raise CheckpointError(f"another version wrote this checkpoint: {error}") from None
