"""A frozen vision transformer to look into, as `experiments.attention` and its siblings name it and show it images."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cvjax.experiment.config import ConfigError, require

if TYPE_CHECKING:  # --help must not wait for jax
    import jax

    from cvjax.experiment.encoder import Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenViTConfig:
    """The vision transformer: --checkpoint, or --model with --weights."""

    checkpoint: Path | None = None
    """The run folder of a training."""
    step: Literal["latest", "best"] = "latest"
    """Which of its checkpoints."""
    model: str | None = None
    """A name from list_models()."""
    weights: str | None = None
    """Its weights: a .safetensors or .pth file, or hf-hub:OWNER/NAME."""
    model_fields: tuple[str, ...] = ()
    """Fields of that model to change, such as patch_size=8."""

    def __post_init__(self) -> None:
        if bool(self.checkpoint) == bool(self.model or self.weights) or bool(self.model) != bool(self.weights):
            raise ConfigError("give --checkpoint, or --model with --weights")
        require(bool(self.weights) or not self.model_fields, "model_fields", self.model_fields,
                "left out with --checkpoint")
        require(self.step == "latest" or bool(self.checkpoint), "step", self.step, "left out without --checkpoint")


def load_vit(config: FrozenViTConfig) -> "Encoder":
    """The transformer of a configuration; ConfigError for another kind of network."""
    from cvjax.experiment.encoder import load_encoder, published_encoder

    encoder = load_encoder(config.checkpoint, config.step) if config.checkpoint else \
        published_encoder(config.model, config.weights, fields=config.model_fields)
    if not encoder.has_class_token:
        raise ConfigError(f"{config.checkpoint or f'--model {config.model}'} is a {type(encoder.model).__name__}"
                          f"{' without a class token' * encoder.is_vit}: it must be a ViT, with a class token and "
                          "patches")
    return encoder


def check_sizes(encoder: "Encoder", **sizes: int) -> None:
    """ConfigError unless the encoder's patches fill each of the named sizes, in pixels."""
    for name, size in sizes.items():
        require(size >= 1 and size % encoder.model.patch_size == 0, name, size,
                f"a multiple of the patches' {encoder.model.patch_size} pixels")


def tokens_of(encoder: "Encoder") -> Callable[[Any, "jax.Array"], "jax.Array"]:
    """A compiled function from variables and images uint8 `(B, H, W, C)` to tokens float32 `(B, 1 + L, D)`.

    They are those of the last block, class token first, after the last norm where the network has one there
    (`token_protocol` says so). Images may have any size that the patches fill.
    """
    import jax
    import jax.numpy as jnp

    from cvjax.data.augment import normalize
    from cvjax.experiment.inputs import statistics

    @jax.jit
    def tokens(variables, images):
        seen = normalize(images, *statistics(images.shape[-1]))
        return encoder.model.apply(variables, seen, method="tokens").astype(jnp.float32)

    return tokens


def token_protocol(encoder: "Encoder") -> dict[str, Any]:
    """What `tokens_of` gives, as JSON."""
    where = "after the norm of the last block" if encoder.model.normed_tokens else "after the last block, no norm"
    return {"network": encoder.name, "tokens": where, "patch_size": encoder.model.patch_size}


def check_output(output: Path, *inputs: Path) -> None:
    """ConfigError for an output folder that is a file, or that holds what is read: pictures would be overwritten."""
    require(not output.exists() or output.is_dir(), "output", output, "a folder, or not exist")
    for folder in inputs:
        require(output.resolve() != folder.resolve(), "output", output, f"another folder than {folder}, which is read")


def write_summary(folder: Path, metrics: dict[str, Any], protocol: dict[str, Any], **more: Any) -> None:
    """Write `summary.json` with numbers, what they hold for, and more; NaN becomes null, which JSON can say."""
    from cvjax.experiment.run import versions, write_json

    path = folder / "summary.json"
    content = {"metrics": metrics, **more, "protocol": protocol, "versions": versions()}
    write_json(path, json.loads(json.dumps(content), parse_constant=lambda _: None))
    print(f"written to {path}")
