"""One row of a benchmark: what has to be done, in words that every library understands.

Neither JAX nor torch is imported here: both sides' worker processes read this file, and each loads its own library.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

RATES = {"momentum": 0.01, "adamw": 1e-4}  # learning rates; they change no time, but losses have to stay finite
DECAYS = {"momentum": 1e-4, "adamw": 0.05}  # of all parameters, and of matrices alone
SGD_MOMENTUM = 0.9
MASK_RATIO = 0.75
TEACHER_MOMENTUM, CENTER_MOMENTUM = 0.996, 0.9
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1
HEAD_HIDDEN, HEAD_BOTTLENECK = 2048, 256  # DINO's projection head; three layers before the prototypes


@dataclasses.dataclass(frozen=True)
class Work:
    """A training step, or one inference, of `model` on `batch_size` images of `image_size` squared.

    task: "supervised"; "mae"; "dino", `model` is then the backbone. training: False for inference: logits of a
    classifier, features of an MAE's encoder or of DINO's backbone, of whole images.
    dtype: "float32" or "bfloat16", of the model's computation; parameters are float32.
    convolutional: a network of convolutions: SGD with momentum instead of AdamW, and channels-last can help torch.
    fields: shape of an MAE (`patch_size`, `width`, `decoder_depth` and so on).
    prototypes, local_crops, local_size: of DINO; two global views of `image_size` come first.
    mean, deviation: of the normalisation, per channel, of pixels in [0, 1].
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
        """Name of the row, as the command line spells the model."""
        name = f"dino:{self.model}" if self.task == "dino" else self.model
        return f"{name} {'train' if self.training else 'inference'}"

    @property
    def optimizer(self) -> str:
        """Name in `cvjax.train.optim`."""
        return "momentum" if self.convolutional else "adamw"


def synthetic_batch(work: Work) -> dict[str, np.ndarray]:
    """Noise for both sides, pixels uint8 with channels last.

    `image (B, H, W, C)`, `label (B,)`, `index (B,)`; DINO's training has `globals (B, 2, H, W, C)` and
    `locals (B, V, h, w, C)` besides: ready-made views.
    """
    rng = np.random.default_rng(0)
    batch, size = work.batch_size, work.image_size

    def pixels(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, (batch, *shape, work.channels), np.uint8)

    arrays = {"image": pixels(size, size), "label": rng.integers(0, max(work.num_classes, 1), batch).astype(np.int32),
              "index": np.arange(batch, dtype=np.int32)}
    if work.task == "dino" and work.training:
        arrays["globals"] = pixels(2, size, size)
        if work.local_crops:
            arrays["locals"] = pixels(work.local_crops, work.local_size, work.local_size)
    return arrays
