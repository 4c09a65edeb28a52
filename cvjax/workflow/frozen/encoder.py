"""A pre-trained network without a head, read from a run's checkpoint or a weight file, and its features."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.interop.pretrained import fitted
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel
from cvjax.models.vit import VisionTransformer
from cvjax.ops.patches import patch_grid
from cvjax.tasks.task import outputs_of
from cvjax.workflow.classification.model import parse_fields
from cvjax.workflow.config import PreprocessingOptions, config_errors, require
from cvjax.workflow.frozen.options import DEFAULT_RUN, FrozenConfig, FrozenViTConfig, Pool
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.normalization import normalized
from cvjax.workflow.origin import Origin
from cvjax.workflow.preprocessing import chosen, open_weights, origin_of_weights
from cvjax.workflow.restore import SUPERVISED, Run, load_run


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A network without a head (`num_classes=0`) and its variables.

    name: the name of its numbers, for example "dino".
    pool: features of a ViT are the class token ("token"), the mean of the patch tokens ("avg"), the class tokens beside
        the last block's mean ("token+avg", as Caron et al. 2021 probe ViT-B), or all patch tokens side by side
        ("patches": as raw pixels do, they keep what is where), or what its attention pooling gives, of the last block
        alone ("map"); other networks have one output.
    preprocessing: what images become before it sees them.
    blocks: a linear probe sees the features of this many last blocks of a ViT, side by side, or of all blocks if there
        are fewer (Caron et al. 2021 use four for ViT-S, https://arxiv.org/abs/2104.14294).
    learnt: the configuration of the run that it is from, {} if it is from none.
    origin: what its variables were read from; None where they were not.
    """

    name: str
    model: ImageModel
    variables: Any
    pool: Pool
    blocks: int
    image_size: int
    channels: int
    preprocessing: Preprocessing
    learnt: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if not self.is_vit:
            return
        if self.pool.startswith("token") and not self.has_class_token:
            raise ConfigError(f"--pool {self.pool}: it must be avg or patches, because the encoder has no class token")
        if self.pool == "map" and self.model.pool != "map":
            raise ConfigError("--pool map: it must be another, because the encoder has no attention pooling")

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
            return outputs_of(self.model, variables, images, train=False).astype(jnp.float32)
        if self.pool == "map":
            return outputs_of(self.model, variables, images, method="features").astype(jnp.float32)
        outputs = outputs_of(self.model, variables, images, method="block_tokens")
        patches = [x[:, self.model.prefix:] for x in outputs[-self.blocks:]]
        tokens, means = [x[:, 0] for x in outputs[-self.blocks:]], [x.mean(axis=1) for x in patches]
        parts = {"token": tokens, "avg": means, "token+avg": means[-1:] + tokens,
                 "patches": [x.reshape(x.shape[0], -1) for x in patches]}[self.pool]
        return jnp.concatenate(parts, axis=1).astype(jnp.float32)

    @property
    def knn_width(self) -> int | None:
        """How many of the features kNN sees: those of the last block; None for all."""
        if not self.is_vit:
            return None
        patches = math.prod(patch_grid(self.image_size, self.image_size, self.model.patch_size))
        return self.model.width * (patches if self.pool == "patches" else 1)

    def random(self, seed: int) -> "Encoder":
        """The same architecture with fresh parameters, called "random"."""
        images = jnp.zeros((1, self.image_size, self.image_size, self.channels))
        variables = jax.jit(self.model.init)(jax.random.key(seed), images)
        return dataclasses.replace(self, name="random", variables=variables)

    def protocol(self) -> dict[str, Any]:
        """The features that its numbers judge, as JSON."""
        if not self.is_vit:
            return {"features": "pooled output"}
        blocks = 1 if self.pool == "map" else min(self.blocks, self.model.depth)
        return {"pool": self.pool, "knn_blocks": 1, "linear_probe_blocks": blocks, "few_shot_blocks": blocks}


def check_channels(encoder: Encoder, channels: int) -> None:
    """ConfigError unless an encoder takes images of this many channels."""
    if encoder.channels != channels:
        raise ConfigError(f"the encoder takes images of {encoder.channels} channel"
                          f"{'s' if encoder.channels > 1 else ''}, the data has {channels}")


def load_encoder(path: str | Path, step: str | int = "latest") -> Encoder:
    """The encoder of a run: pre-trained, or a classifier without its head; step and errors as in `load_run`."""
    return encoder_of(load_run(path, step).require("encoder", *SUPERVISED))


def encoder_of(run: Run) -> Encoder:
    """The encoder of a run that has been read."""
    size = run.image_size[0]
    if run.kind == "encoder":
        return Encoder(run.facts["name"], run.model, run.variables, run.facts["pool"], run.facts["blocks"], size,
                       run.channels, run.preprocessing, run.config, run.origin)
    model = run.model.clone(num_classes=0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, run.channels)))
    params = {name: run.variables["params"][name] for name in shapes.get("params", {})}  # none where all is head
    pool = model.pool if isinstance(model, VisionTransformer) else "token"
    return Encoder(run.experiment, model, run.variables | {"params": params}, pool, 1, size, run.channels,
                   run.preprocessing, run.config, run.origin)


def backbone_encoder(name: str, backbone: ImageModel, variables: Mapping[str, Any], pool: Pool, blocks: int,
                     inputs: ImageInputs) -> Encoder:
    """The encoder that is the part `backbone` of a larger network; variables: the larger network's.

    inputs: what the larger network learns from.
    """
    own = {collection: tree["backbone"] for collection, tree in variables.items() if "backbone" in tree}
    return Encoder(name, backbone.clone(parent=None), own, pool, blocks, inputs.image_size, inputs.dataset.channels,
                   inputs.preprocessing)


def published_encoder(name: str, weights: str, *, fields: tuple[str, ...] = (), image_size: int | None = None,
                      pool: Pool | None = None, blocks: int = 4,
                      options: PreprocessingOptions | None = None, option: str = "weights") -> Encoder:
    """An encoder from a published weight file: a registered model's `name`, and what `load_weights` reads.

    image_size: None for the one that the weights are judged on, or else the model's own. options: what they say of
    images replaces what is published. pool: None for what the network's head reads: without attention pooling, the
    class token, or without one the mean of the patch tokens. option: which gave the weights, for messages.
    """
    with config_errors():
        create_model(name)  # an unknown name comes before what is wrong with a file
    with config_errors():
        asked = parse_fields(fields)
    published, how = open_weights(option, weights, name, asked)
    sizes = {} if image_size is None else {"image_size": image_size}
    with config_errors():
        create_model(name, num_classes=0, **sizes, **asked)  # says what is wrong with the options alone
    try:
        model, variables = fitted(name, published, sizes | asked | {"num_classes": 0})
    except ValueError as error:
        raise ConfigError(f"--{option} {weights}: {str(error).splitlines()[0]}") from None
    size = model.image_size if isinstance(model.image_size, int) else model.image_size[0]
    if pool is None:
        pool = "token" if not isinstance(model, VisionTransformer) or model.class_token else model.pool
    return Encoder("published", model, variables, pool, blocks, size, model.in_channels,
                   chosen(options, how, model.in_channels), origin=origin_of_weights(weights, published))


def frozen_encoder(config: FrozenConfig, own: Callable[[Encoder], dict[str, Any]] = lambda encoder: {},
                   ) -> tuple[Encoder, dict[str, Any]]:
    """The encoder that a configuration asks for, and its source for the protocol's part `encoders`.

    own(encoder) -> the pool and blocks of an evaluation that does not use those of the pre-training.
    """
    if config.weights is not None:
        assert config.model is not None  # checked with the options
        encoder = published_encoder(config.model, config.weights, fields=config.model_fields,
                                    image_size=config.image_size, options=config)
        source = {"model": config.model, "weights": config.weights}
    else:
        run, step = config.checkpoint or DEFAULT_RUN, config.step or "latest"
        encoder, source = load_encoder(run, step), {"checkpoint": str(run), "step": step}
        encoder = dataclasses.replace(encoder, preprocessing=chosen(config, encoder.preprocessing, encoder.channels))
    given = {"pool": config.pool, "blocks": config.probe_blocks}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(encoder, **own(encoder) | given), source


def load_vit(config: FrozenViTConfig, *, class_token: bool = True) -> Encoder:
    """The transformer of a configuration; ConfigError for another kind of network.

    class_token: whether one without a class token is refused, too.
    """
    if config.checkpoint:
        encoder = load_encoder(config.checkpoint, config.step)
        encoder = dataclasses.replace(encoder, preprocessing=chosen(config, encoder.preprocessing, encoder.channels))
    else:
        assert config.model is not None and config.weights is not None  # checked with the options
        encoder = published_encoder(config.model, config.weights, fields=config.model_fields, options=config)
    if not encoder.is_vit or class_token and not encoder.has_class_token:
        raise ConfigError(f"{config.checkpoint or f'--model {config.model}'} is a {type(encoder.model).__name__}"
                          f"{' without a class token' * encoder.is_vit}: it must be a ViT, with "
                          f"{'a class token and ' * class_token}patches")
    return encoder


def check_sizes(encoder: Encoder, **sizes: int) -> None:
    """ConfigError unless the encoder's patches fill each of the named sizes, in pixels."""
    for name, size in sizes.items():
        require(size >= 1 and size % encoder.model.patch_size == 0, name, size,
                f"a multiple of the patches' {encoder.model.patch_size} pixels")


def tokens_of(encoder: Encoder) -> Callable[[Any, jax.Array], jax.Array]:
    """A compiled function from variables and images uint8 `(B, H, W, C)` to tokens float32 `(B, prefix + L, D)`.

    They are those of the last block, the class token first, and the patches after `encoder.model.prefix`. They are
    after the last norm where the network has one there
    (`token_protocol` says so). Images may have any size that the patches fill.
    """
    @jax.jit
    def tokens(variables, images):
        seen = normalized(images, encoder.preprocessing)
        return outputs_of(encoder.model, variables, seen, method="tokens").astype(jnp.float32)

    return tokens


def token_protocol(encoder: Encoder) -> dict[str, Any]:
    """The tokens that `tokens_of` gives, as JSON."""
    where = "after the norm of the last block" if encoder.model.normed_tokens else "after the last block, no norm"
    return {"network": encoder.name, "tokens": where, "patch_size": encoder.model.patch_size}
