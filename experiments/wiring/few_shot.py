"""The work of `python -m experiments.few_shot`; its options are in experiments/few_shot.py."""

from cvjax.train.preemption import StopRequest
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.probing import run_frozen
from experiments.few_shot import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Extract features, draw, fit, report."""
    run_frozen(config, folder, linear=False, knn=False, shots=config.shots, draws=config.draws)
