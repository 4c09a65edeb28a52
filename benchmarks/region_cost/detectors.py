"""The costs of R-CNN, SPP-net, Fast R-CNN and Faster R-CNN for the regions of one image, with the same convolutions."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.program_cost import program_cost, program_flops, zero_variables
from cvjax.data.boxes.selective_search import selective_search
from cvjax.data.dataset import ArraySource
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.scenes import paint
from cvjax.data.sources.digits import open_digits
from cvjax.models import create_model
from cvjax.tasks.faster_rcnn import faster_rcnn_detector
from cvjax.workflow.normalization import preprocess

# map: the one that regions are cut from. bins: places per side of a region that fc6 sees. crop: pixels per side of a
# region that R-CNN's network sees. offset: the pixel of the image at which the map's first place is centred.
BACKBONES: dict[str, dict[str, Any]] = {
    "alexnet": dict(map="conv5", bins=6, crop=224, offset=15.5),
    "vgg16": dict(map="conv5_3", bins=7, crop=224, offset=8.0),
}


class RegionCost(NamedTuple):
    """One row of the table: a forward pass for one image. Its regions are given, except to Faster R-CNN."""

    method: str
    regions: int
    flops: float  # a multiply-add counts as two
    map_flops: float  # of the convolutions, which are computed once for all regions
    seconds: float
    cpu_seconds: float
    work_bytes: int
    measured: int  # regions whose time and memory were measured; if fewer than `regions`, the time was multiplied


def scene_with_regions(side: int, count: int) -> tuple[np.ndarray, np.ndarray, int, float]:
    """A painted scene and regions in it.

    Returns:
        The scene, uint8 `(side, side, 3)`; `count` regions, float32 `(count, 4)`, those of selective search first and
        random ones after them; how many selective search found; and the CPU seconds that it took.
    """
    digits = cast(ArraySource, open_digits().test)  # they are in memory
    image = paint(np.random.default_rng(0), digits, side)[0]
    with tempfile.TemporaryDirectory() as folder:  # an empty cache, so that selective search must run
        start = time.process_time()
        found = selective_search(image, max_proposals=count, folder=Path(folder))
        seconds = time.process_time() - start
    corners = np.sort(np.random.default_rng(1).uniform(0, side, (count - len(found), 2, 2)), axis=1)
    return image, np.concatenate([found, corners.reshape(-1, 4)]).astype(np.float32), len(found), seconds


def region_costs(image: np.ndarray, regions: np.ndarray, backbone: str, *, own_regions: Sequence[int], fc_width: int,
                 measured: int, repeats: int) -> Iterator[RegionCost]:
    """The costs of each method on an image uint8 `(H, W, 3)` and regions float32 `(R, 4)`, one method after the other.

    own_regions: how many Faster R-CNN proposes, a row for each number. fc_width: width of fc6 and fc7, which all have.
    measured: how many of R-CNN's regions go through its network together; its time is measured on them.
    """
    known = BACKBONES[backbone]
    pixels, boxes = preprocess(jnp.asarray(image[None]), len(image), Preprocessing()), jnp.asarray(regions[None])
    shared = dict(backbone=backbone, image_size=len(image))

    few = boxes[:, :measured]
    model: Any = create_model("rcnn_alexnet", backbone=backbone, crop_size=known["crop"],
                         backbone_fields={"fc_width": fc_width})
    cost = program_cost(model.apply, zero_variables(model, pixels, few), pixels, few, repeats=repeats)
    times = len(regions) / few.shape[1]
    yield RegionCost("R-CNN", len(regions), cost.flops * times, 0.0, cost.seconds * times, cost.cpu_seconds * times,
                     cost.work_bytes, few.shape[1])

    def whole(method: str, model: nn.Module, count: int, convolutions: str, function: Any, *arguments: Any
              ) -> RegionCost:
        variables = zero_variables(model, pixels)
        shapes = jax.eval_shape(lambda: (variables, pixels))
        lowered = jax.jit(lambda v, x: model.apply(v, x, method=convolutions)).lower(*shapes)
        cost = program_cost(function, variables, pixels, *arguments, repeats=repeats)
        return RegionCost(method, count, cost.flops, program_flops(lowered), cost.seconds, cost.cpu_seconds,
                          cost.work_bytes, count)

    # SPP-net's classifier is left out: linear functions of fc7 cost next to nothing.
    model = create_model("sppnet", **shared, map=known["map"], offset=known["offset"], fc_width=fc_width, num_classes=0)
    yield whole("SPP-net", model, len(regions), "convolutions", partial(model.apply, method="region_features"), boxes)
    model = create_model("fast_rcnn", **shared, map=known["map"], bins=known["bins"], fc_width=fc_width)
    yield whole("Fast R-CNN", model, len(regions), "convolutions", model.apply, boxes)
    for count in own_regions:
        model = create_model("faster_rcnn", **shared, maps=(known["map"],), region_pooling="pool",
                             region_size=known["bins"], head_width=fc_width, proposals=(count, count))
        yield whole("Faster R-CNN", model, count, "features", faster_rcnn_detector(model).detect,
                    jnp.float32([image.shape[:2]]))


def markdown(costs: Sequence[RegionCost], proposal_seconds: float) -> str:
    """The table. R-CNN's time says what was multiplied.

    proposal_seconds: CPU seconds of selective search, for the methods whose regions are given.
    """
    rows = ["| method | regions | GFLOPs | once for all | CPU seconds | proposals, CPU seconds | working MiB |",
            "|---|---:|---:|---:|---:|---:|---:|"]
    for cost in costs:
        seconds = f"{cost.cpu_seconds:.2f}"
        if cost.measured < cost.regions:
            seconds += f" ({cost.regions / cost.measured:g} times that of {cost.measured})"
        outside = "in the network" if cost.method == "Faster R-CNN" else f"{proposal_seconds:.2f}"
        memory = f"{cost.work_bytes / 2**20:,.0f}"
        rows.append(f"| {cost.method} | {cost.regions:,} | {cost.flops / 1e9:,.1f} | {cost.map_flops / 1e9:,.1f} "
                    f"| {seconds} | {outside} | {memory} |")
    return "\n".join(rows) + "\n"
