"""The work of `python -m experiments.evaluate`; its options are in experiments/evaluate.py."""

from cvjax.errors import ConfigError
from cvjax.train.preemption import StopRequest
from cvjax.workflow.classification.goal import check_judged, check_same_goal
from cvjax.workflow.classification.model import load_classifier
from cvjax.workflow.classification.report import report
from cvjax.workflow.config import on_data_of
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.probing import shared_protocol
from cvjax.workflow.image_inputs import make_inputs
from cvjax.workflow.inputs import check_batches
from experiments.evaluate import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Write `summary.json` and `figures/`."""
    classifiers = [load_classifier(run, config.step) for run in config.checkpoint]
    for each in classifiers:
        folder.reads(each.origin)
    own = [on_data_of(config, each.learnt) for each in classifiers]
    if any(other != own[0] for other in own):
        raise ConfigError(f"the checkpoints learnt from different data ({own[0].data}, ...): give --data")
    config = own[0]
    inputs = make_inputs(config, image_size=max(each.image_size for each in classifiers), folder=folder,
                         preprocessing=classifiers[0].preprocessing)
    check_batches(inputs)
    if getattr(inputs.dataset, config.part) is None:
        raise ConfigError(f"--part {config.part}: {config.data} has no such split")
    first, channels = classifiers[0], inputs.dataset.channels
    check_same_goal(first.goal, inputs.dataset, config.data)
    check_judged(inputs.dataset, config.part)
    if first.channels != channels:
        raise ConfigError(f"the checkpoint takes images of {first.channels} channels, {config.data} has {channels}; "
                          f"--channels {first.channels} reads files that store as many")
    print(f"evaluate {len(classifiers)} run{'s' if len(classifiers) > 1 else ''} on the {config.part} split of "
          f"{config.data}: {len(getattr(inputs.dataset, config.part)):,} images")
    if config.dry_run:
        return
    folder.begin()
    metrics = {f"{config.part}/{name}": value
               for name, value in report(classifiers, inputs, folder.figures, config.part).items()}
    print_metrics(metrics)
    folder.finish(metrics, shared_protocol(inputs) | {
        "checkpoints": [str(run) for run in config.checkpoint], "step": config.step, "part": config.part})
