"""The work of `python -m experiments.export`; its options are in experiments/export.py."""

from pathlib import Path
from typing import Any

from cvjax.errors import ConfigError
from cvjax.models import list_models
from cvjax.spelling import did_you_mean
from cvjax.storage import is_address
from cvjax.text import printable
from cvjax.workflow.config import require
from cvjax.workflow.export.folder import HOW_TO_LOAD, check_new, file_of, write_export
from cvjax.workflow.export.program import program_of
from cvjax.workflow.export.source import network_of_model, network_of_run, open_run
from cvjax.workflow.restore import SUPERVISED, Run
from cvjax.workflow.run_files import SUMMARY, read_summary
from experiments.export import Config


def run(config: Config) -> None:
    """Write the folder, and print what is in it."""
    check_new(config.output)
    learnt = None
    if is_run(config):
        for name in ("weights", "model_fields", "image_size", "class_names"):
            require(not getattr(config, name), name, getattr(config, name), "left out with a run")
        opened = open_run(config.source)
        network, name, learnt = network_of_run(opened), opened.network_name, facts_of(opened)
    else:
        name = config.source
        network = network_of_model(config.source, config.weights, fields=config.model_fields,
                                   image_size=config.image_size, class_names=config.class_names)
    program = program_of(network, pixels=config.preprocessing, name=name)
    write_export(config.output, program, config.format, learnt, layout=config.layout)
    size = (config.output / file_of(config.format)).stat().st_size
    print(printable(f"{program.name}, {program.kind}: {config.output / file_of(config.format)}, {size / 1e6:.2f} MB"))
    print(printable(f"how to load it: {config.output / HOW_TO_LOAD}"))


def is_run(config: Config) -> bool:
    """Whether the source is the folder of a run; ConfigError if it is neither this nor the name of a model."""
    if config.source in list_models() and (config.weights or not Path(config.source).is_dir()):
        return False
    if is_address(config.source) or Path(config.source).is_dir():
        return True
    hint = did_you_mean(config.source, list_models(), "list_models() names all")
    raise ConfigError(f"{config.source} is neither the folder of a run nor the name of a model: {hint}")


def facts_of(run: Run) -> dict[str, Any]:
    """What `export.json` keeps of a run: its numbers and their protocol, whether it is finished, and what is known of
    its answers: the mean and deviation of numbers, the views over which they are averaged."""
    facts: dict[str, Any] = {"experiment": run.experiment, "finished": (run.path / SUMMARY).exists()}
    if run.kind in SUPERVISED and run.facts:
        facts["answers"] = dict(run.facts)
    if facts["finished"]:
        summary = read_summary(run.path)
        facts |= {name: summary[name] for name in ("metrics", "protocol", "steps") if name in summary}
    return facts
