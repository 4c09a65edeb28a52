"""The work of `python -m experiments.mae_pretrain`; its options are in experiments/mae_pretrain.py."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.errors import ConfigError
from cvjax.models import create_model
from cvjax.models.mae import MaskedAutoencoder
from cvjax.tasks.mae import draw_noise, mae_task
from cvjax.train.preemption import StopRequest
from cvjax.visualize.reconstruction import reconstruction_panel
from cvjax.workflow.augmentation import Augmentation
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.transfer import with_parameters
from cvjax.workflow.config import require
from cvjax.workflow.continued import late_schedules
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.encoder import Encoder
from cvjax.workflow.frozen.probing import probe_pretrained, shared_protocol
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.inputs import held_out, with_batches_of
from cvjax.workflow.normalization import displayable
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.preprocessing import Pretrained, open_pretrained
from cvjax.workflow.restore import record_of
from cvjax.workflow.training import train
from experiments.mae_pretrain import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Pre-train, probe, draw."""
    prepared = prepare_within(prepare, config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return

    inputs, model = prepared.inputs, prepared.model
    size, channels = inputs.image_size, inputs.dataset.channels
    metrics, protocol = dict(trained.metrics), shared_protocol(inputs)
    protocol["test"] = {"mask_ratio": config.mask_ratio, "normalize_pixels": config.normalize_pixels}
    params = trained.variables["params"]
    draw(model, params, inputs, config, folder)
    encoder = Encoder("mae", model.vit(), {"params": params["encoder"]}, config.pool, config.probe_blocks, size,
                      channels, inputs.preprocessing)
    probed, found = probe_pretrained(encoder, inputs, config.data, seed=config.seed)
    folder.finish(metrics | probed, protocol | found, trained)


def prepare(config: Config, folder: RunFolder) -> Prepared[ImageInputs]:
    """The training, see `cvjax.workflow.prepared.Prepared`."""
    start = (open_pretrained(config.pretrained, lambda: vit_name(config.model),
                             vit_sizes(config) | {"position": "sincos2d"})
             if config.pretrained else None)
    folder.reads(start and start.origin)
    inputs = make_inputs(config, image_size=config.image_size, folder=folder, prepare=partial(held_out, config),
                         preprocessing=start and start.preprocessing,
                         augmentation=Augmentation(config.crop_scale, config.flip))
    config = with_batches_of(config, inputs)
    size, channels = inputs.image_size, inputs.dataset.channels
    model = build_mae(config, image_size=size, channels=channels)
    task = mae_task(model, augment=inputs.augment, preprocess=inputs.preprocess,
                    normalize_pixels=config.normalize_pixels)
    meta = record_of("mae_pretrain", config, "encoder", model.vit(), image_size=(size, size), channels=channels,
                     preprocessing=inputs.preprocessing,
                     validated=inputs.dataset.validation is not None, part="encoder", name="mae", pool=config.pool,
                     blocks=config.probe_blocks)
    learnt = start and learnt_parameters(model, start, config.seed)
    images = len(inputs.dataset.train)
    late = learnt is not None and "decoder" not in learnt
    if learnt is not None and not late:
        for name in ("head_warmup_epochs", "backbone_rate"):
            value, default = getattr(config, name), getattr(Config, name)
            require(value == default, name, value, "left out with weights that have a decoder, beside which nothing is "
                    "fresh")
    return prepare_training(config, task, inputs, best_metric="loss", best_mode="min", meta=meta, model=model,
                            output_modules=model.output_modules, pretrained=learnt,
                            adapt=with_parameters if start else None,
                            own_schedules=late_schedules(config, "encoder", config.total_steps(images), images)
                            if late else [])


def learnt_parameters(model: MaskedAutoencoder, start: Pretrained, seed: int) -> dict[str, Any]:
    """The parameters of `encoder` by published weights, and of `decoder` if the weights have one."""
    if any(name.startswith("decoder_") for name in start.arrays):
        return start.variables(model, seed)["params"]
    print(f"--pretrained {start.source} has no decoder: a fresh one learns")
    return {"encoder": start.variables(model.vit(), seed)["params"]}


def vit_name(model: str) -> str:
    """The registered name of the ViT that is the encoder of an MAE's."""
    return f"{model.removeprefix('mae_')}_224"


def vit_sizes(config: Config) -> dict[str, int]:
    """The fields in which a configuration changes the encoder of its model."""
    sizes = {"patch_size": config.patch_size, "width": config.width, "depth": config.depth, "heads": config.heads}
    return {name: size for name, size in sizes.items() if size is not None}


def build_mae(config: Config, *, image_size: int, channels: int) -> MaskedAutoencoder:
    """The masked autoencoder that a configuration describes."""
    sizes = {"decoder_width": config.decoder_width, "decoder_depth": config.decoder_depth,
             "decoder_heads": config.decoder_heads}
    chosen: dict[str, Any] = vit_sizes(config) | {name: size for name, size in sizes.items() if size is not None}
    try:
        model = create_model(config.model, image_size=image_size, in_channels=channels, remat=config.remat,
                             scan=config.scan, attention=config.attention, mask_ratio=config.mask_ratio,
                             dtype=jnp.dtype(config.dtype), **chosen)
        if not isinstance(model, MaskedAutoencoder):
            raise ValueError("it must be a name from list_models('mae_*')")
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, image_size, image_size, channels)),
                       jnp.zeros((1, model.grid[0] * model.grid[1])))
    except ValueError as error:
        raise ConfigError(f"--model {config.model}: {error}") from None
    return model


def draw(model: Any, params: Any, inputs: Any, config: Config, folder: RunFolder) -> None:
    """Draw `figures/reconstruction.png` of test images (of training images if there is no test split)."""
    images = inputs.preprocess(inputs.examples("test" if inputs.dataset.test is not None else "train", 16))
    noise = draw_noise(jax.random.split(jax.random.key(config.seed), len(images)), model.grid[0] * model.grid[1])
    output = jax.jit(model.apply)({"params": params}, images, noise)
    how = inputs.preprocessing
    reconstruction_panel(
        folder.figures / "reconstruction.png", displayable(images, how), output.mask, output.prediction,
        patch_size=model.patch_size, normalized_pixels=config.normalize_pixels, pixel_mean=how.mean, pixel_std=how.std,
        title=f"{config.data}: original, {config.mask_ratio:.0%} masked, reconstruction")
