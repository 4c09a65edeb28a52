"""Fine-tune a pre-trained encoder as a classifier (He et al. 2022, app. A.1, Table 9).

Layer-wise learning-rate decay, mixup, label smoothing, drop path, and positions that go on learning from the fixed
ones. `--scratch` trains the same network from random parameters, for comparison at the same budget.

    python -m experiments.finetune --checkpoint runs/mae_pretrain/digits
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from cvjax.experiment.config import TrainingConfig, main, require


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """Fine-tuning."""

    checkpoint: Path = Path("runs/mae_pretrain/digits")
    """The run folder of a pre-training."""
    scratch: bool = False
    """Keep the checkpoint's architecture but start from random parameters."""
    pool: Literal["token", "avg"] = "avg"
    """What the head reads: the class token, or the mean of the patch tokens."""
    layer_decay: float = 0.75
    """Learning rate of each block relative to the next one; 1 for none. With --scratch all learn at the same rate."""
    mixup: float = 0.8
    """Mixup's alpha; 0 for none."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    drop_path: float = 0.1
    """Stochastic-depth rate of the last block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "in (0, 1]")
        require(0 <= self.mixup, "mixup", self.mixup, "0 or more")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "in [0, 1)")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(
        data="digits", epochs=100, batch_size=128, base_learning_rate=2e-3, crop_scale=(0.7, 1.0),
        flip=False, mixup=0.2, ema_decay=0.99),
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, checkpoint=Path("runs/mae_pretrain/cifar10"), epochs=1,
        base_learning_rate=1e-3, crop_scale=(0.5, 1.0), checkpoint_every=1000),
    "paper": dict(
        data="tfds:imagenet2012", checkpoint=Path("runs/mae_pretrain/paper"), epochs=100, batch_size=1024,
        base_learning_rate=5e-4, layer_decay=0.65, crop_scale=(0.08, 1.0), dtype="bfloat16", workers=16,
        checkpoint_every=1000),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Build the classifier from the checkpoint, train it, report test accuracy."""
    from functools import partial

    import jax.numpy as jnp

    from cvjax.data.augment import mixup
    from cvjax.experiment.config import ConfigError, as_json
    from cvjax.experiment.encoder import check_channels, load_encoder
    from cvjax.experiment.inputs import held_out, make_inputs
    from cvjax.experiment.probing import shared_protocol
    from cvjax.experiment.run import RunFolder, print_metrics
    from cvjax.experiment.training import enable_compilation_cache, train
    from cvjax.ops.position import sincos_2d
    from cvjax.tasks.supervised import supervised_task
    from cvjax.train.optim import vit_layer_decay

    enable_compilation_cache()
    folder = RunFolder(config, "finetune", name)
    if folder.finished():
        return
    encoder = dataclasses.replace(load_encoder(config.checkpoint), pool=config.pool)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder, crop_scale=config.crop_scale,
                         flip=config.flip, prepare=partial(held_out, config))
    check_channels(encoder, inputs.dataset.channels)
    if not inputs.dataset.num_classes:
        raise ConfigError(f"--data {config.data} has no labels: fine-tuning needs them")
    if not encoder.is_vit:
        raise ConfigError(f"--checkpoint {config.checkpoint} holds a {type(encoder.model).__name__}; this is for ViTs, "
                          "for others there is `python -m experiments.supervised --pretrained RUN`")
    model = encoder.model.clone(
        num_classes=inputs.dataset.num_classes, pool=config.pool, position="learned", drop_path=config.drop_path,
        remat=config.remat, scan=config.scan, attention=config.attention, dtype=jnp.dtype(config.dtype))

    def adapt(variables: Any, pretrained: Any) -> Any:
        """Start positions from fixed ones unless they were learnt, and all other parameters from pretrained ones."""
        params = dict(variables["params"])
        positions = sincos_2d(model.width, (encoder.image_size // model.patch_size,) * 2)
        params["pos_embed"] = params["pos_embed"].at[0, model.prefix:].set(positions).at[0, :model.prefix].set(0)
        params |= {key: value for key, value in pretrained.items() if key in params}
        return {**variables, "params": params}

    task = supervised_task(model, augment=inputs.augment, preprocess=inputs.preprocess,
                           label_smoothing=config.label_smoothing,
                           mix=partial(mixup, alpha=config.mixup) if config.mixup else None)
    meta = {"experiment": "finetune", "config": as_json(config), "image_size": inputs.image_size,
            "channels": inputs.dataset.channels, "class_names": list(inputs.dataset.class_names)}
    layer_scale = None if config.scratch else vit_layer_decay(config.layer_decay, model.depth)
    pretrained = {} if config.scratch else encoder.variables["params"]
    trained = train(config, folder, task, inputs, stop, best_metric="top1", best_mode="max", meta=meta,
                    layer_scale=layer_scale, adapt=adapt, pretrained=pretrained)
    if trained is None:
        return
    print_metrics(trained.metrics)
    folder.finish(trained.metrics, shared_protocol(inputs) | {"checkpoint": str(config.checkpoint),
                                                              "scratch": config.scratch}, trained)


if __name__ == "__main__":
    main(run, "finetune", Config, PRESETS, __doc__)
