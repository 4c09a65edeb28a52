"""Retrieval of images of the same class by frozen encoders, which `experiments.retrieval` measures and draws."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvjax.evaluate.features import extract_features
from cvjax.evaluate.knn import nearest_neighbours
from cvjax.evaluate.probe import Extractor
from cvjax.evaluate.retrieval import class_retrieval
from cvjax.visualize.neighbours import neighbour_panel
from cvjax.workflow.config import config_errors
from cvjax.workflow.frozen.encoder import Encoder
from cvjax.workflow.frozen.probing import extractors_of, shared_protocol
from cvjax.workflow.image_inputs import ImageInputs

KS = (1, 5, 10)
_QUERIES, _NEIGHBOURS = 8, 8  # on the picture


class Part(NamedTuple):
    """Features and labels of the readable images of a split, and their positions in it."""

    features: np.ndarray  # float32 (N, D)
    labels: np.ndarray  # int32 (N,)
    positions: np.ndarray  # int64 (N,)


def retrieve(encoders: Mapping[str, Encoder], inputs: ImageInputs,
             figures: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Mean average precision and precision at 1, 5 and 10 of frozen encoders and of raw pixels, and their protocol.

    Each test image ranks the training set by cosine similarity; images of its class are right. Keys:
    `retrieval/NAME` (mAP) and `retrieval/NAME/p@K`. The features are the last block's, which kNN sees, too
    (`Encoder.knn_width`). Writes `neighbours.png` for the last encoder. Raises ConfigError when no test image has its
    class in the training set. The data set must have labels and a test split
    (`cvjax.workflow.frozen.probing.check_probing`).
    """
    metrics: dict[str, float] = {}
    protocol: dict[str, Any] = {}
    for name, extractor in extractors_of(encoders, inputs).items():
        gallery, queries = _parts(inputs, name, extractor)
        with config_errors():
            found = class_retrieval(queries.features, queries.labels, gallery.features, gallery.labels, ks=KS)
        metrics[f"retrieval/{name}"] = found.mean_average_precision
        metrics |= {f"retrieval/{name}/p@{k}": value for k, value in found.precision_at.items()}
        protocol["retrieval"] = found.protocol
        if name == list(encoders)[-1]:
            _draw(figures / "neighbours.png", inputs, queries, gallery, name)
    features = {name: {"pool": encoder.pool, "retrieval_blocks": 1} if encoder.is_vit else encoder.protocol()
                for name, encoder in encoders.items()} | {"pixels": {"features": "raw pixels"}}
    return metrics, protocol | shared_protocol(inputs) | {"features": features}


def draw_neighbours(path: Path, encoder: Encoder, inputs: ImageInputs) -> None:
    """Test images beside the training images that an encoder finds most like them, as a PNG."""
    gallery, queries = _parts(inputs, encoder.name, extractors_of({encoder.name: encoder}, inputs)[encoder.name])
    _draw(path, inputs, queries, gallery, encoder.name)


def _parts(inputs: ImageInputs, name: str, extractor: Extractor) -> tuple[Part, Part]:
    """The training and the test split, with the features that kNN sees."""
    def part_of(split: str) -> Part:
        positions = []

        def batches():
            for batch in inputs.eval_batches(split):
                positions.append(np.asarray(batch["index"])[np.asarray(batch["mask"])])
                yield batch

        features, labels = extract_features(extractor.function, batches(), desc=f"{name} features, {split} split")
        width = extractor.knn_width or features.shape[1]
        return Part(features[:, -width:], labels, np.concatenate(positions))

    return part_of("train"), part_of("test")


def _draw(path: Path, inputs: ImageInputs, queries: Part, gallery: Part, name: str) -> None:
    """Queries evenly spaced in the test split, each beside the training images most like it."""
    chosen = np.unique(np.linspace(0, len(queries.labels) - 1, _QUERIES).astype(int))
    similarity, found = nearest_neighbours(gallery.features, queries.features[chosen],
                                           min(_NEIGHBOURS, len(gallery.labels)))
    images = inputs.records("test", queries.positions[chosen])[0]
    neighbours = inputs.records("train", gallery.positions[found.ravel()])[0]
    neighbour_panel(path, images / 255, neighbours.reshape(*found.shape, *neighbours.shape[1:]) / 255, similarity,
                    queries.labels[chosen], gallery.labels[found], inputs.dataset.class_names,
                    title=f"nearest by the features of {name}, cosine similarity")
