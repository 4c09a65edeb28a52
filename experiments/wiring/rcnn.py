"""The work of `python -m experiments.rcnn`; its options are in experiments/rcnn.py."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.boxes.proposal_records import ProposalSource, with_proposals
from cvjax.data.dataset import Dataset
from cvjax.errors import ConfigError, DataError
from cvjax.evaluate.mean_ap import voc_ap
from cvjax.interop import load_weights
from cvjax.interop.published import resizing_as
from cvjax.models import create_model
from cvjax.train.preemption import StopRequest
from cvjax.visualize.boxes import detection_panel
from cvjax.workflow.classification.model import load_classifier, parse_fields
from cvjax.workflow.config import TrainingConfig, config_errors
from cvjax.workflow.detection.inputs import make_detection_inputs
from cvjax.workflow.detection.rcnn import (
    Network,
    examples,
    features_by,
    find,
    fit,
    judge,
    proposal_recall,
    region_crops,
    train_network,
)
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.preprocessing import chosen, open_weights, origin_of_weights
from experiments.rcnn import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Make or load the network, extract features, fit, find, report."""

    def some(source: Any, count: int) -> Any:
        return source.take(np.unique(np.linspace(0, len(source) - 1, count).astype(int)))

    def fewer(dataset: Dataset) -> Dataset:
        if dataset.test is None:
            raise DataError(f"{config.data} has no test pictures: R-CNN is judged on them")
        return dataclasses.replace(dataset, train=some(dataset.train, config.training_pictures),
                                   test=some(dataset.test, config.test_pictures))

    one_by_one = dataclasses.replace(config, batch_size=1)
    inputs = make_detection_inputs(one_by_one, canvas=config.canvas, max_boxes=config.max_boxes, folder=folder,
                                   prepare=fewer)
    assert inputs.dataset.test is not None  # `fewer` has seen to it
    training_pictures, test_pictures = len(inputs.dataset.train), len(inputs.dataset.test)
    print(f"{' and '.join(config.methods)} on {config.data}: {training_pictures:,} training and {test_pictures:,} test "
          "pictures")
    if config.dry_run:
        return
    folder.begin()
    inputs = dataclasses.replace(inputs, max_proposals=config.max_proposals, dataset=with_proposals(
        inputs.dataset, config.proposals, max_proposals=config.max_proposals))
    network, said = region_network(config, inputs, folder, stop)
    inputs = dataclasses.replace(inputs, preprocessing=network.preprocessing)
    names, searched = inputs.dataset.class_names, inputs.dataset.test
    assert isinstance(searched, ProposalSource)
    metrics = {"proposals/recall": proposal_recall(inputs, "test"),
               "proposals/per_picture": float(np.diff(searched.starts).mean())}
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
            title=f"{method}: regions with an SVM score above 0")
    print_metrics(metrics)
    folder.finish(metrics, said | {"proposals": f"selective search ({config.proposals})", "nms": 0.3,
                                   "training_pictures": training_pictures, "test_pictures": test_pictures})


def region_network(config: Config, inputs: Any, folder: RunFolder, stop: StopRequest) -> tuple[Any, dict[str, Any]]:
    """The network that a configuration asks for, without its head, and its source for the protocol."""
    def without_head(model: Any, variables: Any) -> tuple[Any, Any]:
        bare, size = model.clone(num_classes=0), model.image_size
        size = (size, size) if isinstance(size, int) else size
        kept = jax.eval_shape(bare.init, jax.random.key(0), jnp.zeros((1, *size, model.in_channels)))["params"]
        return bare, variables | {"params": {name: variables["params"][name] for name in kept}}

    if config.checkpoint is not None:
        known = load_classifier(config.checkpoint)
        folder.reads(known.origin)
        if known.channels != inputs.dataset.channels:
            raise ConfigError(f"--checkpoint {config.checkpoint} takes {known.channels} channels, the data has "
                              f"{inputs.dataset.channels}")
        network = Network(*without_head(known.model, known.variables), known.image_size, config.context,
                          chosen(config, known.preprocessing, known.channels))
        return network, {"network": str(config.checkpoint)}
    fields = parse_fields(config.model_fields)
    if config.weights is not None:
        assert config.model is not None  # checked with the options
        with config_errors():
            published, how = open_weights("weights", config.weights, config.model)
            model = resizing_as(create_model(config.model, num_classes=0, **fields), published.position_resize)
            variables = load_weights(model, published.arrays, trained=published.trained)
        folder.reads(origin_of_weights(config.weights, published))
        size = model.image_size if isinstance(model.image_size, int) else model.image_size[0]
        network = Network(model, variables, size, config.context, chosen(config, how, model.in_channels))
        return network, {"network": config.model, "weights": config.weights}
    own = dict(backbone="resnet20", backbone_fields={"width": 16, "depths": (1, 1, 1)}, map="layer3", levels=(1, 2, 3),
               fc_width=256, image_size=32, dropout=0.2)
    with config_errors():
        model = create_model("sppnet", num_classes=inputs.dataset.num_classes + 1, in_channels=inputs.dataset.channels,
                             **own | fields)
    crops = region_crops(inputs, crop_size=model.image_size, context=config.context,
                         per_image=config.regions_per_picture, seed=config.seed)
    training = TrainingConfig(
        data="warped regions", epochs=config.epochs, batch_size=config.batch_size, seed=config.seed, optimizer="muon",
        base_learning_rate=0.08, weight_decay=0.02, schedule="one_cycle", warmup=0.2,
        run_dir=str(folder.path / "network"))
    variables = train_network(training, model, crops, inputs.dataset.class_names, inputs.preprocessing,
                              RunFolder(training, "rcnn_network", "network", within=folder), stop)
    return (Network(*without_head(model, variables), model.image_size, config.context, inputs.preprocessing),
            {"network": "trained on warped regions", "warped_regions": len(crops)})


def stacked(rows: Any, count: int, names: tuple[str, ...], mask: str) -> dict[str, Any]:
    """Columns of several pictures, padded to `count` rows, and a mask of the rows that are real."""
    fields = {name: np.stack([np.pad(column, ((0, count - len(column)), *[(0, 0)] * (column.ndim - 1)))
                              for column in (row[i] for row in rows)]) for i, name in enumerate(names)}
    return fields | {mask: np.stack([np.arange(count) < len(row[0]) for row in rows])}
