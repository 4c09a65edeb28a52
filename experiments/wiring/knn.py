"""The work of `python -m experiments.knn`; its options are in experiments/knn.py."""

from cvjax.errors import ConfigError
from cvjax.evaluate.probe import probe_features, table
from cvjax.train.preemption import StopRequest
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.embedding import file_of, kept, read_embedded
from cvjax.workflow.frozen.probing import run_frozen
from cvjax.workflow.origin import origin_of_file
from cvjax.workflow.run_files import read_summary
from experiments.knn import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Extract features, search neighbours, report."""
    if config.features is None:
        run_frozen(config, folder, linear=False)
    else:
        run_kept(config, folder)


def run_kept(config: Config, folder: RunFolder) -> None:
    """The same by features that are there already."""
    assert config.features is not None
    embedded, protocol = read_embedded(config.features), read_summary(config.features)["protocol"]
    folder.reads(origin_of_file(str(path := file_of(config.features)), path))
    if not protocol["classes"] or not (embedded.parts == "test").any():
        raise ConfigError("probing needs class labels and a test split; these features do not have both")
    print(f"{folder.experiment} of {config.features}: {int((embedded.parts == 'train').sum()):,} training images")
    if config.dry_run:
        return
    (name,) = protocol["features"]
    extractors = {name: kept(protocol["knn_width"])}
    metrics, measured = probe_features(extractors, lambda: embedded.batches("train"), lambda: embedded.batches("test"),
                                       protocol["classes"], seed=config.seed, linear=False)
    print(f"\nFrozen features, test accuracy:\n{table(metrics, extractors)}\n")
    folder.finish(metrics, {name: protocol[name] for name in ("data", "images", "features", "encoders")} | measured)
