"""A model card, `README.md` on the Hugging Face Hub: what was trained, its numbers, and how to load it.

All of it comes from a run's `config.json` and `summary.json`. The page is public: of places on this machine it has the
last part alone, and names of classes, fields and files are text in it whatever their letters.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import jax

from cvjax.evaluate.shares import in_words
from cvjax.interop.hub import HUB
from cvjax.storage import is_address
from cvjax.text import printable
from cvjax.workflow.config import STARTED
from cvjax.workflow.report.page import images_behind, plain
from cvjax.workflow.restore import Run

_NAMED = 200  # class names on the page; `config.json` has all of them
_LONGEST = 200  # letters of a value

_TASKS = {"classifier": "image-classification", "multi_label_classifier": "image-classification",
          "encoder": "image-feature-extraction"}  # the hub's names; it has none for numbers
_OUTPUTS = {"classifier": "logits of classes, whose softmax are probabilities",
            "multi_label_classifier": "logits of labels, whose sigmoid are probabilities",
            "regressor": "numbers, less their mean, over their deviation in the training part",
            "encoder": "features"}


def model_card(run: Run, config: Mapping[str, Any], summary: Mapping[str, Any], repository: str, name: str, *,
               in_timm: bool, license: str | None) -> str:
    """The card of a run's network, as Markdown with YAML before it.

    config, summary: the content of the run's `config.json` and `summary.json`. repository: OWNER/NAME. name: the
    registered one of the model. in_timm: whether timm can build the network. license: its identifier, None for none.
    """
    title = _text(repository.rpartition("/")[2])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"]))
    lead = (f"{_text(name)} with {parameters:,} parameters, trained by cvjax's experiment {_text(run.experiment)} on "
            f"{_value(run.config.get('data', 'data that are not recorded'))}. Its outputs are {_OUTPUTS[run.kind]}.")
    seed = (f"This is one run, of seed {_text(config['seed'])}" if "seed" in config else "This is one run") + (
        ": it does not say how much another seed changes a number.")
    metrics, protocol = summary["metrics"], summary["protocol"]
    numbers = _table(("metric", "value", "images"), [(_text(metric), in_words(metric, value),
                                                      images_behind(metric, protocol) or "-")
                                                     for metric, value in metrics.items()])
    parts = [_front(run, config, in_timm, license), f"# {title}", lead, "## Numbers", numbers, seed,
             "What the numbers rest on:", _table(("name", "value"), _facts(protocol)), "## Images", _images(run),
             "## Use", _use(run, repository, name, in_timm)]
    if run.class_names:
        parts += [f"## {'Labels' if run.kind == 'multi_label_classifier' else 'Outputs'}",
                  _units(run) if run.kind == "regressor" else _names(run.class_names)]
    return "\n\n".join([*parts, "## Training", *_training(config, summary)]) + "\n"


def _front(run: Run, config: Mapping[str, Any], in_timm: bool, license: str | None) -> str:
    """The hub's facts; each value is a fixed word, or was checked to be one of letters, digits and `/ . + -`."""
    task, base = _TASKS.get(run.kind), str(config.get("pretrained") or "")
    tags = [*([task] if task else []), *(["timm"] if in_timm else []), "cvjax", "jax"]
    lines = [f"library_name: {'timm' if in_timm else 'cvjax'}"]
    lines += [f"license: {json.dumps(license)}"] if license else []  # else YAML reads no as False
    lines += [f"pipeline_tag: {task}"] if task else []
    if base.startswith(HUB) and re.fullmatch(r"[\w.-]+/[\w.-]+", base := base.removeprefix(HUB).partition("@")[0]):
        lines.append(f"base_model: {base}")
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _images(run: Run) -> str:
    """What becomes of an image before the network sees it."""
    (height, width), how = run.image_size, run.preprocessing
    resized = (f"the shorter side of others is resized ({how.interpolation}), in proportion"
               if how.crop_mode == "center" else f"others are squashed to a square ({how.interpolation})")
    return (f"{height} x {width} pixels of {run.channels} channel{'s' * (run.channels > 1)}. Images of exactly this "
            f"size are taken as they are; {resized}, so that the central square of this size is {how.crop:g} of it. Of "
            f"pixels in [0, 1], the mean {_numbers(how.mean)} is taken away, and the rest divided by "
            f"{_numbers(how.std)}.")


def _use(run: Run, repository: str, name: str, in_timm: bool) -> str:
    place = f"{HUB}{repository}"
    with_timm = ("In timm:\n\n```python\nimport timm\n\n"
                 f'model = timm.create_model("{place}", pretrained=True).eval()\n'
                 "config = timm.data.resolve_data_config(model=model, use_test_size=True)\n"
                 "transform = timm.data.create_transform(**config)\n```")
    if not in_timm:
        with_timm = ("timm has no such network: `timm.create_model` does not load these weights. They are in the names "
                     "and the layout of cvjax.")
    task = ("knn --data folder:PATH" if run.kind == "encoder" else "predict PHOTO")
    ours = (f"In cvjax:\n\n```python\nfrom cvjax.interop import create_pretrained\n\n"
            f'found = create_pretrained("{name}", "{place}")  # .model, .variables, .preprocessing, .class_names\n```')
    if run.kind in ("encoder", "classifier"):  # the command takes answers for classes
        ours += f"\n\n```\npython -m experiments.{task} --model {name} --weights {place}\n```"
    return f"{with_timm}\n\n{ours}"


def _training(config: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterable[str]:
    """How the network came about: the preset, what differs from it, and the weights that it started from."""
    started = config.get(STARTED, {})
    if "preset" in started:
        yield f"The preset {_text(started['preset'])} of {_text(config['experiment'])}, with these changes:"
        yield _table(("field", "in the preset", "in this run"),
                     [(_text(field), _value(before), _value(now))
                      for field, (before, now) in started["changed"].items()]) if started["changed"] else "none."
    if summary.get("sources"):
        yield "It started from:"
        yield "\n".join(f"- {', '.join(f'{_text(key)} {_value(value)}' for key, value in source.items())}"
                        for source in summary["sources"])
    yield f"Versions: {', '.join(f'{_text(key)} {_text(value)}' for key, value in summary['versions'].items())}."


def _names(names: Sequence[str]) -> str:
    more = f", and {len(names) - _NAMED:,} more, which `config.json` names" if len(names) > _NAMED else ""
    return ", ".join(f"`{i}` {_text(name)}" for i, name in enumerate(names[:_NAMED])) + more + "."


def _units(run: Run) -> str:
    """What turns a regressor's outputs into numbers."""
    return _table(("output", "mean", "deviation"), [
        (f"`{i}` {_text(name)}", f"{mean:.9g}", f"{std:.9g}")  # all digits of float32
        for i, (name, mean, std) in enumerate(zip(run.class_names, run.facts["mean"], run.facts["std"]))])


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _facts(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The rows of a tree; keys may be places, too: those of the runs that were averaged."""
    for key, value in tree.items():
        name = f"{above}{_without_folders(key)}"
        if isinstance(value, Mapping):
            yield from _facts(value, f"{name}/")
        else:
            yield _text(name), _value(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _value(value: Any) -> str:
    """A value of JSON as a person writes it, without the folders in which files lie."""
    return _text(plain(_without_folders(value)))


def _text(value: Any) -> str:
    """Any text as Markdown that shows it, on one line: nothing in it is a link, a cell's end or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!:.@=+^-])", r"\\\1", printable(str(value), most=_LONGEST))


def _without_folders(value: Any) -> Any:
    """The value, with the last part alone of each place outside of the working folder."""
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if not isinstance(value, str):
        return value
    form, colon, place = value.partition(":")
    if is_address(value) or not colon:
        form, colon, place = "", "", value
    if is_address(place) or place.startswith(("/", "~")) or ".." in PurePath(place).parts:
        place = place.rstrip("/").rpartition("/")[2]
    return f"{form}{colon}{place}"
