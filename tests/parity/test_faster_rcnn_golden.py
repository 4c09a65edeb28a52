"""Faster R-CNN against the numbers that torchvision's gave, stored by make_goldens.py; torch is not needed."""

from pathlib import Path
from typing import Any

import faster_rcnn_side
import numpy as np
import pytest
from jax_side import assert_same

GOLDEN = Path(__file__).parents[1] / "goldens" / "faster_rcnn.npz"


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture
def shapes(stored: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix("shape/"): tuple(stored.pop(name).tolist()) for name in list(stored)
            if name.startswith("shape/")}


def test_maps_answers_for_anchors_and_features_of_regions(stored: Any, shapes: Any) -> None:
    ours = faster_rcnn_side.network_numbers(shapes, stored["proposals"])
    assert_same(ours, {name: stored[name] for name in ours})


@pytest.mark.slow
def test_proposals_losses_and_detections_of_it_all(stored: Any, shapes: Any) -> None:
    """Of two images: three objects are in the first one, the second has none."""
    assert_same(faster_rcnn_side.numbers(shapes), stored)
    assert stored["valid"].all() and stored["rpn_boxes"][0] > 0 and stored["rpn_boxes"][1] == 0
