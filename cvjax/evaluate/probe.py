"""How good are frozen features? kNN and a linear probe of several feature extractors on the same data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from cvjax.evaluate.features import extract_features
from cvjax.evaluate.knn import knn_accuracy
from cvjax.evaluate.linear_probe import linear_probe

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
HEADLINE_K = 10

Split = Callable[[], Iterable[Mapping[str, Any]]]


class Extractor(NamedTuple):
    """Features of a batch `(B, D)`; a linear probe sees all of them, kNN the last `knn_width` (None: all)."""

    function: Callable[[Any], jax.Array]
    knn_width: int | None = None


def probe_features(extractors: Mapping[str, Extractor], train: Split, test: Split, num_classes: int, *, seed: int,
                   linear: bool = True, knn: bool = True,
                   **linear_options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure each extractor: accuracies in [0, 1], and the protocol they hold for.

    train, test: functions that give a split's batches
    (see `cvjax.data.pipeline.eval_batches`). Keys of the accuracies: `linear_probe/NAME`, `knn/NAME` (k = 10) and
    `knn/NAME/k=K` for every k that the training set allows.
    """
    metrics: dict[str, float] = {}
    protocol: dict[str, Any] = {"seed": seed}
    for name, (extract, knn_width) in extractors.items():
        train_x, train_y = extract_features(extract, train(), desc=f"{name} features, training set")
        test_x, test_y = extract_features(extract, test(), desc=f"{name} features, test set")
        if linear:
            result = linear_probe(train_x, train_y, test_x, test_y, num_classes, seed=seed, **linear_options)
            metrics[f"linear_probe/{name}"] = result.accuracy
            protocol[f"linear_probe/{name}"] = result.protocol
        if knn:
            width = knn_width or train_x.shape[1]
            accuracies = knn_accuracy(train_x[:, -width:], train_y, test_x[:, -width:], test_y, num_classes, ks=KS,
                                      temperature=TEMPERATURE)
            metrics[f"knn/{name}"] = accuracies[min(accuracies, key=lambda k: abs(k - HEADLINE_K))]
            metrics |= {f"knn/{name}/k={k}": accuracy for k, accuracy in accuracies.items()}
            protocol["knn"] = {"k": HEADLINE_K, "temperature": TEMPERATURE, "similarity": "cosine"}
    return metrics, protocol


def table(metrics: Mapping[str, float], names: Iterable[str]) -> str:
    """The headline numbers as text, one row per extractor, in percent."""
    columns = [c for c in ("linear_probe", "knn") if any(key.startswith(f"{c}/") for key in metrics)]
    rows = [["features", *(c.replace("_", " ") for c in columns)]]
    rows += [[name, *(f"{100 * metrics[f'{c}/{name}']:.2f} %" for c in columns)] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
