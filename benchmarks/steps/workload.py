"""A workload: the training step or inference that both sides do, described without either library.

The worker processes of both sides import this file, so it imports neither JAX nor torch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

RATES = {"momentum": 0.01, "adamw": 1e-4}  # learning rates: they do not change the time, but losses must stay finite
DECAYS = {"momentum": 1e-4, "adamw": 0.05}  # weight decays: of all parameters; only of matrices
SGD_MOMENTUM = 0.9
MASK_RATIO = 0.75
TEACHER_MOMENTUM, CENTER_MOMENTUM = 0.996, 0.9
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1
HEAD_HIDDEN, HEAD_BOTTLENECK = 2048, 256  # DINO's head: widths of its three layers before the prototypes


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training step, or one inference, of `model` on `batch_size` square images with sides of `image_size` pixels.

    task: "supervised", "mae" or "dino"; for "dino", `model` is the backbone.
    training: False for inference on whole images: a classifier's logits, features of MAE's encoder or DINO's backbone.
    dtype: "float32" or "bfloat16", in which the model computes; parameters are float32.
    convolutional: whether it is a convolutional network, which trains by SGD with momentum instead of AdamW, and for
        which torch's channels-last layout may be faster.
    fields: the shape of an MAE (`patch_size`, `width`, `decoder_depth` and so on).
    prototypes, local_crops, local_size: of DINO, which also has two global views with sides of `image_size`.
    mean, deviation: of each channel, by which pixels in [0, 1] are normalised.
    """

    task: Literal["supervised", "mae", "dino"]
    model: str
    training: bool
    batch_size: int
    image_size: int
    channels: int
    num_classes: int
    dtype: str
    convolutional: bool
    fields: Mapping[str, Any]
    prototypes: int
    local_crops: int
    local_size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def label(self) -> str:
        """The model as the command line spells it, and "train" or "inference"."""
        name = f"dino:{self.model}" if self.task == "dino" else self.model
        return f"{name} {'train' if self.training else 'inference'}"

    @property
    def optimizer(self) -> str:
        """Its name in `cvjax.train.optim`."""
        return "momentum" if self.convolutional else "adamw"


def synthetic_batch(workload: Workload) -> dict[str, np.ndarray]:
    """A batch of noise, the same for both sides.

    Returns:
        `image` uint8 `(B, H, W, C)`, `label` int32 `(B,)` and `index` int32 `(B,)`. DINO's training also has its views,
        uint8: `globals (B, 2, H, W, C)` and, with local crops, `locals (B, V, h, w, C)`.
    """
    rng = np.random.default_rng(0)
    batch, size = workload.batch_size, workload.image_size

    def pixels(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, (batch, *shape, workload.channels), np.uint8)

    label = rng.integers(0, max(workload.num_classes, 1), batch).astype(np.int32)
    arrays = {"image": pixels(size, size), "label": label, "index": np.arange(batch, dtype=np.int32)}
    if workload.task == "dino" and workload.training:
        arrays["globals"] = pixels(2, size, size)
        if workload.local_crops:
            arrays["locals"] = pixels(workload.local_crops, workload.local_size, workload.local_size)
    return arrays
