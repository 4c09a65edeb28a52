"""Estimates the memory, time and traffic of a training on devices that are not here, from shapes and makers' rates.

The step's arithmetic is counted in its trace. The traffic between devices follows from the layout. Copies of the state
sum their gradients. A spread state (FSDP) is collected for the forward and for the backward pass, and its gradients are
summed into their places. A layer spread over `model` sums its output in the forward pass, and its input's gradient in
the backward pass. A ring moves `2 (n - 1) / n` of an array's bytes through each device to sum it, and half of that to
collect it (Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType

from cvjax.layers.attention import SelfAttention
from cvjax.layers.mlp import Mlp
from cvjax.models.summary import multiply_accumulates
from cvjax.models.swin_v2 import CosineAttention
from cvjax.train.layout import Layout
from cvjax.workflow.accelerators import DEVICES, Device
from cvjax.workflow.memory import Memory, measure_memory, memory_table, size_text
from cvjax.workflow.prepared import Prepared


class Plan(NamedTuple):
    """The plan of one training step, per device."""

    layout: Layout
    memory: Memory
    flops: float
    traffic: dict[str, float]  # purpose -> bytes out of the device
    compute_seconds: float
    link_seconds: float


def make_plan(prepared: Prepared[Any], layout: Layout, device: Device, efficiency: float,
              platform: str = "cuda") -> Plan:
    """The plan of a training.

    efficiency: share of the peak that the whole step reaches, in (0, 1]. platform: the devices', "cuda" or "tpu".
    Raises ValueError if the state does not fit the layout.
    """
    memory = measure_memory(prepared, layout, platform)
    flops = 2 * multiply_accumulates(prepared.step, prepared.state, prepared.batch) / (layout.data * layout.model)
    bytes_out = traffic(prepared, layout)
    peak = device.bfloat16 if prepared.config.dtype == "bfloat16" else device.float32
    return Plan(layout, memory, flops, bytes_out, flops / (peak * efficiency), sum(bytes_out.values()) / device.link)


def traffic(prepared: Prepared[Any], layout: Layout) -> dict[str, float]:
    """Bytes that leave each device in a step, by purpose."""
    gradients = Layout(1, layout.model, "none", layout.spread_axis).bytes_per_device(prepared.state.params)
    around, found = (layout.data - 1) / layout.data, {}
    if layout.shard == "fsdp":
        passes = 2 * prepared.config.accumulate  # every micro-batch goes forward and backward
        found["collecting parameters"] = passes * around * gradients
        found["summing gradients into their places"] = around * gradients
    else:
        found["summing gradients"] = 2 * around * gradients
    if layout.model > 1:
        outputs = _spread_outputs(prepared, layout) / layout.data
        found["summing split layers"] = 2 * 2 * (layout.model - 1) / layout.model * outputs
    return found


def _spread_outputs(prepared: Prepared[Any], layout: Layout) -> int:
    """Bytes of the outputs of attentions and MLPs, over all layers and the whole batch.

    Raises ValueError for attention heads that cannot be split over the devices.
    """
    sizes = []

    def note(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*arguments, **options)
        if isinstance(context.module, SelfAttention | CosineAttention | Mlp) and context.method_name == "__call__":
            sizes.append(math.prod(output.shape) * output.dtype.itemsize)
        return output

    mesh = AbstractMesh((layout.data, layout.model), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    with nn.intercept_methods(note), jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(prepared.task.loss, prepared.state.params, prepared.state.model_state, prepared.batch,
                       prepared.state.rng)
    return sum(sizes)


def plan_table(plan: Plan, device: str, efficiency: float, batch_size: int, compiled: int | None = None) -> str:
    """The plan as text, with the rates it assumes. compiled: bytes of memory by the device's own compiler."""
    rates, layout = DEVICES[device], plan.layout
    count, slow, fast = layout.data * layout.model, *sorted((plan.compute_seconds, plan.link_seconds), reverse=True)
    room = rates.memory - (plan.memory.total if compiled is None else compiled)
    return "\n".join([
        f"layout: {count} {device}, batches split over {layout.data}, layers over {layout.model}, state "
        f"{'spread over ' + str(layout.data) if layout.shard == 'fsdp' else 'copied'}",
        memory_table(plan.memory),
        *([] if compiled is None else [f"  {'by the compiler':30} {size_text(compiled):>10}"]),
        f"  of {size_text(rates.memory)}: " + (f"{size_text(room)} left" if room > 0 else
                                               f"{size_text(-room)} TOO MUCH; try --shard fsdp, --remat, --accumulate"),
        "per step and device:",
        f"  arithmetic  {plan.flops / 1e12:10.3f} TFLOP  {1e3 * plan.compute_seconds:10.2f} ms at "
        f"{efficiency:.0%} of the peak",
        *(f"  {name:10}  {size_text(size):>16}" for name, size in plan.traffic.items()),
        f"  traffic     {size_text(sum(plan.traffic.values())):>16}  {1e3 * plan.link_seconds:10.2f} ms at "
        f"{size_text(rates.link)}/s",
        f"step: {1e3 * slow:.2f} ms if all traffic hides behind arithmetic, {1e3 * (slow + fast):.2f} ms if none does; "
        f"{batch_size / (slow + fast):,.0f} to {batch_size / slow:,.0f} images/s",
        "Rates are the makers'; kernels, input and latencies are not counted. A plan is no measurement."])
