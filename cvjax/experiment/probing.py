"""Frozen encoders judged on a data set: features over all devices, probes, and a table."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from cvjax.evaluate.probe import Extractor, probe_features, table
from cvjax.experiment.config import ConfigError, config_errors
from cvjax.experiment.encoder import Encoder
from cvjax.experiment.inputs import Inputs
from cvjax.train.mesh import MeshEngine, check_batch_size


def probe_encoders(encoders: Mapping[str, Encoder], inputs: Inputs, *, seed: int,
                   **options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Accuracies of frozen encoders and of raw pixels, and their protocol; prints a table.

    options: those of `cvjax.evaluate.probe.probe_features`. Raises ConfigError without labels or a test split.
    """
    if not inputs.dataset.num_classes or inputs.dataset.test is None:
        raise ConfigError("probing needs labels and a test split, this data set has none")
    with config_errors():
        check_batch_size(inputs.batch_size, accumulate=1, devices=jax.device_count())
    engine = MeshEngine()

    def extractor(apply: Callable[[Any, jax.Array], jax.Array], params: Any, knn_width: int | None) -> Extractor:
        compiled = engine.compile_evaluation(lambda p, batch: apply(p, inputs.preprocess(batch["image"])))
        return Extractor(lambda batch: compiled(params, engine.put({"image": batch["image"]})), knn_width)

    extractors = {name: extractor(encoder.apply, encoder.variables, encoder.knn_width)
                  for name, encoder in encoders.items()}
    extractors["pixels"] = extractor(_pixels, {}, None)
    metrics, protocol = probe_features(
        extractors, lambda: inputs.eval_batches("train"), lambda: inputs.eval_batches("test"),
        inputs.dataset.num_classes, seed=seed, **options)
    print(f"\nFrozen features, test accuracy:\n{table(metrics, extractors)}\n")
    seen = {f"features/{name}": encoder.protocol() for name, encoder in encoders.items()}
    return metrics, protocol | seen | {"image_size": inputs.image_size}


def _pixels(_: Any, images: jax.Array) -> jax.Array:
    """The baseline that learns nothing: `(B, H * W * C)`."""
    return images.reshape(images.shape[0], -1)
