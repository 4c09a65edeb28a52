"""Weight files from the Hugging Face hub, through `huggingface_hub` and its cache, folders like its own, and to it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from cvjax.errors import StorageError
from cvjax.storage import check_repository
from cvjax.timm_weights import about_weights

HUB = "hf-hub:"  # timm's prefix of names on the hub
CONFIG = "config.json"  # what is published beside the weights: their architecture and classes; timm's: their images
WEIGHTS = "model.safetensors"
_FILES = (WEIGHTS, "pytorch_model.bin")
_SHARDED = tuple(f"{file}.index.json" for file in _FILES)  # beside weights that lie in several files
_IN_PARTS = ("its weights lie in several files, by {}, which are not read here; put them into one: with transformers, "
             "load it and save_pretrained(FOLDER, max_shard_size='999GB')")


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds weights as repositories on the hub do."""
    return any((folder / file).is_file() for file in _FILES)


def in_folder(folder: Path) -> Path:
    """The weight file of a folder that is like a repository on the hub; FileNotFoundError if there is none."""
    for file in _FILES:
        if (folder / file).is_file():
            return folder / file
    for file in _SHARDED:
        if (folder / file).is_file():
            raise FileNotFoundError(f"{folder}: {_IN_PARTS.format(file)}")
    raise FileNotFoundError(f"{folder}: holds neither {' nor '.join(_FILES)}")


def beside(name: str, weights: Path, file: str) -> Path | None:
    """Another file of the repository or the folder that weights are from, None if there is none.

    name: where the weights are from, `hf-hub:OWNER/NAME` or a path. weights: their file on this machine.
    """
    if name.startswith(HUB):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

        repository, _, revision = name.removeprefix(HUB).partition("@")
        with contextlib.suppress(EntryNotFoundError, HfHubHTTPError):  # also a cache without it
            return Path(hf_hub_download(repository, file, revision=revision or None))
        return None
    path = weights.with_name(file)
    return path if path.is_file() else None


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
    for file in _SHARDED:
        with contextlib.suppress(EntryNotFoundError, HfHubHTTPError):
            hf_hub_download(repository, file, revision=revision or None)
            raise FileNotFoundError(f"{name}: {_IN_PARTS.format(file)}")
    raise FileNotFoundError(f"{name}: holds neither {' nor '.join(_FILES)}{_hint(repository)}")


def _hint(repository: str) -> str:
    """What timm's list says of a repository of timm that cannot be had."""
    owner, _, weights = repository.partition("/")
    said = about_weights(weights) if owner == "timm" else ""
    return f"; {said}" if said else ""


def upload(folder: Path, files: Sequence[str], repository: str, *, private: bool = False) -> str:
    """Send files of a folder to the repository OWNER/NAME, which is made if it is missing, as one commit.

    The token is that of the hub's own login. private: make it for its owner alone; otherwise the owner's settings say
    who sees it. One that is there stays as it is. Returns the address of the commit. Raises StorageError, in one line,
    for whatever prevents it.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
    except ImportError:
        raise StorageError("huggingface_hub is not installed: pip install huggingface_hub") from None
    api = HfApi(token=True)  # an error without a login, where it would otherwise ask as nobody
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        return api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(files),
                                 commit_message="Weights, config.json and model card by cvjax").commit_url
    except LocalTokenNotFoundError:
        raise StorageError(f"{repository}: not logged in to the hub; `hf auth login` does it, or a token in HF_TOKEN"
                           ) from None
    except HfHubHTTPError as error:
        reason = error.server_message or next(iter(str(error).splitlines()), type(error).__name__)
        raise StorageError(f"{repository}: the hub does not take it: {' '.join(reason.split())}") from None
    except Exception as error:  # each version of the library has another HTTP client, with errors of its own
        raise StorageError(f"{repository}: the hub cannot be reached: {' '.join(str(error).split())[:300]}") from None
