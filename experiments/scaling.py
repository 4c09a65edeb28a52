"""How does the test loss of a ViT fall with its size and with its data? A ladder of both, and the power law through it.

Every rung is a run of `experiments.supervised` for the same number of steps, so a small share of the data is seen more
often. The law is L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq. 2,
https://arxiv.org/abs/2203.15556), N parameters without the head, D training images; with few rungs it describes these
and predicts little beyond.

    python -m experiments.scaling
"""

import dataclasses
from typing import Any

from cvjax.experiment.config import main, require
from experiments.supervised import Config as SupervisedConfig


@dataclasses.dataclass(frozen=True)
class Config(SupervisedConfig):
    """A ladder of widths and of data shares."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Widths of the ViT; each must be a multiple of its heads."""
    fractions: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Shares of the training images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        widths, fractions = set(self.widths), set(self.fractions)
        require(len(widths) >= 2, "widths", self.widths, "at least two different widths")
        require(len(fractions) >= 2 and all(0 < f <= 1 for f in fractions), "fractions", self.fractions,
                "at least two different shares in (0, 1]")
        require(len(widths) * len(fractions) >= 5, "fractions", self.fractions,
                f"more of them with {len(widths)} widths: the law has five unknowns, and these make fewer rungs")
        require(self.fraction == 1, "fraction", self.fraction, "left out here: --fractions has the shares")
        require(not self.folds, "folds", self.folds, "left out here: every rung is one run")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(
        data="digits", model="vit_tiny_patch16_224", model_fields=("patch_size=2", "depth=3", "heads=4"), steps=400,
        batch_size=64, optimizer="adamw", base_learning_rate=8e-3, weight_decay=0.05, warmup=0.1,
        crop_scale=(0.7, 1.0), flip=False, log_every=100),
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, model="vit_tiny_patch16_224",
        model_fields=("patch_size=4", "depth=6", "heads=4"), widths=(32, 64, 128, 256), steps=10000, batch_size=256,
        optimizer="adamw", base_learning_rate=1e-3, weight_decay=0.05, crop_scale=(0.3, 1.0), log_every=100),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Train every rung, fit the law, draw both."""
    from cvjax.evaluate.power_law import fit_power_law
    from cvjax.experiment.run import RunFolder
    from cvjax.experiment.training import enable_compilation_cache
    from cvjax.train.processes import is_first, wait_for_all
    from cvjax.visualize.scaling import plot_scaling
    from experiments.supervised import run_one

    enable_compilation_cache()
    folder = RunFolder(config, "scaling", name)
    if folder.finished():
        return
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(SupervisedConfig)}
    rungs, metrics = [], {}
    ladder = [(width, fraction) for width in sorted(set(config.widths))
              for fraction in sorted(set(config.fractions))]
    for number, (width, fraction) in enumerate(ladder, start=1):
        label = f"width={width}-fraction={fraction:g}"
        each = SupervisedConfig(**shared | dict(
            run_dir=folder.path / label, fraction=fraction, model_fields=(*config.model_fields, f"width={width}")))
        print(f"rung {number} of {len(ladder)}: {label}")
        rung = RunFolder(each, "supervised", label)
        if rung.summary is None:
            run_one(each, rung, stop)
        if config.dry_run:
            continue
        wait_for_all(label)
        if not is_first():  # which alone writes, and reads, summaries
            continue
        found = rung.summary
        rungs.append((found["protocol"]["parameters"], found["protocol"]["training_images"],
                      found["metrics"]["test/loss"]))
        metrics |= {f"loss/{label}": found["metrics"]["test/loss"], f"top1/{label}": found["metrics"]["test/top1"]}
    if config.dry_run or not is_first():
        return
    law = fit_power_law(*zip(*rungs))
    plot_scaling(folder.figures / "scaling.png", rungs, law)
    print(f"L(N, D) = {law.floor:.4f} + {law.a:.4g} / N^{law.alpha:.3f} + {law.b:.4g} / D^{law.beta:.3f}; "
          f"root mean square error of log L {law.error:.3f} over {len(rungs)} rungs")
    folder.finish(metrics | {"law/floor": law.floor, "law/a": law.a, "law/alpha": law.alpha, "law/b": law.b,
                             "law/beta": law.beta, "law/error": law.error},
                  {"steps": config.steps, "widths": list(config.widths), "fractions": list(config.fractions)})


if __name__ == "__main__":
    main(run, "scaling", Config, PRESETS, __doc__)
