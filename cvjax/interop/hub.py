"""Weight files from the Hugging Face hub, through `huggingface_hub` and its cache."""

from pathlib import Path

HUB = "hf-hub:"  # timm's prefix of names on the hub
_FILES = ("model.safetensors", "pytorch_model.bin")


def download(name: str) -> Path:
    """The weight file of `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`, from the cache where it is there.

    Raises FileNotFoundError, in one line, when it is neither in the cache nor to be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.removeprefix(HUB).partition("@")
    reached = True
    for file in _FILES:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError:  # before EntryNotFoundError, whose kind it is; the cache may have the other one
            reached = False
        except EntryNotFoundError:
            continue
        except (HFValidationError, HfHubHTTPError) as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(f"{name}: the hub does not give it ({reason})") from None
    if not reached:
        raise FileNotFoundError(f"{name}: not in the hub's cache, and the hub cannot be reached; run once with a "
                                "network, or give the path of a downloaded file")
    raise FileNotFoundError(f"{name}: holds neither {' nor '.join(_FILES)}")
