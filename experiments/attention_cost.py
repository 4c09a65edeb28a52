"""What attention costs as images grow: within windows (Swin), linear in the area; over all tokens (ViT), quadratic.

Liu et al. 2021, sec. 3.2, eq. 1 and 2 (https://arxiv.org/abs/2103.14030). Counts and times one forward pass of one
image per size; it needs neither data nor weights. The default takes a minute on two cores.
"""

import dataclasses
from pathlib import Path
from typing import Any

from cvjax.experiment.config import ConfigError, main, require


@dataclasses.dataclass(frozen=True)
class Config:
    """Models and sizes."""

    models: tuple[str, ...] = ("swin_tiny_patch4_window7_224", "vit_small_patch16_224")
    """Names from list_models(); any that take images of every size below."""
    image_sizes: tuple[int, ...] = (224, 448, 672, 896)
    """Sides of the images, in pixels."""
    repeats: int = 2
    """Timed runs per size, after one that compiles; the best counts."""
    run_dir: Path | None = None
    """Where the run is written; by default runs/attention_cost/PRESET, with the changed fields in its name."""
    overwrite: bool = False
    """Delete a run that is there already and start anew."""
    dry_run: bool = False
    """Say what would run, and stop."""

    def __post_init__(self) -> None:
        require(len(self.models) >= 1, "models", self.models, "at least one name")
        require(len(self.image_sizes) >= 1 and min(self.image_sizes) >= 1, "image_sizes", self.image_sizes,
                "one or more numbers of at least 1")
        require(self.repeats >= 1, "repeats", self.repeats, "at least 1")


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": dict(),
    "accelerator": dict(image_sizes=(224, 448, 896, 1344, 1792), repeats=20),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Measure, print a table, draw it."""
    from cvjax.evaluate.cost import forward_cost
    from cvjax.experiment.run import RunFolder
    from cvjax.models import create_model
    from cvjax.visualize.costs import plot_costs

    folder = RunFolder(config, "attention_cost", name)
    if folder.finished():
        return
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
    plot_costs(folder.figures / "attention_cost.png", {"GFLOPs": flops, "seconds": seconds})
    metrics = {f"{kind}/{model}/{size}": value for kind, curves in (("gflops", flops), ("seconds", seconds))
               for model, curve in curves.items() for size, value in curve.items()}
    folder.finish(metrics, {"images": 1, "repeats": config.repeats})


if __name__ == "__main__":
    main(run, "attention_cost", Config, PRESETS, __doc__)
