"""How good are frozen features? kNN and a linear probe of several feature extractors on the same data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from cvjax.evaluate.features import extract_features
from cvjax.evaluate.knn import knn_accuracy
from cvjax.evaluate.linear_probe import linear_probe

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
HEADLINE_K = 10

Split = Callable[[], Iterable[Mapping[str, Any]]]


def probe_features(extractors: Mapping[str, Callable[[Any], jax.Array]], train: Split, test: Split, num_classes: int, *,
                   seed: int, linear: bool = True, knn: bool = True,
                   **linear_options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure each extractor: accuracies in [0, 1], and the protocol they hold for.

    extractors: name -> function from a batch to features `(B, D)`. train, test: functions that give a split's batches
    (see `cvjax.data.pipeline.eval_batches`). Keys of the accuracies: `linear_probe/NAME`, `knn/NAME` (k = 10) and
    `knn/NAME/k=K` for every k that the training set allows.
    """
    metrics: dict[str, float] = {}
    protocol: dict[str, Any] = {"seed": seed}
    for name, extract in extractors.items():
        features = (*extract_features(extract, train(), desc=f"{name} features, training set"),
                    *extract_features(extract, test(), desc=f"{name} features, test set"))
        if linear:
            result = linear_probe(*features, num_classes, seed=seed, **linear_options)
            metrics[f"linear_probe/{name}"] = result.accuracy
            protocol[f"linear_probe/{name}"] = result.protocol
        if knn:
            accuracies = knn_accuracy(*features, num_classes, ks=KS, temperature=TEMPERATURE)
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
