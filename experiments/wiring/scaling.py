"""The work of `python -m experiments.scaling`; its options are in experiments/scaling.py."""

import dataclasses
from typing import Any

from cvjax.evaluate.power_law import fit_power_law
from cvjax.train.preemption import StopRequest
from cvjax.train.processes import is_first, wait_for_all
from cvjax.visualize.scaling import plot_scaling
from cvjax.workflow.folder import RunFolder
from experiments.scaling import Config
from experiments.supervised import Config as SupervisedConfig
from experiments.wiring.supervised import run_one


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train every rung, fit the law, draw both."""
    shared: dict[str, Any] = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(SupervisedConfig)}
    rungs, metrics = [], {}
    ladder = [(width, fraction) for width in sorted(set(config.widths))
              for fraction in sorted(set(config.fractions))]
    for number, (width, fraction) in enumerate(ladder, start=1):
        label = f"width={width}-fraction={fraction:g}"
        own: dict[str, Any] = dict(
            run_dir=str(folder.path / label), fraction=fraction, model_fields=(*config.model_fields, f"width={width}"))
        each = SupervisedConfig(**shared | own)
        print(f"rung {number} of {len(ladder)}: {label}")
        rung = RunFolder(each, "supervised", label, within=folder)
        if not rung.finished():
            run_one(each, rung, stop)
        if config.dry_run:
            continue
        wait_for_all(label)
        if not is_first():  # only the first process writes and reads summaries
            continue
        found = rung.summary
        assert found is not None, f"{rung.path} has no summary after its training"
        rungs.append((found["protocol"]["parameters"], found["protocol"]["training_images"],
                      found["metrics"]["test/loss"]))
        metrics |= {f"loss/{label}": found["metrics"]["test/loss"], f"top1/{label}": found["metrics"]["test/top1"]}
    if config.dry_run or not is_first():
        return
    folder.begin()
    law = fit_power_law(*zip(*rungs))
    plot_scaling(folder.figures / "scaling.png", rungs, law)
    print(f"L(N, D) = {law.floor:.4f} + {law.a:.4g} / N^{law.alpha:.3f} + {law.b:.4g} / D^{law.beta:.3f}; "
          f"root mean square error of log L {law.error:.3f} over {len(rungs)} rungs")
    folder.finish(metrics | {"law/floor": law.floor, "law/a": law.a, "law/alpha": law.alpha, "law/b": law.b,
                             "law/beta": law.beta, "law/error": law.error},
                  {"steps": config.steps, "widths": list(config.widths), "fractions": list(config.fractions)})
