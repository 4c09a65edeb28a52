"""Pre-train a ViT as a masked autoencoder, without labels.

The method is MAE (He et al. 2022, https://arxiv.org/abs/2111.06377). A probe of the encoder follows.

The default preset learns the 1,437 embedded digits and needs no network access. For your own photos, in one folder or
in class folders: `python -m experiments.mae_pretrain folder --data folder:PATH`.
"""

import dataclasses
from typing import Any, Literal

from cvjax.workflow.command import main
from cvjax.workflow.config import ContinuedConfig, require


@dataclasses.dataclass(frozen=True)
class Config(ContinuedConfig):
    """MAE pre-training."""

    model: str = "mae_vit_base_patch16"
    """A name from list_models("mae_*")."""
    image_size: int | None = None
    """Side of the training crops; by default the size of the images, if all have the same."""
    patch_size: int | None = None
    """Side of a patch; by default the model's."""
    width: int | None = None
    """Encoder width; by default the model's, as for the next five options."""
    depth: int | None = None
    heads: int | None = None
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mask_ratio: float = 0.75
    """Share of the patches hidden from the encoder."""
    normalize_pixels: bool = True
    """Predict each patch normalised by its own mean and variance."""
    pool: Literal["token", "avg", "patches"] = "token"
    """Features to probe: the class token, the mean of the patch tokens, or all of these side by side."""
    probe_blocks: int = 1
    """Last blocks whose features the linear probe sees side by side; kNN sees the last block's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.probe_blocks >= 1, "probe_blocks", self.probe_blocks, "at least 1")
        for name in ("image_size", "patch_size", "width", "depth", "heads", "decoder_width", "decoder_depth",
                     "decoder_heads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "in (0, 1)")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(
        data="digits", model="mae_vit_tiny_patch16", patch_size=2, width=48, depth=4, heads=2, decoder_width=32,
        decoder_depth=1, decoder_heads=2, mask_ratio=0.6, normalize_pixels=False, crop_scale=(1.0, 1.0), flip=False,
        epochs=160, batch_size=64, optimizer="muon", base_learning_rate=4e-2, b2=0.95, warmup=0.1, log_every=40,
        pool="patches"),
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, model="mae_vit_tiny_patch16", patch_size=4, width=128, depth=6,
        heads=4, decoder_width=64, decoder_depth=2, decoder_heads=4, epochs=8, base_learning_rate=1e-3, b2=0.95,
        checkpoint_every=500, pool="avg"),
    "folder": dict(
        data="folder:photos", model="mae_vit_small_patch16", image_size=224, batch_size=64, epochs=800, b2=0.95,
        decoder_width=256, decoder_depth=4, decoder_heads=8, workers=2),
    "paper": dict(
        data="tfds:imagenet2012", model="mae_vit_base_patch16", image_size=224, batch_size=4096, epochs=800, b1=0.9,
        b2=0.95, decay="no_bias_or_norm", dtype="bfloat16", workers=16, checkpoint_every=1000),
}


if __name__ == "__main__":
    main("experiments.mae_pretrain", "experiments.wiring.mae_pretrain")
