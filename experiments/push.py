"""Publish a trained network on the Hugging Face Hub.

    python -m experiments.push runs/supervised/digits hf-hub:ME/NAME --dry-run
    python -m experiments.push runs/supervised/digits hf-hub:ME/NAME --license apache-2.0

It writes a folder with model.safetensors, config.json and a model card, README.md, and sends it by the login of `hf
auth login`. This library reads it back by `--weights hf-hub:ME/NAME`, and timm by `timm.create_model("hf-hub:ME/NAME",
pretrained=True)`. A network that timm cannot build is published in this library's own names, and its card says so.
"""

import dataclasses
import re
from pathlib import Path
from typing import Annotated

from cvjax.errors import ConfigError
from cvjax.storage import check_repository
from cvjax.workflow.command import command
from cvjax.workflow.config import require
from cvjax.workflow.options import Mark, Positional

HUB = "hf-hub:"  # as in `cvjax.interop.hub`, which takes longer to import


@dataclasses.dataclass(frozen=True)
class Config:
    """What to publish, and where."""

    run: Annotated[str, Positional]
    """The folder of a complete run: of a classifier, a regressor or an encoder."""
    hub: Annotated[str, Mark(positional=True, metavar="hf-hub:OWNER/NAME")]
    """The repository, which is made if it is missing. A model card that is there is replaced; the hub keeps it in the
    repository's history."""
    output: Path | None = None
    """The folder to write; by default hub/NAME."""
    license: str | None = None
    """The identifier of the weights' licence, such as apache-2.0 or cc-by-4.0; by default none is stated."""
    private: bool = False
    """Make a missing repository for its owner alone."""
    dry_run: bool = False
    """Write the folder and send nothing."""

    def __post_init__(self) -> None:
        repository = self.hub.removeprefix(HUB)
        try:
            check_repository(repository)
        except ValueError as error:
            raise ConfigError(f"{self.hub}: {error}") from None
        if repository == self.hub or "/" not in repository or "@" in repository:
            raise ConfigError(f"{self.hub}: it must be {HUB}OWNER/NAME")
        require(self.license is None or re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license) is not None, "license",
                self.license, "an identifier of the hub, such as apache-2.0")

    @property
    def repository(self) -> str:
        """OWNER/NAME."""
        return self.hub.removeprefix(HUB)

    @property
    def folder(self) -> Path:
        """Where the files are written."""
        return self.output or Path("hub") / self.repository.rpartition("/")[2]


if __name__ == "__main__":
    command("experiments.push", "experiments.wiring.push")
