"""Test images, made here so that the suite needs none."""

import io

import numpy as np
from PIL import Image


def gradient(height: int, width: int) -> np.ndarray:
    """A smooth uint8 (height, width, 3) picture: red grows to the right, green downwards, blue is 64."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([red, green, np.full_like(red, 64)], -1).round().astype(np.uint8)


def encode(image, format: str = "PNG", **options) -> bytes:
    """Pixels or a Pillow image, as a file's bytes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def write_folder(root, classes: dict[str, int], size: int = 12) -> None:
    """Writes `classes[name]` different images into root/name/."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((size, size, 3), (7 * i) % 256, np.uint8)
            pixels[: size // 2] = sum(map(ord, name)) % 256
            (root / name / f"{i:03}.png").write_bytes(encode(pixels))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A uint8 (height, width, 3) picture whose amplitudes fall as 1 / frequency, as photographs' do, mean about 128."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency
    waves = np.fft.irfft2(spectrum, (height, width))
    return np.clip(128 + 50 * waves / waves.std(), 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
