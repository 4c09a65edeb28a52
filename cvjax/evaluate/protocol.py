"""The protocol of a number: what two runs must share so that their numbers may stand in one column.

`summary.json` records it under `protocol`, in parts:

    data           fingerprint of records and split, classes, numbers of training and test images
    images         input of the network: side, channels, and how an evaluation resizes and crops
    features       per encoder: pooling, and how many of the last blocks each kind of probe uses
    knn            similarity, temperature, k of `knn/NAME`; `ks`, all k that were tried
    linear_probe   form, classifier, optimizer, grid, augmentation, how the setting was selected; for published
                   forms also epochs and batch size
    few_shot       classifier, draws, and per number of shots (key "shots=5") grid and selection
    retrieval      queries and gallery, similarity, kind of average
    test           what a loss on the test split depends on
    chosen         hyper-parameters that a selection found
    encoders       per name: the run or file of the weights, and the checkpoint
    seed

A metric is named `KIND/ENCODER` or `KIND/ENCODER/SETTING`, such as `knn/dino` or `knn/dino/k=20`. Its protocol consists
of the parts of its kind, its encoder's features, the data and the images. The last three parts above do not belong to
it: the chosen hyper-parameters are a result, and encoder and seed say which network was measured. The encoder's name
does not belong to it either: `knn/dino` and `knn/mae` have the same protocol if they use the same features. Nor does
`ks`, since the other k do not change a number. Experiments that train write plain values beside these parts
(`chosen_by`). All of them except NO_PROTOCOL belong to the protocol of metrics without a part of their own, such as
`test/top1`.
"""

from collections.abc import Mapping
from typing import Any

SHARED = ("data", "images")  # parts that hold for every metric
PROBES = ("knn", "linear_probe", "few_shot", "retrieval")  # kinds of metrics of an encoder
BASELINES = ("random", "pixels")  # names of encoders that stay in the name of a column

# Plain values that say which network was trained. A comparison is between such values, so they may differ.
NO_PROTOCOL = ("seed", "checkpoint", "checkpoints", "pretrained", "scratch", "parameters", "training_images")


def protocol_of(summary: Mapping[str, Any], metric: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The protocol of one metric of a run, flat: `{"knn/k": 20, "features/pool": "avg", "data/classes": 10, ...}`.

    summary: the content of the run's `summary.json`. metric: a key of `summary["metrics"]`. config: the content of its
    `config.json`. It names the data if the protocol has no part `data`, and the experiment that defines a loss if the
    loss has no part of its own. Raises KeyError for a metric that the run does not have.
    """
    summary["metrics"][metric]
    protocol, config = summary["protocol"], config or {}
    kind, name, *settings = [*metric.split("/"), ""]
    found: dict[str, Any] = {}
    if isinstance(protocol.get(kind), Mapping):
        found[kind] = _settled(protocol[kind], settings)
        if name in protocol.get("features", {}):
            found["features"] = _seen_by(kind, protocol["features"][name])
    else:
        found |= {key: value for key, value in protocol.items()
                  if not isinstance(value, Mapping) and key not in NO_PROTOCOL}
        if name == "loss" and "experiment" in config:
            found["experiment"] = config["experiment"]
    found |= {part: protocol[part] for part in SHARED if part in protocol}
    if "data" not in protocol and "data" in config:
        found["data"] = {"name": config["data"]}
    return flat(found)


def column_of(metric: str) -> str:
    """The column of a metric in a table of runs: `knn/k=20` for `knn/dino/k=20` and `knn/mae/k=20`.

    Baselines keep their names.
    """
    kind, *rest = metric.split("/")
    return "/".join([kind, *rest[1:]]) if kind in PROBES and rest and rest[0] not in BASELINES else metric


def differences(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """The keys in which protocols of runs differ, as key -> value as text -> names of the runs that have it.

    protocols: name of a run -> its flat protocol.
    """
    keys = dict.fromkeys(key for protocol in protocols.values() for key in protocol)
    found = {}
    for key in keys:
        values: dict[str, list[str]] = {}
        for run, protocol in protocols.items():
            values.setdefault(str(protocol.get(key, "not recorded")), []).append(run)
        if len(values) > 1:
            found[key] = values
    return found


def _settled(part: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """The protocol of a kind with the settings of one metric (`["k=20"]`)."""
    own = {key: value for key, value in part.items() if "=" not in key and key != "ks"}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if equals:
            own |= {key: int(value) if value.isdecimal() else value} | dict(part.get(setting, {}))
    return own


def _seen_by(kind: str, features: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in features.items() if not key.endswith("_blocks")}
    blocks = features.get(f"{kind}_blocks")
    return own if blocks is None else own | {"blocks": blocks}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree without levels: `{"data": {"classes": 10}}` is `{"data/classes": 10}`."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key: value}
    return found
