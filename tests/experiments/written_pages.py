"""Runs and their pages, written without training, with names that steer browsers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvjax.workflow.config import DataConfig
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.report.page import Progress, write_report

HOSTILE = '<script>document.title="obeyed"</script>\u202e"\'&'
STARTED = {"arguments": ["experiments.supervised", "--data", HOSTILE, "--run-dir", "a b"], "preset": "digits",
           "changed": {"batch_size": [256, 8], "data": ["digits", HOSTILE]}}
PROTOCOL = {"data": {"fingerprint": "ab", "classes": 3, "training_images": 1437, "test_images": 360},
            "chosen_by": "last step"}
METRICS = {"test/loss": 1.25, "test/top1": 0.8125, "test/top5": 1.0, f"test/ap50/{HOSTILE}": 0.5}


def write_log(folder: Path, lines: int = 5) -> None:
    """A metrics file with a line for every ten steps."""
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(10, 10 * lines + 1, 10):
            line = {"step": step, "epoch": step / 10, "train/loss": 30 / step, "train/learning_rate": 1e-3,
                    f"test/iou/{HOSTILE}": 0.5, "test/top1": 1 - 5 / step, "seconds": step / 2}
            file.write(json.dumps(line) + "\n")


def write_finished(path: Path, metrics: dict[str, float] = METRICS, *, experiment: str = "supervised",
                   protocol: dict[str, Any] = PROTOCOL) -> Path:
    """A complete run with a log, a wide picture and a wide table; its page is in it."""
    config = DataConfig(run_dir=str(path), data=HOSTILE, batch_size=8)
    with RunFolder(config, experiment, "digits", started=STARTED) as folder:
        folder.begin()
        write_log(path)
        Image.fromarray(np.zeros((30, 2000), np.uint8)).save(path / "figures" / "confusion.png")
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path / "figures" / "<b>&\u202e.png")
        (path / "figures" / "classes.txt").write_text("class  recall\n" + f"{HOSTILE}  99.00 %\n" + "x" * 300 + "\n")
        folder.finish(metrics, protocol)
    return path


def write_live(path: Path, step: int = 50, stopped: str | None = None) -> Path:
    """A run whose training is at a step, with its page."""
    config = DataConfig(run_dir=str(path), data=HOSTILE, batch_size=8)
    with RunFolder(config, "supervised", "digits", started=STARTED) as folder:
        folder.begin()
        write_log(path)
        facts = {"training_images": 1437, "test_images": 360, "classes": 3}
        assert write_report(path, str(path), folder.config, None, Progress(step, 200, facts, stopped)) is None
    return path
