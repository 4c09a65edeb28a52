"""The task of all detectors: losses are added, detections come with their example's index; a model has one builder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models import create_model, list_models
from cvjax.tasks.detection import DETECTORS, Detector, detection_task, detector_of


def detector():
    def losses(params, model_state, images, batch, key):
        count = batch["box_mask"].sum(axis=1).astype(jnp.float32)
        return {"boxes": params["w"] * count, "classes": images.mean(axis=(1, 2, 3))}, {"seen": model_state["seen"] + 1}

    def detect(variables, images, extent):
        return {"boxes": jnp.concatenate([jnp.zeros_like(extent), extent], axis=1)[:, None] * variables["params"]["w"]}

    return Detector(lambda rng, images: {"params": {"w": jnp.ones(())}, "seen": 0}, losses, detect)


def test_losses_are_added_and_detections_come_with_their_example():
    task = detection_task(detector(), augment=lambda key, image: image / 255.0, preprocess=lambda x: x / 255.0,
                          summarize=lambda parts: {"parts": float(len(list(parts)))})
    batch = {"image": np.full((2, 4, 4, 3), 51, np.uint8), "index": np.array([7, 9]), "mask": np.array([True, False]),
             "box_mask": np.array([[True, True], [False, True]]), "extent": np.float32([[3, 4], [4, 2]]),
             "scale": np.float32([0.5, 2.0])}
    (value, aux), gradient = jax.value_and_grad(task.loss, has_aux=True)({"w": jnp.float32(2)}, {"seen": 0}, batch,
                                                                         jax.random.key(0))
    # 2 * (2 + 1) / 2 boxes, and 51 / 255
    np.testing.assert_allclose([value, gradient["w"]], [3.2, 1.5], rtol=1e-6)
    sums = {name: float(value) for name, (value, count) in aux.metrics.items() if float(count) == 2}
    assert sums == pytest.approx({"loss": 6.4, "boxes": 6, "classes": 0.4}, rel=1e-6)
    assert aux.model_state == {"seen": 1}
    found = task.evaluate({"params": {"w": 1.0}}, batch)
    np.testing.assert_array_equal(found["boxes"], [[[0, 0, 3, 4]], [[0, 0, 4, 2]]])
    assert set(found) == {"boxes", "index", "mask", "scale"}
    assert task.summarize([found, found]) == {"parts": 2.0}


@pytest.mark.parametrize("pattern", ["fast_rcnn*", "faster_rcnn*", "yolo", "yolov1"])
def test_every_detector_has_a_builder(pattern):
    names = list_models(pattern)
    assert names
    for name in names:
        model = create_model(name)
        detector = DETECTORS[type(model)](model, score_threshold=0.1, nms_threshold=0.5, max_detections=10)
        assert isinstance(detector, Detector)


def test_a_model_has_one_builder(monkeypatch):
    class Model(nn.Module):
        pass

    monkeypatch.setattr("cvjax.tasks.detection.DETECTORS", {})
    detector_of(Model)(detector)
    with pytest.raises(ValueError, match="Model already has the builder .*, received"):
        detector_of(Model)(detector)
