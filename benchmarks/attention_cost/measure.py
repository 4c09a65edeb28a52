"""Measure a forward pass of each model on images of each size, print a table, and draw it."""


from benchmarks.attention_cost.config import Config
from benchmarks.attention_cost.curves import plot_costs
from benchmarks.program_cost import forward_cost
from cvjax.errors import ConfigError
from cvjax.models import create_model
from cvjax.train.preemption import StopRequest
from cvjax.workflow.folder import RunFolder


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Measure, print, write and draw, into the run's folder.

    Raises:
        ConfigError: there is no such model, or it cannot take images of such a size.
    """
    print(f"attention_cost of {', '.join(config.models)} at {', '.join(map(str, config.image_sizes))} pixels")
    if config.dry_run:
        return
    flops, seconds = ({model: {} for model in config.models} for _ in range(2))
    print(f"{'model':32}{'pixels':>8}{'GFLOPs':>10}{'seconds':>10}")
    for model in config.models:
        for size in config.image_sizes:
            try:
                cost = forward_cost(create_model(model, image_size=size), size, repeats=config.repeats)
            except ValueError as error:
                raise ConfigError(f"{model} at {size} pixels: {error}") from None
            flops[model][size], seconds[model][size] = cost.flops / 1e9, cost.seconds
            print(f"{model:32}{size:8}{cost.flops / 1e9:10.2f}{cost.seconds:10.3f}", flush=True)
    folder.begin()
    plot_costs(folder.figures / "attention_cost.png", {"GFLOPs": flops, "seconds": seconds})
    metrics = {f"{kind}/{model}/{size}": value for kind, curves in (("gflops", flops), ("seconds", seconds))
               for model, curve in curves.items() for size, value in curve.items()}
    folder.finish(metrics, {"images": 1, "repeats": config.repeats})
