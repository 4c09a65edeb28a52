"""The work of `python -m experiments.knn`; its options are in experiments/knn.py."""

from cvjax.train.preemption import StopRequest
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.options import NeighbourConfig
from cvjax.workflow.frozen.probing import run_frozen


def run(config: NeighbourConfig, folder: RunFolder, stop: StopRequest) -> None:
    """Extract features, search neighbours, report."""
    run_frozen(config, folder, linear=False)
