"""Object detection: what the tasks of all detectors have in common."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.norm import frozen_statistics
from cvjax.tasks.task import Aux, Batch, Task, batch_key, example_keys, total

Losses = dict[str, jax.Array]
Found = dict[str, jax.Array]


@dataclass(frozen=True)
class Detector:
    """A detector as pure functions of images float `(B, H, W, C)`, normalised, on a canvas.

    Boxes are x1, y1, x2, y2 in pixels of the canvas; labels count from 0 without a background.

    init(rng, images) -> variables.
    losses(params, model_state, images, batch, key) -> (losses, model_state): several losses by name, each `(B,)`, that
    are added up; `batch` has `extent` (B, 2), height and width of the picture's part of the canvas, `boxes` (B, M, 4),
    `box_label`, `box_mask` and `box_difficult` (B, M).
    detect(variables, images, extent, *needed) -> `boxes` (B, D, 4), `score` (B, D) in [0, 1], `box_label` int32 (B, D)
    and `valid` bool (B, D), False on rows that mean nothing.
    needs: fields of the batch that `detect` takes beside `extent`, as a detector of given proposals does.
    """

    init: Callable[[jax.Array, jax.Array], Any]
    losses: Callable[[Any, Any, jax.Array, Batch, jax.Array], tuple[Losses, Any]]
    detect: Callable[..., Found]
    needs: tuple[str, ...] = ()


def detection_task(detector: Detector, *, augment: Callable[[jax.Array, jax.Array], jax.Array],
                   preprocess: Callable[[jax.Array], jax.Array],
                   summarize: Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]],
                   frozen: Callable[[str], bool] | None = None) -> Task:
    """Train a detector.

    augment, preprocess, frozen: see `cvjax.tasks.supervised.supervised_task`; augmentation leaves pixels in place.
    summarize(parts): from what was found in each example, by its `index`, to numbers (AP).
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
