"""The stages of the input, each by itself: reading, decoding, cropping, the whole pipeline, the copy to the device."""

import io
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from cvjax.data.crops import RandomResizedCrop, random_box
from cvjax.data.dataset import Source
from cvjax.data.decode import DecodeError, LazyImage, to_array
from cvjax.data.pipeline import Stream, TrainBatches
from cvjax.errors import DataError

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read_images(source: Source, positions: Iterable[int]) -> list[bytes]:
    """The encoded images at these positions, without those that cannot be decoded.

    Raises:
        DataError: none of them can be decoded.
    """
    images = []
    for position in positions:
        try:
            image = source[position]["image"]
            with LazyImage(image, 3) as lazy:
                lazy.pixels()
            images.append(image)
        except (DecodeError, OSError):
            continue
    if not images:
        raise DataError("none of the images can be read")
    return images


def reading(source: Source, positions: Iterable[int]) -> dict[str, float]:
    """Images and MB (10**6 bytes) per second of one thread that reads the records at these positions, in this order.

    Wall-clock time, which includes the storage's; files that the operating system still holds in memory come from
    there. Images that cannot be read are not counted.
    """
    count = size = 0
    start = time.perf_counter()
    for position in positions:
        try:
            count, size = count + 1, size + len(source[position]["image"])
        except (DecodeError, OSError):
            continue
    seconds = time.perf_counter() - start
    return {"images_per_second": count / seconds, "mb_per_second": size / 1e6 / seconds}


def one_core(images: list[bytes], size: int, repeats: int, progress: Callable[[], object]) -> dict[str, Any]:
    """CPU time of decoding and random crops, and of Pillow's for the same boxes.

    Pillow decodes in full, crops, and resizes with antialiasing, as torchvision does for PIL images. All ways run one
    after the other in this thread, in each of `repeats` rounds; the median round is reported.

    Returns:
        `milliseconds` of an image, by name; and `difference`, by interpolation: mean |ours - Pillow's| of the crops in
        grey levels.
    """
    crops = {name: RandomResizedCrop(size, interpolation=name) for name in PILLOW}
    ways: dict[str, Callable[[bytes, int], Any]] = {
        "decode": lambda image, seed: _decode(image),
        "decode, Pillow": lambda image, seed: _decode_pillow(image),
    }
    for name, crop in crops.items():
        ways[f"crop, {name}"] = lambda image, seed, crop=crop: crop(image, np.random.default_rng(seed))
        ways[f"crop, {name}, Pillow"] = lambda image, seed, crop=crop: pillow_crop(image, crop, seed)
    # The comparison is also the warm-up.
    difference = {name: statistics.fmean(
        np.abs(crop(image, np.random.default_rng(seed)).astype(int) - pillow_crop(image, crop, seed)).mean()
        for seed, image in enumerate(images)) for name, crop in crops.items()}
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.thread_time()
            for seed, image in enumerate(images):
                way(image, seed)
            rounds[name].append((time.thread_time() - start) / len(images) * 1e3)
            progress()
    return {"milliseconds": {name: statistics.median(each) for name, each in rounds.items()}, "difference": difference}


def _decode(image: bytes) -> np.ndarray:
    with LazyImage(image, 3) as lazy:
        return lazy.pixels()


def _decode_pillow(image: bytes) -> Image.Image:
    """As torchvision's `pil_loader`, and then turned upright, so that boxes are the same as ours."""
    opened = Image.open(io.BytesIO(image))
    whole = opened.convert("RGB")
    return ImageOps.exif_transpose(whole) if "exif" in opened.info else whole


def pillow_crop(image: bytes, crop: RandomResizedCrop, seed: int) -> np.ndarray:
    """The crop if Pillow does everything and decodes in full: uint8 `(size, size, 3)`."""
    whole, rng = _decode_pillow(image), np.random.default_rng(seed)
    top, left, height, width = random_box(rng, whole.height, whole.width, crop.scale, crop.ratio)
    box = whole.crop((left, top, left + width, top + height))
    return to_array(box.resize((crop.size, crop.size), PILLOW[crop.interpolation]))


def pipeline(source: Source, size: int, batch_size: int, batches: int, workers: int,
             progress: Callable[[], object]) -> float:
    """Images per second of `batches` training batches on all cores, in wall-clock time, after as many as warm-up.

    Threads finish their batches at about the same time, so there must be many more batches than threads.
    """
    stream = TrainBatches(source, RandomResizedCrop(size), Stream(batch_size, seed=0, workers=workers))
    try:
        start = 0.0
        for number in range(2 * batches):
            if number == batches:
                start = time.perf_counter()
            next(stream)
            progress()
        return batches * batch_size / (time.perf_counter() - start)
    finally:
        stream.close()


def device_copy(size: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """GB (10**9 bytes) and images per second of copying a uint8 batch to the first device, by the shortest time.

    Both are None if the device is the CPU: nothing has to be copied.
    """
    device, batch = jax.devices()[0], np.zeros((batch_size, size, size, 3), np.uint8)
    answer: dict[str, Any] = {"device": f"{device.platform} ({device.device_kind})", "gb_per_second": None,
                              "images_per_second": None}
    if device.platform == "cpu":
        return answer
    times = []
    for _ in range(repeats + 1):  # the first one is not counted: it sets things up
        start = time.perf_counter()
        jax.block_until_ready(jax.device_put(batch, device))
        times.append(time.perf_counter() - start)
    seconds = min(times[1:])
    return answer | {"gb_per_second": batch.nbytes / 1e9 / seconds, "images_per_second": batch_size / seconds}
