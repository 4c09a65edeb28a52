"""Images in files whose channels and bits stay as they are stored: `--channels N`."""

import dataclasses
from collections import Counter

import numpy as np

from cvjax.data.dataset import Dataset, Source, fingerprint
from cvjax.data.decode import DecodeError, guarded, is_png, open_image
from cvjax.data.stored import decode_stored
from cvjax.errors import DataError

_LOOKED_AT = 100  # training pictures


@dataclasses.dataclass(frozen=True)
class StoredChannels:
    """The records of a source of encoded images, by `decode_stored`; a file of other channels cannot be read."""

    source: Source
    channels: int

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.source.fingerprint, f"channels {self.channels}"])

    @property
    def labels(self) -> np.ndarray | None:
        return self.source.labels

    @property
    def sizes(self) -> np.ndarray | None:
        """Bytes of each file, int64 `(N,)`; None where they are not known before reading."""
        return getattr(self.source, "sizes", None)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        record = self.source[index]
        return {**record, "image": decode_stored(record["image"], self.channels)}

    def name(self, index: int) -> str:
        return self.source.name(index)

    def take(self, positions: np.ndarray) -> "StoredChannels":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, source=self.source.take(positions))


def with_stored_channels(dataset: Dataset, channels: int) -> Dataset:
    """The data set of encoded images with the channels that its files store."""
    def stored(source: Source | None) -> StoredChannels | None:
        return None if source is None else StoredChannels(source, channels)

    return dataclasses.replace(dataset, train=StoredChannels(dataset.train, channels), test=stored(dataset.test),
                               validation=stored(dataset.validation), channels=channels, image_dtype=np.float32)


def lost_by_decoding(source: Source) -> str:
    """What photos lose when they become 8-bit RGB, in words; empty if nothing is lost. 100 pictures are looked at."""
    chosen = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int))
    found: Counter[str] = Counter()
    for index in chosen:
        try:
            found.update(guarded(_lost, source[int(index)]["image"]))
        except (OSError, DecodeError):  # counted when it is read for a batch
            continue
    if not found:
        return ""
    words = " and ".join(f"{count} have {what}" for what, count in sorted(found.items()))
    return f"of {len(chosen)} training pictures looked at, {words}; --channels keeps what is stored"


def _lost(encoded: bytes | np.ndarray) -> list[str]:
    if isinstance(encoded, np.ndarray):
        return []
    with open_image(encoded) as image:
        deep = image.mode.startswith("I") or is_png(encoded) and encoded[24] == 16
        clear = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    return ["16 bits, made 8"] * deep + ["an alpha channel, laid on white"] * clear


def check_channels(dataset: Dataset, channels: int, spec: str) -> None:
    """DataError unless images that are arrays have this many channels."""
    if dataset.channels != channels:
        raise DataError(f"--channels {channels}: the images of {spec} are arrays of {dataset.channels}; leave it out")
