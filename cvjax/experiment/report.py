"""What is said of a classifier once it is trained: numbers, tables and pictures of its test split."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cvjax.data import Dataset
from cvjax.evaluate.attention_rollout import attention_rollout
from cvjax.evaluate.calibration import (
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from cvjax.evaluate.confusion import class_table, confusion_matrix
from cvjax.evaluate.features import extract_features
from cvjax.evaluate.saliency import grad_cam, occlusion_map
from cvjax.experiment.classifier import Classifier, ensemble
from cvjax.experiment.config import ConfigError
from cvjax.experiment.inputs import Inputs, preprocess
from cvjax.layers.feature_maps import feature_maps
from cvjax.losses.classification import top_k_correct
from cvjax.train.mesh import MeshEngine
from cvjax.visualize.confusion import plot_confusion
from cvjax.visualize.heatmaps import heatmap_panel
from cvjax.visualize.kernels import kernel_panel
from cvjax.visualize.mistakes import mistake_panel
from cvjax.visualize.reliability import plot_reliability

_EXPLAINED = 8  # examples in the picture of explanations


def check_same_classes(classifier: Classifier, dataset: Dataset, data: str) -> None:
    """ConfigError unless a data set has the classes and the channels that a classifier knows."""
    if classifier.class_names != dataset.class_names:
        raise ConfigError(f"the checkpoint knows {len(classifier.class_names)} classes "
                          f"({', '.join(classifier.class_names[:3])}, ...), {data} has {len(dataset.class_names)} "
                          f"({', '.join(dataset.class_names[:3])}, ...): they must be the same, in the same order")
    if classifier.channels != dataset.channels:
        raise ConfigError(f"the checkpoint takes images of {classifier.channels} channels, {data} has "
                          f"{dataset.channels}")


def predict(classifiers: Sequence[Classifier], inputs: Inputs, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean class probabilities float32 `(N, K)` of the readable records of a part, their labels and their positions."""
    engine = MeshEngine(jax.local_devices())
    probabilities = ensemble(classifiers)
    variables = [classifier.variables for classifier in classifiers]
    compiled = engine.compile_evaluation(lambda variables, batch: probabilities(variables, batch["image"]))
    positions = []

    def batches() -> Iterator[Mapping[str, np.ndarray]]:
        for batch in inputs.eval_batches(part):
            positions.append(batch["index"][batch["mask"]])
            yield batch

    answers, labels = extract_features(lambda batch: compiled(variables, engine.put({"image": batch["image"]})),
                                       batches(), desc=f"{part} predictions")
    return answers, labels, np.concatenate(positions)


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1`, `top5` (from six classes on), `nll` and `ece` of class probabilities `(N, K)`."""
    found = {f"top{k}": float(np.asarray(top_k_correct(probabilities, labels, k)).mean(dtype=np.float64))
             for k in (1, 5) if k < probabilities.shape[1]}
    return found | {"nll": negative_log_likelihood(probabilities, labels),
                    "ece": expected_calibration_error(probabilities, labels)}


def report(classifiers: Sequence[Classifier], inputs: Inputs, folder: Path, part: str = "test") -> dict[str, float]:
    """Judge classifiers, averaged, on a part of a data set; metrics by name.

    Writes into `folder`: `classes.txt` (precision, recall and F1 of each class), `confusion.png`, `reliability.png`,
    `mistakes.png`; of a single classifier also `explanations.png` and `kernels.png` or `templates.png`. The last four
    need images that can be looked at, of one channel or three.
    """
    names = classifiers[0].class_names
    probabilities, labels, positions = predict(classifiers, inputs, part)
    answers = probabilities.argmax(axis=1)
    matrix = confusion_matrix(labels, answers, len(names))
    (folder / "classes.txt").write_text(class_table(matrix, names) + "\n")
    plot_confusion(folder / "confusion.png", matrix, names, title=f"{part} split: true class by row")
    plot_reliability(folder / "reliability.png", *reliability(probabilities, labels), title=f"{part} split")
    if inputs.dataset.channels not in (1, 3):
        return scores(probabilities, labels)
    _draw_mistakes(folder / "mistakes.png", inputs, part, probabilities, labels, positions, names)
    if len(classifiers) == 1:
        _explain(folder / "explanations.png", classifiers[0], inputs, part)
        _draw_kernels(folder, classifiers[0])
    return scores(probabilities, labels)


def _draw_mistakes(path: Path, inputs: Inputs, part: str, probabilities: np.ndarray, labels: np.ndarray,
                   positions: np.ndarray, names: Sequence[str], most: int = 24) -> None:
    answers, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    pictures = inputs.records(part, positions[wrong])[0] / 255
    mistake_panel(path, pictures, labels[wrong], answers[wrong], sure[wrong], names, most=most,
                  total=int((answers != labels).sum()), title=f"{part} split, {len(labels):,} images: the surest first")


def _explain(path: Path, classifier: Classifier, inputs: Inputs, part: str) -> None:
    """Grad-CAM of the last map and occlusion for a CNN, attention rollout for a ViT, on examples of the data."""
    source = getattr(inputs.dataset, part)
    chosen = np.unique(np.linspace(0, len(source) - 1, _EXPLAINED).astype(int))
    raw, labels = inputs.records(part, chosen)
    images = preprocess(raw, classifier.image_size)
    logits = classifier.model.apply(classifier.variables, images, train=False)
    sure, answers = np.asarray(jax.nn.softmax(logits)), np.asarray(logits.argmax(axis=1))
    heat = explanations(classifier.model, classifier.variables, images, answers)
    if heat:
        heatmap_panel(path, np.asarray(inputs.displayable(images)), heat, labels, answers, sure.max(axis=1),
                      classifier.class_names, title="what the answer rests on")


def explanations(model: nn.Module, variables: Any, images: jax.Array, classes: Any) -> dict[str, np.ndarray]:
    """Heading -> heat `(B, h, w)` of normalised images: attention rollout of a ViT; Grad-CAM and occlusion of models
    with spatial maps; nothing for others."""
    if hasattr(model, "prefix"):
        return {"attention rollout": np.asarray(attention_rollout(model, variables, images))}
    maps = feature_maps(model, variables, images)  # a linear classifier and an MLP name none
    spatial = [name for name, x in maps.items() if x.ndim == 4 and min(x.shape[1:3]) > 1]
    if not spatial:
        return {}
    window = max(images.shape[1] // 4, 1)
    covered: Callable[..., Any] = jax.jit(lambda v, x, c: occlusion_map(model, v, x, c, window, max(window // 2, 1)))
    return {f"Grad-CAM of {spatial[-1]}": np.asarray(grad_cam(model, variables, images, classes, spatial[-1])),
            f"occlusion by {window} pixels": np.asarray(covered(variables, images, classes))}


def _draw_kernels(folder: Path, classifier: Classifier) -> None:
    """The first convolution's filters, or the templates of a linear classifier; nothing where neither can be shown."""
    kernels = [leaf for leaf in jax.tree.leaves(classifier.variables["params"])
               if leaf.ndim == 4 and leaf.shape[2] == classifier.channels and min(leaf.shape[:2]) > 1]
    if kernels:
        kernel_panel(folder / "kernels.png", kernels[0], title="first convolution")
        return
    matrices = [leaf for leaf in jax.tree.leaves(classifier.variables["params"]) if leaf.ndim == 2]
    size, classes = classifier.image_size, len(classifier.class_names)
    if [leaf.shape for leaf in matrices] == [(size * size * classifier.channels, classes)]:
        templates = np.asarray(matrices[0]).reshape(size, size, classifier.channels, classes)
        kernel_panel(folder / "templates.png", templates, classifier.class_names, title="what each class looks for")
