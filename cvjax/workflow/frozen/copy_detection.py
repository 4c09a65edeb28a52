"""Folders of originals and of their distorted copies, described by a frozen vision transformer."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cvjax.errors import DataError
from cvjax.evaluate.copy_detection import copy_features
from cvjax.workflow.frozen.encoder import Encoder, tokens_of
from cvjax.workflow.frozen.pictures import read_picture, square


def originals_of(copies: Sequence[Path], originals: Sequence[Path], prefix: int | None = None) -> list[list[int]]:
    """The positions of each copy's originals: those with the longest stem that the copy's stem starts with.

    prefix: compare only this many first characters of the stems instead. DataError for a copy without an original.
    """
    found = []
    for copy in copies:
        if prefix is None:
            begun = [len(original.stem) if copy.stem.startswith(original.stem) else 0 for original in originals]
            right = [row for row, length in enumerate(begun) if length and length == max(begun)]
        else:
            right = [row for row, original in enumerate(originals) if original.stem[:prefix] == copy.stem[:prefix]]
        if not right:
            rule = "with the name of one" if prefix is None else f"with the first {prefix} characters of one's name"
            raise DataError(f"{copy} has no original: its name must begin {rule}, such as {originals[0].stem}")
        found.append(right)
    return found


def describe(encoder: Encoder, paths: Sequence[Path], image_size: int, batch_size: int, what: str) -> np.ndarray:
    """Descriptors float32 `(N, 2 D)` of picture files (`cvjax.evaluate.copy_detection.copy_features`).

    Each picture is squeezed into a square of `image_size`, a multiple of the patch size. DataError if unreadable.
    """
    tokens, prefix, described = tokens_of(encoder), encoder.model.prefix, []
    features = jax.jit(lambda tokens: copy_features(tokens[:, 0], tokens[:, prefix:]))
    for start in tqdm(range(0, len(paths), batch_size), desc=what, unit="batch", delay=2):
        pictures = np.stack([read_picture(path, encoder.channels, square(image_size))[0]
                             for path in paths[start:start + batch_size]])
        rows = [(0, batch_size - len(pictures)), (0, 0), (0, 0), (0, 0)]  # one shape, one compilation
        seen = tokens(encoder.variables, jnp.asarray(np.pad(pictures, rows)))
        described.append(np.asarray(features(seen))[:len(pictures)])
    return np.concatenate(described)
