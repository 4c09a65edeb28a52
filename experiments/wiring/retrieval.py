"""The work of `python -m experiments.retrieval`; its options are in experiments/retrieval.py."""

import dataclasses

from cvjax.train.preemption import StopRequest
from cvjax.workflow.config import on_data_of
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.encoder import check_channels, frozen_encoder
from cvjax.workflow.frozen.options import DEFAULT_RUN, NeighbourConfig
from cvjax.workflow.frozen.probing import check_probing
from cvjax.workflow.frozen.retrieval import retrieve
from cvjax.workflow.image_inputs import make_inputs


def run(config: NeighbourConfig, folder: RunFolder, stop: StopRequest) -> None:
    """Extract features, rank, report."""
    encoder, source = frozen_encoder(config)
    folder.reads(encoder.origin)
    config = on_data_of(config, encoder.learnt)
    encoder = dataclasses.replace(encoder, blocks=1)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder, preprocessing=encoder.preprocessing)
    check_channels(encoder, inputs.dataset.channels)
    check_probing(inputs)
    print(f"retrieval by {config.weights or config.checkpoint or DEFAULT_RUN} on {config.data}: "
          f"{len(inputs.dataset.train):,} training images")
    if config.dry_run:
        return
    folder.begin()
    metrics, protocol = retrieve({"random": encoder.random(config.seed), encoder.name: encoder}, inputs, folder.figures)
    print_metrics(metrics)
    folder.finish(metrics, protocol | {"encoders": {encoder.name: source}, "seed": config.seed})
