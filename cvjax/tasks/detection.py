"""Object detection: the task that all detectors share, and the table of detectors by model."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.norm import frozen_statistics
from cvjax.tasks.task import Aux, Batch, Task, batch_key, example_keys, total

Losses = dict[str, jax.Array]  # by name, `(B,)` each
Found = dict[str, jax.Array]  # see `Detector.detect`


@dataclass(frozen=True)
class Detector:
    """A detector as pure functions of normalised images float `(B, H, W, C)`, each padded to one canvas.

    Boxes are x1, y1, x2, y2 in pixels of the canvas; labels count from 0 without a background.

    init(rng, images) -> variables.
    losses(params, model_state, images, batch, key) -> (losses, model_state). Losses are `(B,)` each, by name; their sum
    is trained. `batch` has `extent` (B, 2), the height and width of the picture within the canvas, `boxes` (B, M, 4),
    and `box_label`, `box_mask` and `box_difficult` (B, M).
    detect(variables, images, extent, *needed) -> `boxes` (B, D, 4), `score` (B, D) in [0, 1], `box_label` int32 (B, D)
    and `valid` bool (B, D), False on rows that are padding.
    needs: further fields of the batch that `detect` takes after `extent`, such as given proposals.
    """

    init: Callable[[jax.Array, jax.Array], Any]
    losses: Callable[[Any, Any, jax.Array, Batch, jax.Array], tuple[Losses, Any]]
    detect: Callable[..., Found]
    needs: tuple[str, ...] = ()


class DetectorBuilder(Protocol):
    """Makes the detector of a model. A builder may have further options, which need defaults."""

    def __call__(self, model: Any, /, *, score_threshold: float = ..., nms_threshold: float = ...,
                 max_detections: int = ...) -> Detector: ...


DETECTORS: dict[type[nn.Module], DetectorBuilder] = {}  # class of a model -> builder: see `detector_of`

Builder = TypeVar("Builder", bound=DetectorBuilder)


def detector_of(*models: type[nn.Module]) -> Callable[[Builder], Builder]:
    """A decorator that enters a builder into DETECTORS for models of these classes.

    `import cvjax.tasks` fills the table. To train a detector of your own, decorate its builder:

        @detector_of(MyModel)
        def my_detector(model, *, score_threshold=0.05, nms_threshold=0.5, max_detections=100):
            ...
            return Detector(init, losses, detect)

    Raises ValueError for a class that already has a builder.
    """
    def register(builder: Builder) -> Builder:
        for model in models:
            if model in DETECTORS:
                raise ValueError(f"{model.__name__} already has the builder {DETECTORS[model]}, received {builder}")
            DETECTORS[model] = builder
        return builder

    return register


def detection_task(detector: Detector, *, augment: Callable[[jax.Array, jax.Array], jax.Array],
                   preprocess: Callable[[jax.Array], jax.Array],
                   summarize: Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]],
                   frozen: Callable[[str], bool] | None = None) -> Task:
    """Train a detector.

    augment, preprocess, frozen: see `cvjax.tasks.supervised.supervised_task`. Augmentation must not move pixels.
    summarize(parts) -> {name: number}: average precision, from the detections of each example and its `index`.
    """

    def init(rng: jax.Array, batch: Batch) -> Any:
        return detector.init(rng, preprocess(batch["image"]))

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        images = jax.vmap(augment)(example_keys(rng, batch), batch["image"])
        with frozen_statistics(frozen) if frozen else contextlib.nullcontext():
            losses, new_state = detector.losses(params, model_state, images, batch, batch_key(rng, batch))
        whole = sum(losses.values(), jnp.zeros(()))
        return whole.mean(), Aux({name: total(each) for name, each in ({"loss": whole} | losses).items()}, new_state)

    def evaluate(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        needed = [batch[name] for name in ("extent", *detector.needs)]
        found = detector.detect(variables, preprocess(batch["image"]), *needed)
        return found | {name: batch[name] for name in ("index", "mask", "scale", "part") if name in batch}

    return Task(init, loss, evaluate, summarize=summarize)
