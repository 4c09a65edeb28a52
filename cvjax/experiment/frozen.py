"""What the experiments on frozen features (kNN, linear probe, few shots) share: an encoder, a data set, one result."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cvjax.experiment.config import DataConfig, require

if TYPE_CHECKING:  # `--help` shall come at once
    from cvjax.experiment.encoder import Encoder

DEFAULT_RUN = Path("runs/mae_pretrain/digits")


@dataclasses.dataclass(frozen=True)
class FrozenConfig(DataConfig):
    """Frozen features of a pre-trained encoder: a run's (--checkpoint), or a published one's (--model, --weights)."""

    checkpoint: Path | None = None
    """The run folder of a pre-training; by default runs/mae_pretrain/digits."""
    step: Literal["latest", "best"] | None = None
    """Which of its checkpoints; by default the latest."""
    model: str | None = None
    """Instead of a run, a name from list_models(), with --weights."""
    weights: str | None = None
    """Its weights: a file (.pth, .safetensors) or hf-hub:OWNER/NAME."""
    model_fields: tuple[str, ...] = ()
    """Fields of that model to change, such as patch_size=8."""
    image_size: int | None = None
    """Side of the images that it sees; by default the model's own. A run's encoder sees what it was trained on."""
    pool: Literal["token", "avg", "token+avg"] | None = None
    """Class token, mean of the patch tokens, or both; by default what the pre-training probed (published: token)."""
    probe_blocks: int | None = None
    """Last blocks whose features the linear probe sees side by side; by default what the pre-training probed
    (published: 4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
    """Neighbours by the features of a ViT's last block, or what others have at their end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.probe_blocks is None, "probe_blocks", self.probe_blocks, "left out: neighbours are sought by the "
                "last block")


def frozen_encoder(config: FrozenConfig, own: Callable[["Encoder"], dict[str, Any]] = lambda encoder: {},
                   ) -> tuple["Encoder", dict[str, Any]]:
    """The encoder that a configuration asks for, and whose it is, for the protocol's part `encoders`.

    own(encoder) -> pool and blocks of an evaluation that has its own instead of those of the pre-training.
    """
    from cvjax.experiment.encoder import load_encoder, published_encoder

    if config.weights is not None:
        encoder = published_encoder(config.model, config.weights, fields=config.model_fields,
                                    image_size=config.image_size)
        source = {"model": config.model, "weights": config.weights}
    else:
        run, step = config.checkpoint or DEFAULT_RUN, config.step or "latest"
        encoder, source = load_encoder(run, step), {"checkpoint": str(run), "step": step}
    given = {"pool": config.pool, "blocks": config.probe_blocks}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(encoder, **own(encoder) | given), source


def run_frozen(experiment: str, config: FrozenConfig, name: str, **options: Any) -> None:
    """Probe the encoder and write `summary.json`; options are those of `probe_features`."""
    from cvjax.experiment.encoder import check_channels
    from cvjax.experiment.inputs import make_inputs
    from cvjax.experiment.probing import check_probing, probe_encoders
    from cvjax.experiment.run import RunFolder
    from cvjax.experiment.training import enable_compilation_cache

    enable_compilation_cache()
    folder = RunFolder(config, experiment, name)
    if folder.finished():
        return
    encoder, source = frozen_encoder(config)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder)
    check_channels(encoder, inputs.dataset.channels)
    check_probing(inputs, shots=options.get("shots", ()))
    print(f"{experiment} of {config.weights or config.checkpoint or DEFAULT_RUN} on {config.data}: "
          f"{len(inputs.dataset.train):,} training images")
    if config.dry_run:
        return
    metrics, protocol = probe_encoders({"random": encoder.random(config.seed), encoder.name: encoder}, inputs,
                                       seed=config.seed, **options)
    folder.finish(metrics, protocol | {"encoders": {encoder.name: source}})
