"""What `experiments.knn` and `experiments.linear_probe` share: a frozen encoder, a data set, one result."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from cvjax.experiment.config import DataConfig


@dataclasses.dataclass(frozen=True)
class FrozenConfig(DataConfig):
    """Frozen features of a pre-trained encoder, next to those of random parameters and raw pixels."""

    checkpoint: Path = Path("runs/mae_pretrain/digits")
    """The run folder of a pre-training."""
    step: Literal["latest", "best"] = "latest"
    """Which of its checkpoints."""
    pool: Literal["token", "avg", "token+avg"] | None = None
    """Class token, mean of the patch tokens, or both; by default what the pre-training probed."""
    probe_blocks: int | None = None
    """Last blocks whose features the linear probe sees side by side; by default what the pre-training probed."""


def run_frozen(experiment: str, config: FrozenConfig, name: str, **options: Any) -> None:
    """Probe the encoder and write `summary.json`; options are those of `probe_features`."""
    from cvjax.experiment.encoder import check_channels, load_encoder
    from cvjax.experiment.inputs import make_inputs
    from cvjax.experiment.probing import probe_encoders
    from cvjax.experiment.run import RunFolder
    from cvjax.experiment.training import enable_compilation_cache

    enable_compilation_cache()
    folder = RunFolder(config, experiment, name)
    if folder.finished():
        return
    encoder = load_encoder(config.checkpoint, config.step)
    encoder = dataclasses.replace(encoder, pool=config.pool or encoder.pool,
                                  blocks=config.probe_blocks or encoder.blocks)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder)
    check_channels(encoder, inputs.dataset.channels)
    print(f"{experiment} of {config.checkpoint} on {config.data}: {len(inputs.dataset.train):,} training images")
    if config.dry_run:
        return
    metrics, protocol = probe_encoders({"random": encoder.random(config.seed), encoder.name: encoder}, inputs,
                                       seed=config.seed, **options)
    folder.finish(metrics, protocol)
