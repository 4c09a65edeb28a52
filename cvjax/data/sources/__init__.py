"""Readers of images with labels, one file each, and the one door to them."""

import dataclasses

from cvjax.data.dataset import Dataset
from cvjax.data.forms import IMAGES
from cvjax.data.sources.image_files import cached
from cvjax.data.sources.stored_channels import check_channels, lost_by_decoding, with_stored_channels
from cvjax.errors import DataError


def open_dataset(spec: str, *, seed: int = 0, cache: bool = False, channels: int | None = None) -> Dataset:
    """Opens the data set that `spec` names, such as `digits` or `folder:PATH`; `cvjax.data.forms.IMAGES` has them all.

    Args:
        seed: decides the held-out part if the data set has none. The digits' split is always the same.
        cache: decode a folder, tar files or a pack once, into memory. The digits and .npz files always are in memory.
        channels: how many the files store, which stay as they are with all their bits (see `cvjax.data.stored`). By
            default files are photos, made 8-bit RGB (grey where tfds: says so); what that loses is told in `noticed`.
            Arrays keep theirs in any case.

    Raises:
        DataError: with what was asked and what is allowed.
    """
    form = IMAGES.find(spec)
    if cache and not form.in_memory and "cache" not in form.options:
        raise DataError(f"cache is for {IMAGES.taking('cache')}, got {spec!r}")
    if channels is None:
        dataset = IMAGES.open(spec, seed=seed, cache=cache)
        lost = "" if dataset.in_memory else lost_by_decoding(dataset.train)
        return dataclasses.replace(dataset, noticed="; ".join(filter(None, [dataset.noticed, lost])))
    dataset = IMAGES.open(spec, seed=seed, cache=False)
    if dataset.in_memory:
        check_channels(dataset, channels, spec)
        return dataset
    dataset = with_stored_channels(dataset, channels)
    return cached(dataset) if cache else dataset
