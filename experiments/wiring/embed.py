"""The work of `python -m experiments.embed`; its options are in experiments/embed.py."""

import time

from cvjax.train.preemption import StopRequest
from cvjax.workflow.config import on_data_of
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.embedding import FILES, embed, parquet, write_projector
from cvjax.workflow.frozen.encoder import check_channels, frozen_encoder
from cvjax.workflow.frozen.probing import extractors_of, shared_protocol
from cvjax.workflow.image_inputs import make_inputs
from cvjax.workflow.inputs import check_batches
from experiments.embed import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Compute what is missing, and write it whole."""
    if config.format == "parquet":
        parquet()  # or what is missing would be told after all features are computed
    encoder, source = frozen_encoder(config)
    folder.reads(encoder.origin)
    config = on_data_of(config, encoder.learnt)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder, preprocessing=encoder.preprocessing)
    check_channels(encoder, inputs.dataset.channels)
    check_batches(inputs)
    print(f"embed {config.data} by {config.weights or source['checkpoint']}: {len(inputs.dataset.train):,} training "
          "images")
    if config.dry_run:
        return
    folder.begin()
    started = time.perf_counter()
    extractor = extractors_of({encoder.name: encoder}, inputs)[encoder.name]
    count, width = embed(extractor, inputs, folder.path, config.format)
    seconds = time.perf_counter() - started
    print(f"{count:,} images in {seconds:.1f} s: {width:,} features each, in {folder.place}/{FILES[config.format]}")
    if config.projector:
        print(f"for the projector: tensorboard --logdir {write_projector(folder.path)}")
    protocol = shared_protocol(inputs) | {"features": {encoder.name: encoder.protocol()},
                                          "knn_width": extractor.knn_width, "classes": inputs.dataset.num_classes,
                                          "encoders": {encoder.name: source}}
    folder.finish({"images": count, "width": width}, protocol)
