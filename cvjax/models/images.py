"""Sizes of images, and the checks of the images that models take."""

import jax


def as_pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image size given as one number or as a pair."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width


def size_of(maps: jax.Array) -> tuple[int, int]:
    """Height and width of images or feature maps `(B, H, W, C)`."""
    _, height, width, _ = maps.shape
    return height, width


def check_images(images: jax.Array, in_channels: int, *, at_least: int = 1) -> None:
    """ValueError unless images are `(B, H, W, in_channels)` with both sides at least `at_least` pixels."""
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}: they must be (B, H, W, C)")
    if images.shape[-1] != in_channels:
        hint = (f"; {images.shape} looks like PyTorch's order (B, C, H, W), images.transpose(0, 2, 3, 1) gives "
                "(B, H, W, C)") if images.shape[1] == in_channels else ""
        raise ValueError(f"images have {images.shape[-1]} channels, the model takes {in_channels}{hint}")
    if min(images.shape[1:3]) < at_least:
        raise ValueError(f"images of {images.shape[1]}x{images.shape[2]} pixels are too small: "
                         f"both sides must be at least {at_least}")


def check_image_size(images: jax.Array, image_size: int | tuple[int, int]) -> None:
    """ValueError unless images `(B, H, W, C)` have `image_size`, for models whose parameters depend on it."""
    if tuple(images.shape[1:3]) != as_pair(image_size):
        (height, width), (rows, columns) = images.shape[1:3], as_pair(image_size)
        raise ValueError(f"images of {height}x{width} pixels do not fit: "
                         f"the model's field image_size says {rows}x{columns}")
