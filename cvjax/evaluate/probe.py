"""How good are frozen features? kNN, linear probe and few-shot accuracy of several feature extractors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from cvjax.evaluate.features import extract_features
from cvjax.evaluate.few_shot import few_shot
from cvjax.evaluate.knn import knn_accuracy
from cvjax.evaluate.linear_probe import linear_probe
from cvjax.evaluate.table import aligned
from cvjax.waiting import waiting

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
HEADLINE_K = 10

Split = Callable[[], Iterable[Mapping[str, Any]]]


class Extractor(NamedTuple):
    """A function from a batch to features `(B, D)`. kNN uses the last `knn_width` of them (None: all)."""

    function: Callable[[Any], jax.Array]
    knn_width: int | None = None


def probe_features(extractors: Mapping[str, Extractor], train: Split, test: Split, num_classes: int, *, seed: int,
                   linear: bool = True, knn: bool = True, shots: Sequence[int] = (), draws: int = 5
                   ) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure each extractor: accuracies in [0, 1], and the protocol that they hold for.

    train, test: functions that return the batches of a split (see `cvjax.data.pipeline.eval_batches`).

    Keys of the accuracies: `linear_probe/NAME`, `knn/NAME` (k = 10, or the nearest k that the training set allows),
    `knn/NAME/k=K` for each k, `few_shot/NAME/shots=N`, and `few_shot/NAME/shots=N/deviation`, the standard deviation
    over the draws. The protocol has the parts `knn`, `linear_probe`, `few_shot`, `chosen` and `seed` of
    `cvjax.evaluate.protocol`.
    """
    metrics: dict[str, float] = {}
    parts: dict[str, dict[str, Any]] = {}
    chosen: dict[str, dict[str, Any]] = {}

    def note(kind: str, name: str, said: Mapping[str, Any], setting: str = "") -> None:
        """Record the protocol of one measurement. Extractors differ only in the settings that they chose."""
        what = {key: value for key, value in said.items() if key not in ("seed", "chosen")}
        parts.setdefault(kind, {}).update({setting: what} if setting else what)
        if "chosen" in said:
            chosen.setdefault(kind, {})["/".join(filter(None, (name, setting)))] = said["chosen"]

    for name, (extract, knn_width) in extractors.items():
        train_x, train_y = extract_features(extract, train(), desc=f"{name} features, training set")
        test_x, test_y = extract_features(extract, test(), desc=f"{name} features, test set")
        if linear:
            with waiting(f"linear probe of {name}"):
                result = linear_probe(train_x, train_y, test_x, test_y, num_classes)
            metrics[f"linear_probe/{name}"] = result.accuracy
            note("linear_probe", name, {"form": "sweep", **result.protocol, "augmentation": "none"})
        if knn:
            width = knn_width or train_x.shape[1]
            ks = KS if len(train_x) >= min(KS) else (len(train_x),)
            with waiting(f"kNN of {name}"):
                accuracies = knn_accuracy(train_x[:, -width:], train_y, test_x[:, -width:], test_y, num_classes, ks=ks,
                                          temperature=TEMPERATURE)
            headline = min(accuracies, key=lambda k: abs(k - HEADLINE_K))
            metrics[f"knn/{name}"] = accuracies[headline]
            metrics |= {f"knn/{name}/k={k}": accuracy for k, accuracy in accuracies.items()}
            note("knn", name, {"k": headline, "ks": list(accuracies), "temperature": TEMPERATURE,
                               "similarity": "cosine"})
        for count in shots:
            with waiting(f"few-shot classifiers of {name}"):
                few = few_shot(train_x, train_y, test_x, test_y, num_classes, shots=count, draws=draws, seed=seed)
            metrics |= {f"few_shot/{name}/shots={count}": few.accuracy,
                        f"few_shot/{name}/shots={count}/deviation": few.deviation}
            note("few_shot", name, few.protocol, f"shots={count}")
    return metrics, parts | {"seed": seed} | ({"chosen": chosen} if chosen else {})


def table(metrics: Mapping[str, float], names: Iterable[str]) -> str:
    """The headline numbers as text, in percent, one row per extractor; few-shot accuracies with their deviation."""
    names = list(names)
    first = f"/{names[0]}"
    columns = [key.replace(first, "{}", 1) for key in metrics
               if key in (f"linear_probe{first}", f"knn{first}") or key.startswith(f"few_shot{first}/")]

    def cell(column: str, name: str) -> str:
        key = column.format(f"/{name}")
        spread = f" +- {100 * metrics[f'{key}/deviation']:.2f}" if f"{key}/deviation" in metrics else ""
        return f"{100 * metrics[key]:.2f}{spread} %"

    columns = [column for column in columns if not column.endswith("/deviation")]
    rows = [["features", *(c.format("").replace("few_shot/", "").replace("_", " ") for c in columns)]]
    rows += [[name, *(cell(c, name) for c in columns)] for name in names]
    return aligned(rows)
