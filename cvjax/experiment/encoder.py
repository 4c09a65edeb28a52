"""A pre-trained encoder out of a run's checkpoint, and features from it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.experiment.config import ConfigError
from cvjax.experiment.training import evaluated_variables
from cvjax.models import create_model
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.vit import VisionTransformer
from cvjax.train.checkpoint import restore_weights

MAE_FIELDS = ("patch_size", "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads")


def build_mae(config: dict[str, Any], *, image_size: int, channels: int) -> MaskedAutoencoder:
    """The masked autoencoder that a configuration of `experiments.mae_pretrain` describes."""
    chosen = {name: config[name] for name in MAE_FIELDS if config[name] is not None}
    try:
        model = create_model(config["model"], image_size=image_size, in_channels=channels, remat=config["remat"],
                             mask_ratio=config["mask_ratio"], dtype=jnp.dtype(config["dtype"]), **chosen)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, image_size, image_size, channels)),
                       jnp.zeros((1, model.grid[0] * model.grid[1])))
    except ValueError as error:
        raise ConfigError(f"--model {config['model']}: {error}") from None
    return model


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A headless ViT with its parameters.

    pool: its features are the class token ("token") or the mean of the patch tokens ("avg").
    blocks: of how many last blocks, side by side, a linear probe sees the features, all where there are fewer
        (Caron et al. 2021 use four for ViT-S, https://arxiv.org/abs/2104.14294).
    """

    vit: VisionTransformer
    params: Any
    pool: str
    blocks: int
    image_size: int
    channels: int

    def apply(self, params: Any, images: jax.Array) -> jax.Array:
        """Features float32 `(B, blocks * D)` of normalised images `(B, H, W, C)`; the last D are the last block's."""
        outputs = self.vit.apply({"params": params}, images, method="block_tokens")[-self.blocks:]
        pooled = [x[:, 0] if self.pool == "token" else x[:, 1:].mean(axis=1) for x in outputs]
        return jnp.concatenate(pooled, axis=1).astype(jnp.float32)

    def random(self, seed: int) -> "Encoder":
        """The same architecture with fresh parameters."""
        images = jnp.zeros((1, self.image_size, self.image_size, self.channels))
        params = jax.jit(self.vit.init)(jax.random.key(seed), images)["params"]
        return dataclasses.replace(self, params=params)


def check_channels(encoder: Encoder, channels: int) -> None:
    """ConfigError unless an encoder takes images of this many channels."""
    if encoder.channels != channels:
        raise ConfigError(f"the checkpoint's encoder takes images of {encoder.channels} channel"
                          f"{'s' if encoder.channels > 1 else ''}, the data has {channels}")


def load_encoder(run: Path, step: str | int = "latest") -> Encoder:
    """The encoder of a `mae_pretrain` run; the run's averaged parameters where it kept them.

    step: "latest", "best" or a number. Raises ConfigError or CheckpointError where there is none.
    """
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"--checkpoint {run}: no checkpoints in it; give the folder of a mae_pretrain run")
    weights, meta = restore_weights(folder, step)
    if meta["experiment"] != "mae_pretrain":
        raise ConfigError(f"--checkpoint {run} is a run of {meta['experiment']}; it must be one of mae_pretrain")
    model = build_mae(meta["config"], image_size=meta["image_size"], channels=meta["channels"])
    params = evaluated_variables(weights)["params"]["encoder"]
    config = meta["config"]
    return Encoder(model.vit(), params, config["pool"], config["probe_blocks"], meta["image_size"], meta["channels"])
