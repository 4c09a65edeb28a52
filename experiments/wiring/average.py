"""The work of `python -m experiments.average`; its options are in experiments/average.py."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.durable import delete_folder
from cvjax.errors import ConfigError
from cvjax.evaluate.shares import in_words
from cvjax.evaluate.soup import greedy_soup, mean_of, renewing_statistics, unmoved
from cvjax.interop.published import structure
from cvjax.text import printable
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.state import TrainState
from cvjax.workflow.classification.goal import check_judged, check_same_goal
from cvjax.workflow.classification.model import Classifier, classifier_of
from cvjax.workflow.classification.parts import PARTS, training_parts
from cvjax.workflow.classification.report import answering, report
from cvjax.workflow.command import name_from
from cvjax.workflow.config import on_data_of
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.probing import shared_protocol
from cvjax.workflow.image_inputs import ImageInputs, make_inputs
from cvjax.workflow.inputs import check_batches
from cvjax.workflow.origin import sources_json
from cvjax.workflow.restore import SUPERVISED, Run, load_run, record_of
from cvjax.workflow.run_files import SUMMARY, read_summary
from experiments.average import Config

RENEWING = 10_000  # training images on which batch norm's statistics are measured, or all if there are fewer


def run(config: Config) -> None:
    """Average the runs into a folder of their own."""
    name = name_from(f"{config.how}-{'+'.join(Path(run).name for run in config.runs)}")
    started = {"arguments": ["experiments.average", *(word for word in sys.argv[1:] if word != "--overwrite")]}
    with RunFolder(config, "average", name, started=started) as folder:
        if not folder.finished():
            average(config, folder)


def average(config: Config, folder: RunFolder) -> None:
    """Write the mean as a checkpoint, judge it, and write `summary.json`."""
    runs = [load_run(place).require(*SUPERVISED) for place in config.runs]
    for each in runs:
        folder.reads(each.origin)
    check_alike(runs)
    say_starts(runs)
    network = classifier_of(runs[0])
    inputs = open_inputs(config, folder, network)
    if config.dry_run:
        return
    means = Means(network, [each.variables for each in runs], inputs)
    scores = [means.scores([i]) for i in range(len(runs))]
    chosen, metric = list(range(len(runs))), network.goal.compared_by
    if config.how == "greedy":
        chosen, _ = greedy_soup([found[metric] for found in scores], lambda positions: means.scores(positions)[metric])
    soup = dataclasses.replace(network, variables=means.variables(chosen))
    renewed_on = means.renewed_on if len(chosen) > 1 else 0
    folder.begin()
    save(folder, runs, soup)
    metrics = {f"validation/{name}": value for name, value in means.scores(chosen).items()}
    if inputs.dataset.test is not None:
        metrics |= {f"test/{name}": value for name, value in report([soup], inputs, folder.figures).items()}
    ingredients = {place: ingredient(run, i in chosen, found)
                   for i, (place, run, found) in enumerate(zip(config.runs, runs, scores))}
    print_ingredients(ingredients, metric)
    print_metrics(metrics)
    folder.finish(metrics, shared_protocol(inputs) | {
        "chosen_by": "last step" if inputs.dataset.validation is None else f"validation/{metric}",
        "soup": {"how": config.how, "ingredients": len(chosen),
                 "batch_statistics_images": renewed_on}, "runs": ingredients})


def open_inputs(config: Config, folder: RunFolder, network: Classifier) -> ImageInputs:
    """The data, in the parts that the networks learnt from; ConfigError for what they cannot be judged by."""
    config = on_data_of(config, network.learnt)
    inputs = make_inputs(config, image_size=network.image_size, folder=folder, preprocessing=network.preprocessing,
                         prepare=partial(training_parts, {**network.learnt, "data": config.data}))
    check_batches(inputs)
    check_same_goal(network.goal, inputs.dataset, config.data)
    if config.how == "greedy" and inputs.dataset.validation is None:
        raise ConfigError("--how greedy chooses by a validation part, and the runs have none: train them with "
                          "--validation SHARE, or average all of them with --how uniform")
    for part in ("validation", "test"):
        check_judged(inputs.dataset, part)
    print(f"average {len(config.runs)} runs, {config.how}, on {config.data}: {len(inputs.dataset.train):,} training "
          "images")
    return inputs


class Means:
    """The means of some networks, and how they do on the validation part.

    networks: the variables of each. renewed_on: how many images the newest mean's statistics of batch norm come from, 0
    without batch norm, and where all were frozen.
    """

    def __init__(self, network: Classifier, networks: Sequence[Any], inputs: ImageInputs) -> None:
        self.network, self.networks, self.inputs = network, networks, inputs
        self.renewed_on = 0
        self._renewed = renewing_statistics(network.model, unmoved(networks))
        self._answers = answering([network], inputs)
        self._scores: dict[tuple[int, ...], dict[str, float]] = {}

    def variables(self, positions: Sequence[int]) -> Any:
        """The mean of the networks at these positions; one alone as it is."""
        mean = mean_of([self.networks[i] for i in positions])
        return mean if len(positions) == 1 else self._renewed(mean, self._batches())

    def scores(self, positions: Sequence[int]) -> dict[str, float]:
        """The metrics of that mean on the validation part, by name; none where there is no such part."""
        if self.inputs.dataset.validation is None:
            return {}
        key = tuple(positions)
        if key not in self._scores:
            answers, labels, _ = self._answers([self.variables(positions)], "validation")
            self._scores[key] = self.network.goal.scores(answers, labels)
        return self._scores[key]

    def _batches(self) -> Iterator[jax.Array]:
        """Whole batches of normalised training images in random order, as an evaluation sees them; of fewer images one
        that is smaller."""
        dataset, size, self.renewed_on = self.inputs.dataset, self.inputs.batch_size, 0
        order = np.random.default_rng(0).permutation(len(dataset.train))[:max(RENEWING, size)]
        taken = dataclasses.replace(dataset, train=dataset.train.take(order))
        waiting = np.zeros((0, *self.inputs.seen_shape), dataset.image_dtype)
        for batch in dataclasses.replace(self.inputs, dataset=taken).eval_batches("train"):
            waiting = np.concatenate([waiting, batch["image"][batch["mask"]]])  # without unreadable files
            if len(waiting) >= size:
                self.renewed_on += size
                yield self.inputs.preprocess(waiting[:size])
                waiting = waiting[size:]
        if self.renewed_on == 0 and len(waiting) > 0:
            self.renewed_on = len(waiting)
            yield self.inputs.preprocess(waiting)


def check_alike(runs: Sequence[Run]) -> None:
    """ConfigError, which names the first difference, unless the networks may be averaged and were judged alike."""
    first = facts_of(runs[0])
    for other in runs[1:]:
        found = facts_of(other)
        for name in first | found:
            if first.get(name) != found.get(name):
                raise ConfigError(printable(f"{runs[0].origin.run} and {other.origin.run} cannot be averaged: {name} "
                                            f"is {first.get(name)} and {found.get(name)}", most=400))


def facts_of(run: Run) -> dict[str, Any]:
    """What runs must share, by names for a person. How a network was trained may differ."""
    kind, fields = structure(run.model)
    return {"the network": kind.__name__, **{f"the network's {name}": value for name, value in fields.items()},
            "what it learns": run.kind, "the classes": run.class_names, "channels": run.channels,
            "the size of its images": run.model.image_size, "the size of judged images": run.image_size,
            "preprocessing": run.preprocessing,
            **{f"--{name.replace('_', '-')}": run.config.get(name, default)
               for name, default in {"data": None, "channels": None, **PARTS}.items()}, **run.facts}


def say_starts(runs: Sequence[Run]) -> None:
    """Print a line if the runs do not say that they started from the same weights."""
    starts = {str(run.config.get("pretrained") or run.config.get("checkpoint")) for run in runs}
    if len(starts) > 1 or starts == {"None"}:
        print("these runs did not start from the same learnt weights; then their mean is mostly useless")


def save(folder: RunFolder, runs: Sequence[Run], soup: Classifier) -> None:
    """Write the mean as the checkpoint of the folder's run, in the place of one that a killed process left."""
    if folder.checkpoints.exists():
        delete_folder(folder.checkpoints, folder.path / "checkpoints.deleted")
    first, step = runs[0], max(each.origin.step for each in runs)
    meta = record_of("average", first.config, first.kind, first.model, image_size=first.image_size,
                     channels=first.channels, preprocessing=first.preprocessing, class_names=first.class_names,
                     validated=False, **first.facts)
    meta |= {"total_steps": step, "sources": sources_json(folder.origins)}
    rest = {name: tree for name, tree in soup.variables.items() if name != "params"}
    params, rest = jax.tree.map(jnp.asarray, (soup.variables["params"], rest))
    state = TrainState(jnp.int32(step), params, rest, (), None, jax.random.key(0))
    goal = soup.goal
    with Checkpointer(folder.checkpoints, best_metric=goal.best_metric, best_mode=goal.best_mode) as checkpointer:
        checkpointer.save(state, meta)


def ingredient(run: Run, kept: bool, scores: Mapping[str, float]) -> dict[str, Any]:
    """What the summary says of a run: its checkpoint, whether it is in the mean, and its numbers."""
    own = read_summary(run.path)["metrics"] if (run.path / SUMMARY).exists() else {}
    return {"step": run.origin.step, "weights": run.origin.weights, "kept": kept,
            **{f"validation/{name}": value for name, value in scores.items()},
            **{name: value for name, value in own.items() if name.startswith("test/")}}


def print_ingredients(ingredients: Mapping[str, Mapping[str, Any]], metric: str) -> None:
    """A line for each run: whether it is in the mean, and the metric by which it was judged."""
    for place, facts in ingredients.items():
        numbers = [f"{name} {in_words(name, facts[name])}" for name in (f"validation/{metric}", f"test/{metric}")
                   if name in facts]
        print(printable(f"  {'in ' if facts['kept'] else 'out'} {place}: {', '.join(numbers) or 'not judged'}"))
