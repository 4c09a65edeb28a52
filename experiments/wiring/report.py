"""The work of `python -m experiments.report`; its options are in experiments/report.py."""

from cvjax.durable import write_whole
from cvjax.errors import ConfigError
from cvjax.text import printable
from cvjax.workflow.report.index import INDEX, find_runs, index_of
from cvjax.workflow.report.page import REPORT, rewrite_report
from cvjax.workflow.run_files import CONFIG
from experiments.report import Config


def run(config: Config) -> None:
    """Write `report.html` of one run, or `index.html` of all runs below a folder."""
    folder = config.folder
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give a run's folder, or one with runs")
    if (folder / CONFIG).exists():
        rewrite_report(folder)
        print(f"written to {folder / REPORT}")
        return
    runs = find_runs(folder)
    if not runs:
        raise ConfigError(f"{folder} holds no run: no folder in it has a {CONFIG}")
    page, left_out = index_of(folder, runs)
    for path, reason in left_out.items():
        print(printable(f"in no table: {path} {reason}"))
    write_whole(folder / INDEX, page, synced=False)
    print(f"written to {folder / INDEX}")
