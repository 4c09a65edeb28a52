"""The report on a trained classifier, multi-label classifier or regressor: numbers, tables and pictures of a part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cvjax.evaluate.attention_rollout import attention_rollout
from cvjax.evaluate.features import extract_features
from cvjax.evaluate.saliency import grad_cam, occlusion_map
from cvjax.layers.feature_maps import feature_maps
from cvjax.models.image_model import ImageModel
from cvjax.models.vit import VisionTransformer
from cvjax.tasks.task import outputs_of
from cvjax.train.mesh import MeshEngine
from cvjax.visualize.heatmaps import heatmap_panel
from cvjax.visualize.kernels import kernel_panel
from cvjax.visualize.mistakes import mistake_panel
from cvjax.workflow.classification.goal import Classification, Regression
from cvjax.workflow.classification.model import Classifier, ensemble
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.normalization import displayable, preprocess

_EXPLAINED = 8  # examples in the picture of explanations

Answers = tuple[np.ndarray, np.ndarray, np.ndarray]


def answering(classifiers: Sequence[Classifier], inputs: ImageInputs) -> Callable[[Sequence[Any], str], Answers]:
    """A function, compiled once, of variables for each classifier and of a part of the data.

    It gives the mean answers float32 `(N, K)` to the readable records of the part, their labels and their positions.
    """
    engine = MeshEngine(jax.local_devices())
    asked = ensemble(classifiers)
    compiled = engine.compile_evaluation(lambda variables, batch: asked(variables, batch["image"]))

    def answers(variables: Sequence[Any], part: str) -> Answers:
        positions = []

        def batches() -> Iterator[Mapping[str, np.ndarray]]:
            for batch in inputs.eval_batches(part):
                positions.append(batch["index"][batch["mask"]])
                yield batch

        found, labels = extract_features(lambda batch: compiled(variables, engine.put({"image": batch["image"]})),
                                         batches(), desc=f"{part} predictions")
        return found, labels, np.concatenate(positions)

    return answers


def predict(classifiers: Sequence[Classifier], inputs: ImageInputs, part: str) -> Answers:
    """What `answering` gives for the classifiers' own variables."""
    return answering(classifiers, inputs)([classifier.variables for classifier in classifiers], part)


def report(classifiers: Sequence[Classifier], inputs: ImageInputs, folder: Path, part: str = "test"
           ) -> dict[str, float]:
    """Judge the average of classifiers on a part of a data set; returns metrics by name.

    Writes into `folder` what `Goal.write` says; for classes `mistakes.png`, for a single classifier `explanations.png`
    (but not of numbers) and, for images of one channel or three, `kernels.png` or `templates.png`.
    """
    goal = classifiers[0].goal
    answers, labels, positions = predict(classifiers, inputs, part)
    goal.write(folder, answers, labels, f"{part} split")
    if isinstance(goal, Classification):
        _draw_mistakes(folder / "mistakes.png", inputs, part, answers, labels, positions, goal.names)
    if len(classifiers) == 1:
        if not isinstance(goal, Regression):
            _explain(folder / "explanations.png", classifiers[0], inputs, part)
        if inputs.dataset.channels in (1, 3):
            _draw_kernels(folder, classifiers[0])
    return goal.scores(answers, labels)


def _draw_mistakes(path: Path, inputs: ImageInputs, part: str, probabilities: np.ndarray, labels: np.ndarray,
                   positions: np.ndarray, names: Sequence[str], most: int = 24) -> None:
    answers, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    pictures = inputs.records(part, positions[wrong])[0] / 255
    mistake_panel(path, pictures, labels[wrong], answers[wrong], sure[wrong], names, most=most,
                  total=int((answers != labels).sum()), title=f"{part} split, {len(labels):,} images: the surest first")


def _explain(path: Path, classifier: Classifier, inputs: ImageInputs, part: str) -> None:
    """Grad-CAM of the last map and occlusion for a CNN, attention rollout for a ViT, on examples of the data."""
    source = getattr(inputs.dataset, part)
    chosen = np.unique(np.linspace(0, len(source) - 1, _EXPLAINED).astype(int))
    raw, labels = inputs.records(part, chosen)
    images = preprocess(raw, classifier.image_size, classifier.preprocessing)
    logits = outputs_of(classifier.model, classifier.variables, images, train=False)
    goal = classifier.goal
    sure, answers = np.asarray(goal.answers(logits)), np.asarray(logits.argmax(axis=1))
    heat = explanations(classifier.model, classifier.variables, images, answers)
    if heat:
        heatmap_panel(path, np.asarray(displayable(images, classifier.preprocessing)), heat,
                      labels if isinstance(goal, Classification) else None, answers, sure.max(axis=1), goal.names,
                      title="what the answer rests on")


def explanations(model: ImageModel, variables: Any, images: jax.Array, classes: Any) -> dict[str, np.ndarray]:
    """Heading -> heat `(B, h, w)` of normalised images: attention rollout for a ViT, Grad-CAM and occlusion for models
    with spatial maps, nothing for others."""
    if isinstance(model, VisionTransformer):
        return {"attention rollout": np.asarray(attention_rollout(model, variables, images))}
    maps = feature_maps(model, variables, images)  # a linear classifier and an MLP have none
    spatial = [name for name, x in maps.items() if x.ndim == 4 and min(x.shape[1:3]) > 1]
    if not spatial:
        return {}
    window = max(images.shape[1] // 4, 1)
    covered: Callable[..., Any] = jax.jit(lambda v, x, c: occlusion_map(model, v, x, c, window, max(window // 2, 1)))
    return {f"Grad-CAM of {spatial[-1]}": np.asarray(grad_cam(model, variables, images, classes, spatial[-1])),
            f"occlusion by {window} pixels": np.asarray(covered(variables, images, classes))}


def _draw_kernels(folder: Path, classifier: Classifier) -> None:
    """Draw the first convolution's filters, or the templates of a linear classifier; nothing if it has neither."""
    kernels = [leaf for leaf in jax.tree.leaves(classifier.variables["params"])
               if leaf.ndim == 4 and leaf.shape[2] == classifier.channels and min(leaf.shape[:2]) > 1]
    if kernels:
        kernel_panel(folder / "kernels.png", kernels[0], title="first convolution")
        return
    matrices = [leaf for leaf in jax.tree.leaves(classifier.variables["params"]) if leaf.ndim == 2]
    size, classes = classifier.image_size, len(classifier.goal.names)
    if [leaf.shape for leaf in matrices] == [(size * size * classifier.channels, classes)]:
        templates = np.asarray(matrices[0]).reshape(size, size, classifier.channels, classes)
        kernel_panel(folder / "templates.png", templates, classifier.goal.names, title="what each class looks for")
