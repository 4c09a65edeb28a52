"""Weight files from the Hugging Face hub, through `huggingface_hub` and its cache."""

import contextlib
from pathlib import Path

from cvjax.storage import check_repository
from cvjax.timm_weights import about_weights

HUB = "hf-hub:"  # timm's prefix of names on the hub
CONFIG = "config.json"  # what timm publishes beside the weights: their images, classes and architecture
_FILES = ("model.safetensors", "pytorch_model.bin")


def download(name: str) -> Path:
    """The weight file of `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`: from the cache, or else downloaded.

    The repository's `config.json` comes with it, into the same folder, if there is one.

    Raises FileNotFoundError, in one line, when the file is neither in the cache nor on the hub. Of timm's it says
    whether timm lists them.
    """
    # Not at the top: this loads an HTTP client, which takes half a second and which local files do not need.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        check_repository(name.removeprefix(HUB))
    except ValueError as error:
        raise FileNotFoundError(f"{name}: {error}") from None
    repository, _, revision = name.removeprefix(HUB).partition("@")
    reached = True
    for file in _FILES:
        try:
            path = Path(hf_hub_download(repository, file, revision=revision or None))
            with contextlib.suppress(EntryNotFoundError):  # also a cache without it
                hf_hub_download(repository, CONFIG, revision=revision or None)
            return path
        except LocalEntryNotFoundError:  # first, as a subclass of EntryNotFoundError; the cache may hold the other file
            reached = False
        except EntryNotFoundError:
            continue
        except (HFValidationError, HfHubHTTPError) as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(f"{name}: the hub does not give it ({reason}){_hint(repository)}") from None
    if not reached:
        raise FileNotFoundError(f"{name}: not in the hub's cache, and the hub cannot be reached; run once with a "
                                f"network, or give the path of a downloaded file{_hint(repository)}")
    raise FileNotFoundError(f"{name}: holds neither {' nor '.join(_FILES)}{_hint(repository)}")


def _hint(repository: str) -> str:
    """What timm's list says of a repository of timm that cannot be had."""
    owner, _, weights = repository.partition("/")
    said = about_weights(weights) if owner == "timm" else ""
    return f"; {said}" if said else ""
