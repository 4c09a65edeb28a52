"""Frozen encoders judged on a data set: features over all devices, probes, a table, and the protocol of the numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cvjax.data.crops import EvaluationCrop
from cvjax.errors import ConfigError
from cvjax.evaluate.probe import Extractor, probe_features, table
from cvjax.train.mesh import MeshEngine
from cvjax.workflow.config import on_data_of
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.encoder import Encoder, check_channels, frozen_encoder
from cvjax.workflow.frozen.options import DEFAULT_RUN, FrozenConfig
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.inputs import check_batches


def probe_encoders(encoders: Mapping[str, Encoder], inputs: ImageInputs, *, seed: int,
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


def probe_pretrained(encoder: Encoder, inputs: ImageInputs, data: str, *, seed: int
                     ) -> tuple[dict[str, float], dict[str, Any]]:
    """`probe_encoders` of a network that was just pre-trained, beside random parameters.

    data: the name of the data set. Without classes nothing is probed, a line says so, and both results are empty.
    """
    if inputs.dataset.num_classes <= 1:
        print(f"{data} has {inputs.dataset.num_classes or 'no'} class labels: nothing to probe")
        return {}, {}
    return probe_encoders({"random": encoder.random(seed), encoder.name: encoder}, inputs, seed=seed)


def extractors_of(encoders: Mapping[str, Encoder], inputs: ImageInputs) -> dict[str, Extractor]:
    """Extractors of the features of frozen encoders over all devices, and last that of "pixels"."""
    engine = MeshEngine(jax.local_devices())

    def extractor(apply: Callable[[Any, jax.Array], jax.Array], params: Any, knn_width: int | None) -> Extractor:
        compiled = engine.compile_evaluation(lambda p, batch: apply(p, inputs.preprocess(batch["image"])))
        return Extractor(lambda batch: compiled(params, engine.put({"image": batch["image"]})), knn_width)

    found = {name: extractor(encoder.apply, encoder.variables, encoder.knn_width) for name, encoder in encoders.items()}
    return found | {"pixels": extractor(_pixels, {}, None)}


def check_probing(inputs: ImageInputs, shots: Sequence[int] = ()) -> None:
    """ConfigError unless there are labels, a test split, batches that split over the devices, and enough for `shots`.

    If labels are not known before reading (tfds:), too few examples for the shots are only found later.
    """
    if not inputs.dataset.num_classes or inputs.dataset.test is None:
        raise ConfigError("probing needs class labels and a test split; this data set does not have both")
    check_batches(inputs)
    labels = inputs.dataset.train.labels
    if shots and labels is not None:
        counts = np.bincount(labels[labels >= 0], minlength=inputs.dataset.num_classes)
        if max(shots) > counts.min():
            raise ConfigError(f"--shots {max(shots)}: it must be from 1 to {counts.min()}, the number of training "
                              f"images of class {inputs.dataset.class_names[counts.argmin()]!r}")


def shared_protocol(inputs: ImageInputs) -> dict[str, Any]:
    """The parts `data` and `images` of a protocol (see `cvjax.evaluate.protocol`)."""
    dataset = inputs.dataset
    images: dict[str, Any] = {"size": inputs.image_size, "channels": dataset.channels, "interpolation": "bicubic"}
    how = inputs.preprocessing
    images |= {"mean": list(how.mean), "std": list(how.std)}
    size = f"{inputs.image_size}x{inputs.image_size}"
    if dataset.image_size == (inputs.image_size, inputs.image_size):
        images |= {"resize": f"whole images of {size}", "crop": None}
    else:
        crop = EvaluationCrop(inputs.image_size, dataset.channels, how).resized
        images |= {"resize": f"short side to {crop.resize}, images of {size} as they are", "crop": f"central {size}",
                   "interpolation": crop.interpolation}
    tested = 0 if dataset.test is None else len(dataset.test)
    return {"data": {"fingerprint": dataset.fingerprint, "classes": dataset.num_classes,
                     "training_images": len(dataset.train), "test_images": tested}, "images": images}


def _pixels(_: Any, images: jax.Array) -> jax.Array:
    """The baseline that learns nothing: `(B, H * W * C)`."""
    return images.reshape(images.shape[0], -1)


def run_frozen(config: FrozenConfig, folder: RunFolder, **options: Any) -> None:
    """Probe the encoder and write `summary.json`; options are those of `probe_features`."""
    encoder, source = frozen_encoder(config)
    folder.reads(encoder.origin)
    config = on_data_of(config, encoder.learnt)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder, preprocessing=encoder.preprocessing)
    check_channels(encoder, inputs.dataset.channels)
    check_probing(inputs, shots=options.get("shots", ()))
    print(f"{folder.experiment} of {config.weights or config.checkpoint or DEFAULT_RUN} on {config.data}: "
          f"{len(inputs.dataset.train):,} training images")
    if config.dry_run:
        return
    metrics, protocol = probe_encoders({"random": encoder.random(config.seed), encoder.name: encoder}, inputs,
                                       seed=config.seed, **options)
    folder.finish(metrics, protocol | {"encoders": {encoder.name: source}})
