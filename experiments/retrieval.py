"""Do frozen features find images of a class? Test images as queries, the training set ranked by cosine similarity.

    python -m experiments.retrieval --checkpoint runs/mae_pretrain/digits
    python -m experiments.retrieval --data folder:PATH --model vit_small_patch16_224 --weights FILE

Mean average precision, precision at 1, 5 and 10, and `figures/neighbours.png`: queries beside what is most like them.
"""

import dataclasses
from typing import Any

from cvjax.experiment.config import main
from cvjax.experiment.frozen import DEFAULT_RUN, frozen_encoder
from cvjax.experiment.frozen import NeighbourConfig as Config

PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(data="digits"),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Extract features, rank, report."""
    from cvjax.experiment.encoder import check_channels
    from cvjax.experiment.inputs import make_inputs
    from cvjax.experiment.probing import check_probing
    from cvjax.experiment.retrieving import retrieve
    from cvjax.experiment.run import RunFolder, print_metrics
    from cvjax.experiment.training import enable_compilation_cache

    enable_compilation_cache()
    folder = RunFolder(config, "retrieval", name)
    if folder.finished():
        return
    encoder, source = frozen_encoder(config)
    encoder = dataclasses.replace(encoder, blocks=1)
    inputs = make_inputs(config, image_size=encoder.image_size, folder=folder)
    check_channels(encoder, inputs.dataset.channels)
    check_probing(inputs)
    print(f"retrieval by {config.weights or config.checkpoint or DEFAULT_RUN} on {config.data}: "
          f"{len(inputs.dataset.train):,} training images")
    if config.dry_run:
        return
    metrics, protocol = retrieve({"random": encoder.random(config.seed), encoder.name: encoder}, inputs, folder.figures)
    print_metrics(metrics)
    folder.finish(metrics, protocol | {"encoders": {encoder.name: source}, "seed": config.seed})


if __name__ == "__main__":
    main(run, "retrieval", Config, PRESETS, __doc__)
