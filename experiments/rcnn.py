"""R-CNN and SPP-net: linear SVMs and box regressions on features of selective search's regions, by one network.

R-CNN warps each region and computes the network anew; SPP-net computes its convolutions once and pools each region from
the map. The default detects painted digits and needs no network access: a small network learns warped regions (R-CNN's
fine-tuning), and both methods have its features. With trained weights: `--checkpoint` of a run of
experiments.supervised, or `--model alexnet --weights FILE`.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from cvjax.experiment.config import DataConfig, main, require


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Regions, their network, and what is learnt on its features."""

    data: str = "scenes"
    """scenes | voc:PATH | coco:PATH | tfds:NAME"""
    batch_size: int = 64
    """Regions per step where the network is trained here."""
    methods: tuple[Literal["rcnn", "sppnet"], ...] = ("rcnn", "sppnet")
    """One or both; sppnet needs a network that pools regions."""
    canvas: tuple[int, int] = (96, 96)
    """Height and width that pictures are fitted into."""
    training_pictures: int = 300
    """At most so many, evenly spaced."""
    test_pictures: int = 150
    """Likewise."""
    proposals: Literal["fast", "quality"] = "fast"
    """Selective search's mode."""
    max_proposals: int = 500
    """Regions of a picture at most."""
    max_boxes: int = 64
    """Objects of a picture at most that are learnt from."""
    checkpoint: Path | None = None
    """The network: a run of experiments.supervised."""
    model: str | None = None
    """The network: a name from list_models(), with --weights. Without either the network is trained here."""
    weights: str | None = None
    """Its weights: a file (.pth, .safetensors) or hf-hub:OWNER/NAME."""
    model_fields: tuple[str, ...] = ()
    """Fields of the network to change, such as image_size=64."""
    epochs: float = 12.0
    """Of the network's training here, on warped regions."""
    regions_per_picture: int = 16
    """That it is trained on, half of them at most of objects."""
    context: int = 2
    """Pixels around a warped region on each side, of what the network sees; 16 of 227 in the paper."""
    chunk: int = 64
    """Regions that go through R-CNN's network together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.methods) > 0, "methods", self.methods, "one or both of rcnn and sppnet")
        require(min(self.canvas) >= 1, "canvas", self.canvas, "HEIGHT WIDTH of at least 1")
        for name in ("training_pictures", "test_pictures", "max_proposals", "max_boxes", "chunk"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.regions_per_picture >= 2, "regions_per_picture", self.regions_per_picture, "at least 2")
        require(self.context >= 0, "context", self.context, "0 or more")
        require(self.epochs > 0, "epochs", self.epochs, "more than 0")
        require(self.weights is None or self.checkpoint is None, "weights", self.weights, "left out with --checkpoint")
        require((self.weights is None) == (self.model is None), "model", self.model,
                "given with --weights, and only then")
        require(self.checkpoint is None or not self.model_fields, "model_fields", self.model_fields,
                "left out with --checkpoint")


PRESETS: dict[str, dict[str, Any]] = {
    "scenes": dict(),
    # Girshick et al. 2014 with published weights of a classifier, without fine-tuning: --weights FILE.
    "voc_rcnn": dict(data="voc:VOC2007", methods=("rcnn",), canvas=(500, 500), training_pictures=5011,
                     test_pictures=4952, max_proposals=2000, context=16, chunk=128, model="alexnet",
                     weights="alexnet.pth"),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Make or load the network, extract features, fit, find, report."""
    import numpy as np

    from cvjax.data.proposal_records import with_proposals
    from cvjax.evaluate.mean_ap import voc_ap
    from cvjax.experiment.detection_inputs import make_detection_inputs
    from cvjax.experiment.region_detection import examples, features_by, find, fit, judge, proposal_recall
    from cvjax.experiment.run import RunFolder, print_metrics
    from cvjax.experiment.training import enable_compilation_cache
    from cvjax.visualize.boxes import detection_panel

    enable_compilation_cache()
    folder = RunFolder(config, "rcnn", name)
    if folder.finished():
        return

    def some(source: Any, count: int) -> Any:
        return source.take(np.unique(np.linspace(0, len(source) - 1, count).astype(int)))

    def fewer(dataset: Any) -> Any:
        return dataclasses.replace(dataset, train=some(dataset.train, config.training_pictures),
                                   test=some(dataset.test, config.test_pictures))

    one_by_one = dataclasses.replace(config, batch_size=1)
    inputs = make_detection_inputs(one_by_one, canvas=config.canvas, max_boxes=config.max_boxes, folder=folder,
                                   prepare=fewer)
    print(f"{' and '.join(config.methods)} on {config.data}: {len(inputs.dataset.train):,} training and "
          f"{len(inputs.dataset.test):,} test pictures")
    if config.dry_run:
        return
    inputs = dataclasses.replace(inputs, max_proposals=config.max_proposals, dataset=with_proposals(
        inputs.dataset, config.proposals, max_proposals=config.max_proposals))
    network, said = region_network(config, inputs, folder, stop)
    names = inputs.dataset.class_names
    metrics = {"proposals/recall": proposal_recall(inputs, "test"),
               "proposals/per_picture": float(np.diff(inputs.dataset.test.starts).mean())}
    shown = list(examples(inputs, "test"))[:6]
    for method in config.methods:
        extract = features_by(method, network, inputs, config.chunk)
        fitted = fit(extract, inputs, seed=config.seed)
        truths, found, seconds = judge(extract, fitted, inputs, "test")
        metrics |= {f"{method}/ap50": voc_ap(truths, found, names).mean, f"{method}/cpu_seconds_per_picture": seconds}
        rows = [find(extract, fitted, example) for example in shown]
        pad = [max(len(row.boxes) for row in rows), max(len(example.truth.boxes) for example in shown)]
        detection_panel(
            folder.figures / f"{method}.png", np.stack([example.image for example in shown]) / np.float32(255), names,
            truth=stacked([example.truth for example in shown], pad[1], ("boxes", "box_label", "box_difficult"),
                          "box_mask"),
            found=stacked(rows, pad[0], ("boxes", "score", "box_label"), "valid"),
            extent=np.stack([example.extent for example in shown]), least_score=0.0,
            title=f"{method}: regions whose SVM says more than 0")
    print_metrics(metrics)
    folder.finish(metrics, said | {"proposals": f"selective search ({config.proposals})", "nms": 0.3,
                                   "training_pictures": len(inputs.dataset.train),
                                   "test_pictures": len(inputs.dataset.test)})


def region_network(config: Config, inputs: Any, folder: Any, stop: Any) -> tuple[Any, dict[str, Any]]:
    """The network that a configuration asks for, without its head, and whose it is."""
    from cvjax.experiment.classifier import load_classifier, parse_fields
    from cvjax.experiment.config import ConfigError, TrainingConfig, config_errors
    from cvjax.experiment.region_detection import Network, region_crops, train_network
    from cvjax.experiment.run import RunFolder
    from cvjax.interop import load_weights
    from cvjax.models import create_model

    def without_head(model: Any, variables: Any) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp

        bare, size = model.clone(num_classes=0), model.image_size
        size = (size, size) if isinstance(size, int) else size
        kept = jax.eval_shape(bare.init, jax.random.key(0), jnp.zeros((1, *size, model.in_channels)))["params"]
        return bare, variables | {"params": {name: variables["params"][name] for name in kept}}

    if config.checkpoint is not None:
        known = load_classifier(config.checkpoint)
        if known.channels != inputs.dataset.channels:
            raise ConfigError(f"--checkpoint {config.checkpoint} takes {known.channels} channels, the data has "
                              f"{inputs.dataset.channels}")
        network = Network(*without_head(known.model, known.variables), known.image_size, config.context)
        return network, {"network": str(config.checkpoint)}
    fields = parse_fields(config.model_fields)
    if config.weights is not None:
        with config_errors():
            model = create_model(config.model, num_classes=0, **fields)
            try:
                variables = load_weights(model, config.weights)
            except OSError as error:
                raise ConfigError(f"--weights {config.weights}: {error}") from None
        size = model.image_size if isinstance(model.image_size, int) else model.image_size[0]
        return Network(model, variables, size, config.context), {"network": config.model, "weights": config.weights}
    own = dict(backbone="resnet20", backbone_fields={"width": 16, "depths": (1, 1, 1)}, map="layer3", levels=(1, 2, 3),
               fc_width=256, image_size=32, dropout=0.2)
    with config_errors():
        model = create_model("sppnet", num_classes=inputs.dataset.num_classes + 1, in_channels=inputs.dataset.channels,
                             **own | fields)
    crops = region_crops(inputs, crop_size=model.image_size, context=config.context,
                         per_image=config.regions_per_picture, seed=config.seed)
    training = TrainingConfig(
        data="warped regions", epochs=config.epochs, batch_size=config.batch_size, seed=config.seed, optimizer="muon",
        base_learning_rate=0.08, weight_decay=0.02, schedule="one_cycle", warmup=0.2, run_dir=folder.path / "network")
    variables = train_network(training, model, crops, inputs.dataset.class_names,
                              RunFolder(training, "rcnn_network", "network"), stop)
    return (Network(*without_head(model, variables), model.image_size, config.context),
            {"network": "trained on warped regions", "warped_regions": len(crops)})


def stacked(rows: Any, count: int, names: tuple[str, ...], mask: str) -> dict[str, Any]:
    """Columns of several pictures, filled up to `count` rows, and which rows are real."""
    import numpy as np

    fields = {name: np.stack([np.pad(column, ((0, count - len(column)), *[(0, 0)] * (column.ndim - 1)))
                              for column in (row[i] for row in rows)]) for i, name in enumerate(names)}
    return fields | {mask: np.stack([np.arange(count) < len(row[0]) for row in rows])}


if __name__ == "__main__":
    main(run, "rcnn", Config, PRESETS, __doc__)
