"""MAE pre-training of a ViT (He et al. 2022, https://arxiv.org/abs/2111.06377), then a probe of its encoder.

The default preset learns the 1,437 embedded digits and needs no network. Your own photos, in one folder or in class
folders: `python -m experiments.mae_pretrain folder --data folder:PATH`.
"""

import dataclasses
from typing import Any, Literal

from cvjax.experiment.config import TrainingConfig, main, require


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """MAE pre-training."""

    model: str = "mae_vit_base_patch16"
    """A name from list_models("mae_*")."""
    image_size: int | None = None
    """Side of the training crops; by default the data's own, where it has one."""
    patch_size: int | None = None
    """Side of a patch; by default the model's."""
    width: int | None = None
    """Encoder width; by default the model's. Likewise the next five."""
    depth: int | None = None
    heads: int | None = None
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mask_ratio: float = 0.75
    """Share of the patches hidden from the encoder."""
    normalize_pixels: bool = True
    """Predict each patch normalised by its own mean and variance."""
    pool: Literal["token", "avg"] = "token"
    """Features to probe: the class token, or the mean of the patch tokens."""
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
        data="digits", model="mae_vit_tiny_patch16", patch_size=2, width=128, depth=4, heads=4, decoder_width=64,
        decoder_depth=2, decoder_heads=4, mask_ratio=0.5, normalize_pixels=False, crop_scale=(1.0, 1.0), flip=False,
        epochs=178, batch_size=64, base_learning_rate=1e-2, b2=0.95, weight_decay=0.3, ema_decay=0.998, log_every=50,
        pool="avg", probe_blocks=4),
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, model="mae_vit_tiny_patch16", patch_size=4, width=128, depth=6,
        heads=4, decoder_width=64, decoder_depth=2, decoder_heads=4, epochs=8, base_learning_rate=1e-3, b2=0.95,
        checkpoint_every=500, pool="avg"),
    "folder": dict(
        data="folder:photos", model="mae_vit_small_patch16", image_size=224, batch_size=64, epochs=800, b2=0.95,
        decoder_width=256, decoder_depth=4, decoder_heads=8, workers=2),
    "paper": dict(
        data="tfds:imagenet2012", model="mae_vit_base_patch16", image_size=224, batch_size=4096, epochs=800, b2=0.95,
        dtype="bfloat16", workers=16, checkpoint_every=1000),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Pre-train, probe, draw."""
    from functools import partial

    from cvjax.experiment.config import as_json
    from cvjax.experiment.encoder import Encoder, build_mae
    from cvjax.experiment.inputs import held_out, make_inputs
    from cvjax.experiment.probing import probe_encoders, shared_protocol
    from cvjax.experiment.run import RunFolder
    from cvjax.experiment.training import enable_compilation_cache, train
    from cvjax.tasks.mae import mae_task

    enable_compilation_cache()
    folder = RunFolder(config, "mae_pretrain", name)
    if folder.finished():
        return
    inputs = make_inputs(config, image_size=config.image_size, folder=folder, crop_scale=config.crop_scale,
                         flip=config.flip, prepare=partial(held_out, config))
    size, channels = inputs.image_size, inputs.dataset.channels
    model = build_mae(as_json(config), image_size=size, channels=channels)
    task = mae_task(model, augment=inputs.augment, preprocess=inputs.preprocess,
                    normalize_pixels=config.normalize_pixels)
    meta = {"experiment": "mae_pretrain", "config": as_json(config), "image_size": size, "channels": channels}
    trained = train(config, folder, task, inputs, stop, best_metric="loss", best_mode="min", meta=meta)
    if trained is None:
        return

    metrics, protocol = dict(trained.metrics), shared_protocol(inputs)
    protocol["test"] = {"mask_ratio": config.mask_ratio, "normalize_pixels": config.normalize_pixels}
    params = trained.variables["params"]
    draw(model, params, inputs, config, folder)
    if inputs.dataset.num_classes > 1:
        encoder = Encoder("mae", model.vit(), {"params": params["encoder"]}, config.pool, config.probe_blocks, size,
                          channels)
        probed, found = probe_encoders({"random": encoder.random(config.seed), "mae": encoder}, inputs,
                                       seed=config.seed)
        metrics, protocol = metrics | probed, protocol | found
    else:
        print(f"{config.data} has {inputs.dataset.num_classes or 'no'} class labels: nothing to probe")
    folder.finish(metrics, protocol, trained)


def draw(model: Any, params: Any, inputs: Any, config: Config, folder: Any) -> None:
    """`figures/reconstruction.png` of test images (of training images where there is no test split)."""
    import jax

    from cvjax.tasks.mae import draw_noise
    from cvjax.visualize.reconstruction import reconstruction_panel

    images = inputs.preprocess(inputs.examples("test" if inputs.dataset.test is not None else "train", 16))
    noise = draw_noise(jax.random.split(jax.random.key(config.seed), len(images)), model.grid[0] * model.grid[1])
    output = jax.jit(model.apply)({"params": params}, images, noise)
    mean, std = inputs.statistics
    reconstruction_panel(
        folder.figures / "reconstruction.png", inputs.displayable(images), output.mask, output.prediction,
        patch_size=model.patch_size, normalized_pixels=config.normalize_pixels, pixel_mean=mean, pixel_std=std,
        title=f"{config.data}: original, {config.mask_ratio:.0%} masked, reconstruction")


if __name__ == "__main__":
    main(run, "mae_pretrain", Config, PRESETS, __doc__)
