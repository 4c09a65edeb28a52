"""The work of `python -m experiments.push`; its options are in experiments/push.py."""

import json
import re
from pathlib import Path

from cvjax.durable import make_folder, write_whole
from cvjax.errors import ConfigError, CvjaxError
from cvjax.interop import save_weights
from cvjax.interop.families import family_of
from cvjax.interop.hub import CONFIG, WEIGHTS, upload
from cvjax.interop.published import OWN, is_published
from cvjax.interop.timm_config import timm_arguments, write_config
from cvjax.text import printable, read_text
from cvjax.workflow.folder import check_output
from cvjax.workflow.model_card import model_card
from cvjax.workflow.restore import SUPERVISED, Run, load_run
from cvjax.workflow.run_files import SUMMARY, read_config, read_summary
from experiments.push import Config

CARD = "README.md"
FILES = (WEIGHTS, CONFIG, CARD)
LEFT = re.compile(rf"({'|'.join(map(re.escape, FILES))})\.\d+\.partial")  # by a killed process, see `cvjax.durable`


def run(config: Config) -> None:
    """Write the folder, and send it unless this is a dry run."""
    run = load_run(config.run).require_trained().require("encoder", *SUPERVISED)
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
    """ConfigError for a folder that holds anything but what an earlier push wrote, even one that was killed."""
    check_output(output, run)
    found = {entry.name for entry in output.iterdir() if not LEFT.fullmatch(entry.name)} if output.exists() else set()
    others = sorted(found.difference(FILES) or ([] if is_ours(output / CONFIG) else found))
    if others:
        raise ConfigError(printable(f"--output {output} holds other files ({', '.join(others[:3])}): give an empty or "
                                    "new folder"))


def is_ours(config: Path) -> bool:
    """Whether a `config.json`, the first file that a push writes, is about weights from here."""
    try:
        content = json.loads(read_text(config))
    except (OSError, ValueError, CvjaxError):
        return False
    return is_published(content) and OWN in content


def write_folder(config: Config, run: Run) -> None:
    """Write the three files, and say what they are."""
    name = run.network_name
    in_timm = timm_arguments(run.model, name) is not None
    card = model_card(run, read_config(run.path), read_summary(run.path), config.repository, name, in_timm=in_timm,
                      license=config.license)
    make_folder(config.folder)
    for entry in config.folder.iterdir():
        if LEFT.fullmatch(entry.name):
            entry.unlink()
    weights = config.folder / WEIGHTS
    write_config(weights, run.model, run.preprocessing, run.class_names, name=name, judged_size=run.image_size[0],
                 license=config.license)
    save_weights(run.variables, run.model, weights, "timm" if in_timm else None)
    write_whole(config.folder / CARD, card)
    print(f"written to {config.folder}: {', '.join(FILES)}")
    print(f"timm builds it as {name}" if in_timm else
          f"timm has no such network: the weights of {name} are in this library's own names, and the card says so")

