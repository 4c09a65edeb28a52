"""The work of `python -m experiments.finetune`; its options are in experiments/finetune.py."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp

from cvjax.errors import ConfigError
from cvjax.ops.position import sincos_2d
from cvjax.tasks.supervised import supervised_task
from cvjax.train.optim import vit_layer_decay
from cvjax.train.preemption import StopRequest
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.augmentation import augmented, mixing
from cvjax.workflow.classification.goal import Classification
from cvjax.workflow.classification.transfer import parameter_shapes, with_lora
from cvjax.workflow.config import on_data_of
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.encoder import check_channels, load_encoder
from cvjax.workflow.frozen.probing import shared_protocol
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.inputs import held_out
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.restore import record_of
from cvjax.workflow.training import train
from experiments.finetune import Config

HEAD = 1e-3  # the head starts at a deviation of 2e-5, a thousandth of the ViT's own, as in the authors' code


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Build the classifier from the checkpoint, train it, report test accuracy."""
    prepared = prepare_within(prepare, config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return
    print_metrics(trained.metrics)
    protocol = {"checkpoint": str(config.checkpoint), "scratch": config.scratch}
    folder.finish(trained.metrics, shared_protocol(prepared.inputs) | protocol, trained)


def prepare(config: Config, folder: RunFolder) -> Prepared[ImageInputs]:
    """The training, see `cvjax.workflow.prepared.Prepared`."""
    encoder = dataclasses.replace(load_encoder(config.checkpoint), pool=config.pool)
    folder.reads(encoder.origin)
    config = on_data_of(config, encoder.learnt)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder, prepare=partial(held_out, config),
                         preprocessing=encoder.preprocessing, repeats=config.aug_repeats)
    inputs = augmented(config, inputs)
    check_channels(encoder, inputs.dataset.channels)
    if not inputs.dataset.num_classes:
        raise ConfigError(f"--data {config.data} has no class labels: fine-tuning needs them")
    if not encoder.is_vit:
        raise ConfigError(f"--checkpoint {config.checkpoint} holds a {type(encoder.model).__name__}; this takes ViTs, "
                          "for others there is `python -m experiments.supervised --pretrained RUN`")
    fixed = encoder.model.position
    model = encoder.model.clone(
        num_classes=inputs.dataset.num_classes, pool=config.pool, drop_path=config.drop_path,
        position=fixed if fixed == "rotary" else "learned",
        remat=config.remat, scan=config.scan, attention=config.attention, dtype=jnp.dtype(config.dtype))

    def adapt(variables: Any, pretrained: Any) -> Any:
        """Take all parameters from the pretrained ones; positions that were fixed there start from the same values."""
        params = dict(variables["params"])
        if "pos_embed" in params:
            grid, first = (encoder.image_size // model.patch_size,) * 2, model.placed_prefix
            positions = sincos_2d(model.width, grid, moco=fixed == "sincos2d_moco")
            params["pos_embed"] = params["pos_embed"].at[0, first:].set(positions).at[0, :first].set(0)
        params |= {name: params[name] | {"kernel": HEAD * params[name]["kernel"]}
                   for name in model.output_modules if name in params}
        params |= {key: value for key, value in pretrained.items() if key in params}
        return {**variables, "params": params}

    task = supervised_task(model, augment=inputs.augment, preprocess=inputs.preprocess,
                           mix=mixing(config), **Classification(inputs.dataset.class_names).learning(config))
    learnt = {*encoder.variables["params"], "pos_embed"}
    fresh = [path for path in parameter_shapes(model) if path.split("/")[0] not in learnt] if config.lora else []
    task, start, lora_alpha = with_lora(config, model, task, adapt, fresh)
    meta = record_of("finetune", config, "classifier", model, image_size=(inputs.image_size, inputs.image_size),
                     channels=inputs.dataset.channels, preprocessing=inputs.preprocessing,
                     class_names=inputs.dataset.class_names,
                     validated=inputs.dataset.validation is not None, lora_alpha=lora_alpha)
    layer_scale = None if config.scratch else vit_layer_decay(config.layer_decay, model.depth)
    pretrained = {} if config.scratch else encoder.variables["params"]
    return prepare_training(config, task, inputs, best_metric="top1", best_mode="max", meta=meta, model=model,
                            output_modules=model.output_modules,
                            layer_scale=layer_scale, adapt=start, pretrained=pretrained)
