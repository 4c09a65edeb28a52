"""A run's folder: `runs/EXPERIMENT/NAME/` with its configuration, logs, checkpoints, figures and summary."""

import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from cvjax.data import DataError
from cvjax.experiment.config import FREE, ConfigError, as_json
from cvjax.train.checkpoint import CheckpointError
from cvjax.train.loop import TrainingError
from cvjax.train.processes import ProcessError, is_first, wait_for_all

EXPECTED_ERRORS = (ConfigError, DataError, CheckpointError, TrainingError, ProcessError)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn", "pillow",
            "simplejpeg", "opencv-contrib-python-headless")


class RunFolder:
    """The files of one run.

    Opening the folder of an unfinished run of the same configuration resumes it; of another one, it is a ConfigError
    that names the fields, unless `config.overwrite` is set. Of several processes the first one opens it for all.
    """

    def __init__(self, config: Any, experiment: str, name: str) -> None:
        self.experiment, self.name = experiment, name
        self.path = Path(config.run_dir or Path("runs") / experiment / name)
        self.checkpoints, self.figures = self.path / "checkpoints", self.path / "figures"
        if is_first():
            self._open(config, experiment)
        wait_for_all("run folder")

    def _open(self, config: Any, experiment: str) -> None:
        described = {"experiment": experiment, **as_json(config)}
        known = self.path / "config.json"
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--run-dir {self.path} is a file; it must be a folder or not exist")
        if self.path.exists() and config.overwrite and not config.dry_run:
            _refuse_foreign(self.path)
            _delete(self.path)
        elif known.exists() and not config.overwrite:
            _check_same(json.loads(known.read_text()), described, self.path)
        elif self.path.exists() and not config.overwrite:
            _refuse_foreign(self.path)
        if config.dry_run:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(known, described)  # first of all: it is what marks the folder as a run's
        self.figures.mkdir(exist_ok=True)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What a finished run reached, None while it is unfinished."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finished(self) -> bool:
        """Whether the run is complete already; says so, with its numbers."""
        if self.summary is None:
            return False
        print(f"{self.path} is complete; --overwrite starts anew, another --run-dir starts beside it")
        print_metrics(self.summary["metrics"])
        return True

    def finish(self, metrics: dict[str, float], protocol: dict[str, Any], trained: Any = None) -> None:
        """Write `summary.json`, whose presence marks the run as complete, and draw a training's curves.

        metrics: flat names to numbers. protocol: what they hold for (k, temperature, crop, layer, seed).
        trained: the `Trained` of an experiment that trains.
        """
        from cvjax.visualize.curves import plot_curves

        facts = {}
        if trained is not None:
            plot_curves(self.path / "metrics.jsonl", self.figures / "curves.png")
            facts = {"params_sha256": trained.params_sha256, "steps": trained.steps,
                     "wall_seconds": round(trained.seconds, 2),
                     "images_per_second": round(trained.images_per_second, 1)}
        write_json(self.path / "summary.json",
                   {"metrics": metrics, **facts, "protocol": protocol, "versions": versions()})
        print(f"written to {self.path}/summary.json")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that numbers may depend on."""
    found = {d.name for d in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES if p in found}


def print_metrics(metrics: dict[str, float]) -> None:
    """One metric per line."""
    for name, value in metrics.items():
        print(f"  {name}: {value:.4f}")


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all: a killed run leaves no half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def _check_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    changed = [f"{name} was {before.get(name)!r}, is now {now.get(name)!r}" for name in sorted({*before, *now})
               if name not in FREE and before.get(name) != now.get(name)]
    if changed:
        raise ConfigError(f"{path} holds a run of another configuration ({'; '.join(changed)}): "
                          "give another --run-dir, or --overwrite to delete it")


def _delete(path: Path) -> None:
    """Delete a run; moved aside first, so that a kill leaves no half of it under its name."""
    doomed = path.with_name(path.name + ".deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _refuse_foreign(path: Path) -> None:
    """A folder that holds files but no run must not be written into, let alone deleted."""
    names = {entry.name for entry in path.iterdir()} - {"config.json.partial"}
    if names and "config.json" not in names:
        raise ConfigError(f"--run-dir {path} holds files but no run (no config.json): give an empty or new folder")
