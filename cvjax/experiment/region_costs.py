"""What R-CNN, SPP-net, Fast R-CNN and Faster R-CNN compute for the regions of one image, on the same convolutions."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.arrays import open_digits
from cvjax.data.proposals import selective_search
from cvjax.data.scenes import paint
from cvjax.evaluate.cost import program_cost, zero_variables
from cvjax.experiment.inputs import preprocess
from cvjax.models import create_model
from cvjax.tasks.faster_rcnn import faster_rcnn_detector

# The map that regions are cut from, the bins of its classifier's own fc6, what R-CNN's network sees, and where the map
# begins.
BACKBONES: dict[str, dict[str, Any]] = {
    "alexnet": dict(map="conv5", bins=6, crop=224, offset=15.5),
    "vgg16": dict(map="conv5_3", bins=7, crop=224, offset=8.0),
}


class RegionCost(NamedTuple):
    """One row of the table: a forward pass for one image, its regions given but for Faster R-CNN's own."""

    method: str
    regions: int
    flops: float  # a multiplication and an addition count as two
    map_flops: float  # of the convolutions, which are computed once for all regions
    seconds: float
    cpu_seconds: float
    work_bytes: int
    measured: int  # regions that times are of, and memory; where they are fewer than `regions` times are multiplied


def scene_with_regions(side: int, count: int) -> tuple[np.ndarray, np.ndarray, int, float]:
    """A painted scene uint8 `(side, side, 3)`, `count` regions float32 in it, how many of them selective search found,
    and the seconds of this process that it took.

    Its regions come first; random ones fill up.
    """
    image = paint(np.random.default_rng(0), open_digits().test, side)[0]
    with tempfile.TemporaryDirectory() as folder:  # not what an earlier run has kept
        start = time.process_time()
        found = selective_search(image, max_proposals=count, folder=Path(folder))
        seconds = time.process_time() - start
    corners = np.sort(np.random.default_rng(1).uniform(0, side, (count - len(found), 2, 2)), axis=1)
    return image, np.concatenate([found, corners.reshape(-1, 4)]).astype(np.float32), len(found), seconds


def region_costs(image: np.ndarray, regions: np.ndarray, backbone: str, *, own_regions: Sequence[int], fc_width: int,
                 measured: int, repeats: int) -> Iterator[RegionCost]:
    """What each method costs on an image uint8 `(H, W, 3)` and regions `(R, 4)`, one after the other.

    own_regions: of Faster R-CNN, a row for each. fc_width: of fc6 and fc7, which all have. measured: R-CNN's regions
    that go through its network together, and that its time is measured on.
    """
    known = BACKBONES[backbone]
    pixels, boxes = preprocess(image[None], len(image)), jnp.asarray(regions[None])
    shared = dict(backbone=backbone, image_size=len(image))

    few = boxes[:, :measured]
    model = create_model("rcnn_alexnet", backbone=backbone, crop_size=known["crop"],
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
        return RegionCost(method, count, cost.flops, lowered.cost_analysis()["flops"], cost.seconds, cost.cpu_seconds,
                          cost.work_bytes, count)

    # SPP-net's classifier is linear functions of fc7, too few to count.
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
    """The table; R-CNN's column of times names what was multiplied.

    proposal_seconds: of selective search, for the methods whose regions are given.
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
