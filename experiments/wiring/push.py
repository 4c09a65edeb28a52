"""The work of `python -m experiments.push`; its options are in experiments/push.py."""

from pathlib import Path
from typing import Any

from cvjax.durable import make_folder, write_whole
from cvjax.errors import ConfigError
from cvjax.interop import save_weights
from cvjax.interop.families import family_of
from cvjax.interop.hub import CONFIG, WEIGHTS, upload
from cvjax.interop.timm_config import timm_arguments, write_config
from cvjax.models import create_model, list_models
from cvjax.models.registry import name_of
from cvjax.text import printable
from cvjax.workflow.folder import check_output
from cvjax.workflow.model_card import model_card
from cvjax.workflow.restore import SUPERVISED, Run, load_run
from cvjax.workflow.run_files import SUMMARY, read_config, read_summary
from experiments.push import Config

CARD = "README.md"
FILES = (WEIGHTS, CONFIG, CARD)


def run(config: Config) -> None:
    """Write the folder, and send it unless this is a dry run."""
    run = load_run(config.run).require("encoder", *SUPERVISED)
    try:
        family_of(run.model)
    except ValueError as error:
        raise ConfigError(f"{config.run}: {error}") from None
    if not (run.path / SUMMARY).exists():
        raise ConfigError(f"{config.run} is not complete: it has no {SUMMARY}, from which the model card is made")
    check_folder(config.folder, run.path)
    write_folder(config, run)
    if config.license is None:
        print("no licence is stated, so that nobody may use the weights: --license NAME states one")
    if config.dry_run:
        print(f"nothing is sent; without --dry-run it goes to {config.hub}")
        return
    print(f"sent to {config.hub}: {upload(config.folder, FILES, config.repository, private=config.private)}")


def check_folder(output: Path, run: Path) -> None:
    """ConfigError for a folder that holds anything but what an earlier push wrote."""
    check_output(output, run)
    found = {entry.name for entry in output.iterdir()} if output.exists() else set()
    others = sorted(found.difference(FILES if WEIGHTS in found else ()))
    if others:
        raise ConfigError(printable(f"--output {output} holds other files ({', '.join(others[:3])}): give an empty or "
                                    "new folder"))


def write_folder(config: Config, run: Run) -> None:
    """Write the three files, and say what they are."""
    name = name_here(run)
    in_timm = timm_arguments(run.model, name) is not None
    card = model_card(run, read_config(run.path), read_summary(run.path), config.repository, name, in_timm=in_timm,
                      license=config.license)
    make_folder(config.folder)
    weights = config.folder / WEIGHTS
    try:
        write_config(weights, run.model, run.preprocessing, run.class_names, name=name, judged_size=run.image_size[0],
                     license=config.license)
    except ValueError as error:  # of the file that is there
        raise ConfigError(f"--output {config.folder}: {error}") from None
    save_weights(run.variables, run.model, weights, "timm" if in_timm else None)
    write_whole(config.folder / CARD, card)
    print(f"written to {config.folder}: {', '.join(FILES)}")
    print(f"timm builds it as {name}" if in_timm else
          f"timm has no such network: the weights of {name} are in this library's own names, and the card says so")


def name_here(run: Run) -> str:
    """The registered name that the run's configuration has for its network, or the closest one."""
    given: Any = run.config.get("model")
    known = given in list_models() and type(create_model(given)) is type(run.model)
    return given if known else name_of(run.model)
