"""Options of the evaluations of a frozen encoder: which encoder, and which of its features."""

import dataclasses
from typing import Annotated, Literal

from cvjax.errors import ConfigError
from cvjax.workflow.config import RUN_DATA, DataConfig, PreprocessingOptions, RunData, require

DEFAULT_RUN = "runs/mae_pretrain/digits"
Pool = Literal["token", "avg", "token+avg", "patches", "map"]  # features of a ViT, see `cvjax.workflow.frozen.encoder`


@dataclasses.dataclass(frozen=True)
class FrozenConfig(PreprocessingOptions, DataConfig):
    """Frozen features of a pre-trained encoder: a run's (--checkpoint), or a published one's (--model, --weights)."""

    data: Annotated[str, RunData] = RUN_DATA
    seed: int = 0
    """Seed of random parameters and of probes."""
    checkpoint: str | None = None
    """The run folder of a pre-training; by default runs/mae_pretrain/digits."""
    step: Literal["latest", "best"] | None = None
    """Which of its checkpoints; by default the latest."""
    model: str | None = None
    """Instead of a run, a name from list_models(), with --weights."""
    weights: str | None = None
    """Its weights: a file (.pth, .safetensors) or hf-hub:OWNER/NAME; FILE#PART for another of its networks, such as
    state_dict_ema."""
    model_fields: tuple[str, ...] = ()
    """Fields of that model to change, such as patch_size=8."""
    image_size: int | None = None
    """Side of the images that it sees; by default the model's own. A run's encoder keeps the size it was trained on."""
    pool: Pool | None = None
    """Class token, mean of the patch tokens, both, all patch tokens side by side, or SigLIP's attention pooling; by
    default what the pre-training probed (published: token, or what the network has)."""
    probe_blocks: int | None = None
    """Last blocks whose features the linear probe sees side by side; by default what the pre-training probed
    (published: 4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2**32)")
        require(self.weights is None or self.checkpoint is None, "weights", self.weights, "left out with --checkpoint")
        require((self.weights is None) == (self.model is None), "model", self.model,
                "given with --weights, and only then")
        require(self.weights is None or self.step is None, "step", self.step, "left out with --weights")
        for name in ("model_fields", "image_size"):
            value = getattr(self, name)
            require(self.weights is not None or not value, name, value, "left out without --weights")
        for name in ("image_size", "probe_blocks"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")


@dataclasses.dataclass(frozen=True)
class NeighbourConfig(FrozenConfig):
    """Neighbours by the features of a ViT's last block, or by the output of another network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.probe_blocks is None, "probe_blocks", self.probe_blocks, "left out: neighbours are found by the "
                "last block")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenViTConfig(PreprocessingOptions):
    """The vision transformer: --checkpoint, or --model with --weights."""

    checkpoint: str | None = None
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
