"""Which protocol does a number hold for? What two runs must share for their numbers to stand in one column.

`summary.json` says it under `protocol`, part by part:

    data           fingerprint of records and split, classes, how many training and test images
    images         what the network sees: side, channels, what evaluation resizes to and crops
    features       by encoder: pool, and of how many last blocks each kind of probe sees it
    knn            similarity, temperature, k of `knn/NAME`; `ks`, all that were tried
    linear_probe   form, classifier, optimizer, grid, epochs, batch size, augmentation, how the setting was selected
    few_shot       classifier, draws, and per number of shots (key "shots=5") grid and selection
    retrieval      who is asked for whom, by which similarity, averaged how
    test           what a loss on the test split depends on
    chosen         hyper-parameters that a selection found
    encoders       by name: the run or file that the weights are from, and which of the checkpoints
    seed

A metric is named `KIND/ENCODER` or `KIND/ENCODER/SETTING`, such as `knn/dino` or `knn/dino/k=20`. Its protocol is that
of its kind, its encoder's features, the data and the images. The last three parts above belong to no protocol: what was
chosen is a result, and the seed and the encoder say whose number it is. So does the encoder's name: `knn/dino` and
`knn/mae` have the same protocol where they are of the same features. Nor does `ks`: a k by the side changes no number.
Experiments that train write plain values beside these parts (`chosen_by`); all of them but NO_PROTOCOL belong to the
protocol of the metrics without a part of their own, such as `test/top1`.
"""

from collections.abc import Mapping
from typing import Any

SHARED = ("data", "images")  # parts that hold for every metric
PROBES = ("knn", "linear_probe", "few_shot", "retrieval")  # kinds of metrics of an encoder
BASELINES = ("random", "pixels")  # names that say what is measured, not whose it is

# Plain values that say what was trained or which run it is: comparing them is the point.
NO_PROTOCOL = ("seed", "checkpoint", "checkpoints", "pretrained", "scratch", "parameters", "training_images")


def protocol_of(summary: Mapping[str, Any], metric: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The protocol of one metric of a run, flat: `{"knn/k": 20, "features/pool": "avg", "data/classes": 10, ...}`.

    summary: the content of the run's `summary.json`. metric: a key of `summary["metrics"]`.
    config: that of its `config.json`; where the protocol has no part `data` it names the data, and where a loss has no
    part of its own it names the experiment that defines the loss.
    Raises KeyError for a metric that the run does not have.
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
    return _flat(found)


def column_of(metric: str) -> str:
    """The column of a table of runs that a metric belongs to: `knn/dino/k=20` and `knn/mae/k=20` to `knn/k=20`.

    Baselines keep their names.
    """
    kind, *rest = metric.split("/")
    return "/".join([kind, *rest[1:]]) if kind in PROBES and rest and rest[0] not in BASELINES else metric


def differences(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Keys in which protocols of runs (name -> flat protocol) differ: key -> value as text -> names of its runs."""
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
    """A kind's protocol at the settings of one metric (`["k=20"]`)."""
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


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
