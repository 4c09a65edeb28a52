"""Judge one trained classifier, or several averaged, on a data set: numbers, tables and pictures.

    python -m experiments.evaluate --checkpoint runs/supervised/digits
    python -m experiments.evaluate --checkpoint runs/supervised/a runs/supervised/b --data folder:PATH
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from cvjax.experiment.config import ConfigError, DataConfig, main


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Evaluation of supervised runs."""

    checkpoint: tuple[Path, ...] = (Path("runs/supervised/digits"),)
    """Run folders; the class probabilities of several are averaged."""
    step: Literal["judged", "best", "latest"] = "judged"
    """Which of their checkpoints; judged: the best on the validation part, or without one the last."""
    part: Literal["train", "test"] = "test"
    """Which split of the data."""


PRESETS: dict[str, dict[str, Any]] = {"digits": {}}


def run(config: Config, name: str, stop: Any) -> None:
    """Write `summary.json` and `figures/`."""
    from cvjax.experiment.classifier import load_classifier
    from cvjax.experiment.inputs import check_batches, make_inputs
    from cvjax.experiment.report import check_same_classes, report
    from cvjax.experiment.run import RunFolder, print_metrics
    from cvjax.experiment.training import enable_compilation_cache

    enable_compilation_cache()
    folder = RunFolder(config, "evaluate", name)
    if folder.finished():
        return
    classifiers = [load_classifier(run, config.step) for run in config.checkpoint]
    inputs = make_inputs(config, image_size=max(each.image_size for each in classifiers), folder=folder)
    check_batches(inputs)
    if getattr(inputs.dataset, config.part) is None:
        raise ConfigError(f"--part {config.part}: {config.data} has no such split")
    check_same_classes(classifiers[0], inputs.dataset, config.data)
    print(f"evaluate {len(classifiers)} run{'s' if len(classifiers) > 1 else ''} on the {config.part} split of "
          f"{config.data}: {len(getattr(inputs.dataset, config.part)):,} images")
    if config.dry_run:
        return
    metrics = {f"{config.part}/{name}": value
               for name, value in report(classifiers, inputs, folder.figures, config.part).items()}
    print_metrics(metrics)
    folder.finish(metrics, {"checkpoints": [str(run) for run in config.checkpoint], "step": config.step,
                            "image_size": inputs.image_size})


if __name__ == "__main__":
    main(run, "evaluate", Config, PRESETS, __doc__)
