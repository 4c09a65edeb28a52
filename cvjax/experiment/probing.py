"""Frozen encoders judged on a data set: features over all devices, probes, a table, and what the numbers hold for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cvjax.evaluate.probe import Extractor, probe_features, table
from cvjax.experiment.config import ConfigError
from cvjax.experiment.encoder import Encoder
from cvjax.experiment.inputs import Inputs, check_batches, eval_crop
from cvjax.train.mesh import MeshEngine


def probe_encoders(encoders: Mapping[str, Encoder], inputs: Inputs, *, seed: int,
                   **options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Accuracies of frozen encoders and of raw pixels, and their protocol; prints a table.

    options: those of `cvjax.evaluate.probe.probe_features`. Raises ConfigError without labels or a test split.
    """
    check_probing(inputs, shots=options.get("shots", ()))
    extractors = extractors_of(encoders, inputs)
    metrics, protocol = probe_features(
        extractors, lambda: inputs.eval_batches("train"), lambda: inputs.eval_batches("test"),
        inputs.dataset.num_classes, seed=seed, **options)
    print(f"\nFrozen features, test accuracy:\n{table(metrics, extractors)}\n")
    features = {name: encoder.protocol() for name, encoder in encoders.items()} | {"pixels": {"features": "raw pixels"}}
    return metrics, protocol | shared_protocol(inputs) | {"features": features}


def extractors_of(encoders: Mapping[str, Encoder], inputs: Inputs) -> dict[str, Extractor]:
    """Features of frozen encoders over all devices, and at the end those of "pixels"."""
    engine = MeshEngine(jax.local_devices())

    def extractor(apply: Callable[[Any, jax.Array], jax.Array], params: Any, knn_width: int | None) -> Extractor:
        compiled = engine.compile_evaluation(lambda p, batch: apply(p, inputs.preprocess(batch["image"])))
        return Extractor(lambda batch: compiled(params, engine.put({"image": batch["image"]})), knn_width)

    found = {name: extractor(encoder.apply, encoder.variables, encoder.knn_width) for name, encoder in encoders.items()}
    return found | {"pixels": extractor(_pixels, {}, None)}


def check_probing(inputs: Inputs, shots: Sequence[int] = ()) -> None:
    """ConfigError unless there are labels, a test split, batches that split over the devices, and enough for `shots`.

    Where labels are not known before reading (tfds:), too few examples for the shots show later.
    """
    if not inputs.dataset.num_classes or inputs.dataset.test is None:
        raise ConfigError("probing needs labels and a test split, this data set has none")
    check_batches(inputs)
    labels = inputs.dataset.train.labels
    if shots and labels is not None:
        counts = np.bincount(labels[labels >= 0], minlength=inputs.dataset.num_classes)
        if max(shots) > counts.min():
            raise ConfigError(f"--shots {max(shots)}: it must be from 1 to {counts.min()}, the training images of "
                              f"class {inputs.dataset.class_names[counts.argmin()]!r}")


def shared_protocol(inputs: Inputs) -> dict[str, Any]:
    """The parts `data` and `images` of a protocol (see `cvjax.evaluate.protocol`)."""
    dataset = inputs.dataset
    images: dict[str, Any] = {"size": inputs.image_size, "channels": dataset.channels, "interpolation": "bicubic"}
    if dataset.in_memory:
        height, width = dataset.image_size
        images |= {"resize": f"whole images of {height}x{width}", "crop": None}
    else:
        crop = eval_crop(inputs.image_size, dataset.channels)
        images |= {"resize": f"short side to {crop.resize}", "crop": f"central {crop.size}x{crop.size}",
                   "interpolation": crop.interpolation}
    tested = 0 if dataset.test is None else len(dataset.test)
    return {"data": {"fingerprint": dataset.fingerprint, "classes": dataset.num_classes,
                     "training_images": len(dataset.train), "test_images": tested}, "images": images}


def _pixels(_: Any, images: jax.Array) -> jax.Array:
    """The baseline that learns nothing: `(B, H * W * C)`."""
    return images.reshape(images.shape[0], -1)
