"""A pre-trained network without a head, out of a run's checkpoint or a weight file, and features from it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.experiment.classifier import Classifier, build_classifier, load_classifier, parse_fields
from cvjax.experiment.config import ConfigError, config_errors
from cvjax.experiment.training import evaluated_variables
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.vit import VisionTransformer
from cvjax.train.checkpoint import read_meta, restore_weights

Pool = Literal["token", "avg", "token+avg"]
MAE_FIELDS = ("patch_size", "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A network without a head (`num_classes=0`) and its variables.

    name: what its numbers are called by, for example "dino".
    pool: features of a ViT are the class token ("token"), the mean of the patch tokens ("avg"), or the class tokens
        beside the last block's mean ("token+avg", as Caron et al. 2021 probe ViT-B); other networks have one output.
    blocks: of how many last blocks of a ViT, side by side, a linear probe sees the features, all where there are fewer
        (Caron et al. 2021 use four for ViT-S, https://arxiv.org/abs/2104.14294).
    """

    name: str
    model: nn.Module
    variables: Any
    pool: Pool
    blocks: int
    image_size: int
    channels: int

    def __post_init__(self) -> None:
        if self.is_vit and not self.has_class_token and self.pool != "avg":
            raise ConfigError(f"--pool {self.pool}: it must be avg, the encoder has no class token")

    @property
    def is_vit(self) -> bool:
        """Whether it has tokens and blocks to choose from."""
        return isinstance(self.model, VisionTransformer)

    @property
    def has_class_token(self) -> bool:
        """Whether a class token is among its tokens, the first of them."""
        return self.is_vit and self.model.class_token

    def apply(self, variables: Any, images: jax.Array) -> jax.Array:
        """Features float32 `(B, D)` of normalised images `(B, H, W, C)`; the last `knn_width` are the last block's."""
        if not self.is_vit:
            return self.model.apply(variables, images, train=False).astype(jnp.float32)
        outputs = self.model.apply(variables, images, method="block_tokens")
        means = [x[:, self.model.prefix:].mean(axis=1) for x in outputs[-self.blocks:]]
        tokens = [x[:, 0] for x in outputs[-self.blocks:]]
        parts = {"token": tokens, "avg": means, "token+avg": means[-1:] + tokens}[self.pool]
        return jnp.concatenate(parts, axis=1).astype(jnp.float32)

    @property
    def knn_width(self) -> int | None:
        """How many of the features kNN sees: the last block's; None for all."""
        return self.model.width if self.is_vit else None

    def random(self, seed: int) -> "Encoder":
        """The same architecture with fresh parameters, called "random"."""
        images = jnp.zeros((1, self.image_size, self.image_size, self.channels))
        variables = jax.jit(self.model.init)(jax.random.key(seed), images)
        return dataclasses.replace(self, name="random", variables=variables)

    def protocol(self) -> dict[str, Any]:
        """Which features its numbers are of, as JSON."""
        if not self.is_vit:
            return {"features": "pooled output"}
        blocks = min(self.blocks, self.model.depth)
        return {"pool": self.pool, "knn_blocks": 1, "linear_probe_blocks": blocks, "few_shot_blocks": blocks}


def build_mae(config: Mapping[str, Any], *, image_size: int, channels: int) -> MaskedAutoencoder:
    """The masked autoencoder that a configuration of `experiments.mae_pretrain` describes."""
    chosen = {name: config[name] for name in MAE_FIELDS if config[name] is not None}
    try:
        model = create_model(config["model"], image_size=image_size, in_channels=channels, remat=config["remat"],
                             scan=config["scan"], attention=config["attention"], mask_ratio=config["mask_ratio"],
                             dtype=jnp.dtype(config["dtype"]), **chosen)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, image_size, image_size, channels)),
                       jnp.zeros((1, model.grid[0] * model.grid[1])))
    except ValueError as error:
        raise ConfigError(f"--model {config['model']}: {error}") from None
    return model


def build_dino(config: Mapping[str, Any], *, image_size: int, channels: int, out_dim: int,
               axis_name: str | None = None) -> DINO:
    """The student (and teacher) that a configuration of `experiments.dino_pretrain` describes.

    axis_name: the mapped axis that batch norms average over under pmap.
    """
    config = dict(config) | {"dropout": None}
    backbone = build_classifier(config, image_size=image_size, channels=channels, num_classes=0)
    if axis_name is not None and hasattr(backbone, "axis_name"):
        backbone = backbone.clone(axis_name=axis_name)
    with config_errors():
        head = DINOHead(
            out_dim, config["head_layers"], config["head_hidden"], config["head_bottleneck"], config["head_batch_norm"],
            config["norm_last_layer"], axis_name, jnp.dtype(config["head_dtype"]))
        model = DINO(backbone, head)
        images = jax.ShapeDtypeStruct((1, 2, image_size, image_size, channels), jnp.float32)
        small = jax.ShapeDtypeStruct((1, 1, config["local_size"], config["local_size"], channels), jnp.float32)
        try:
            jax.eval_shape(model.init, jax.random.key(0), [images, small] if config["local_crops"] else [images])
        except Exception as error:  # whatever it is that a size breaks
            raise ConfigError(f"--model {config['model']} on crops of {image_size} and {config['local_size']} pixels: "
                              f"{next(iter(str(error).splitlines()), type(error).__name__)}") from None
    return model


def check_channels(encoder: Encoder, channels: int) -> None:
    """ConfigError unless an encoder takes images of this many channels."""
    if encoder.channels != channels:
        raise ConfigError(f"the encoder takes images of {encoder.channels} channel"
                          f"{'s' if encoder.channels > 1 else ''}, the data has {channels}")


def load_encoder(run: Path, step: str | int = "latest") -> Encoder:
    """The encoder of a run of `mae_pretrain` (its averages where it kept them), `dino_pretrain` (the teacher's) or
    `supervised` (the classifier without its head).

    step: "latest", "best" or a number. Raises ConfigError or CheckpointError where there is none.
    """
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"--checkpoint {run}: no checkpoints in it; give the folder of a pre-training run")
    experiment = read_meta(folder).get("experiment")
    if experiment == "supervised":
        return _without_head(load_classifier(run, step))
    builders = {"mae_pretrain": _mae_encoder, "dino_pretrain": _dino_encoder}
    if experiment not in builders:
        raise ConfigError(f"--checkpoint {run} is a run of {experiment}; it must be one of {', '.join(builders)} or "
                          "supervised")
    weights, meta = restore_weights(folder, step)
    try:
        return builders[experiment](weights, meta)
    except KeyError as error:
        raise ConfigError(f"--checkpoint {run} is of another version: its configuration lacks {error}") from None


def _without_head(known: Classifier) -> Encoder:
    model = known.model.clone(num_classes=0)
    shapes = jax.eval_shape(model.init, jax.random.key(0),
                            jnp.zeros((1, known.image_size, known.image_size, known.channels)))
    params = {name: known.variables["params"][name] for name in shapes["params"]}
    pool = getattr(model, "pool", "token")
    return Encoder("supervised", model, known.variables | {"params": params}, pool, 1, known.image_size, known.channels)


def _mae_encoder(weights: Any, meta: Mapping[str, Any]) -> Encoder:
    config, size = meta["config"], meta["image_size"]
    model = build_mae(config, image_size=size, channels=meta["channels"])
    variables = {"params": evaluated_variables(weights)["params"]["encoder"]}
    return Encoder("mae", model.vit(), variables, config["pool"], config["probe_blocks"], size, meta["channels"])


def _dino_encoder(weights: Any, meta: Mapping[str, Any]) -> Encoder:
    config, size = meta["config"], meta["image_size"]
    model = build_dino(config, image_size=size, channels=meta["channels"], out_dim=meta["out_dim"])
    return dino_encoder(model, weights["model_state"]["dino"]["teacher"], config["pool"], config["probe_blocks"], size,
                        meta["channels"])


def dino_encoder(model: DINO, teacher: Mapping[str, Any], pool: Pool, blocks: int, image_size: int,
                 channels: int) -> Encoder:
    """The backbone of a teacher's variables."""
    backbone = {collection: tree["backbone"] for collection, tree in teacher.items() if "backbone" in tree}
    return Encoder("dino", model.backbone.clone(parent=None), backbone, pool, blocks, image_size, channels)


def published_encoder(name: str, weights: str, *, fields: tuple[str, ...] = (), image_size: int | None = None,
                      pool: Pool | None = None, blocks: int = 4) -> Encoder:
    """An encoder from a published weight file: a registered model's `name`, and what `load_weights` reads.

    image_size: None for the model's own. pool: None for the class token, or without one the mean of the patch tokens.
    """
    from cvjax.interop import load_weights

    with config_errors():
        sizes = {} if image_size is None else {"image_size": image_size}
        model = create_model(name, num_classes=0, **sizes, **parse_fields(fields))
    try:
        variables = load_weights(model, weights)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--weights {weights}: {str(error).splitlines()[0]}") from None
    size = model.image_size if isinstance(model.image_size, int) else model.image_size[0]
    pool = pool or ("token" if getattr(model, "class_token", True) else "avg")
    return Encoder("published", model, variables, pool, blocks, size, model.in_channels)
