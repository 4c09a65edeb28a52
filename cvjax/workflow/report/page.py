"""The page of a run, `report.html`: what was trained, its curves, numbers and pictures, and what can be done next.

All of it comes from the files in the run's folder, so that it can be written again at any time. While the run trains,
`cvjax.workflow.report.live` says how far it is, and the page loads itself anew.
"""

import base64
import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cvjax.durable import write_whole
from cvjax.evaluate.protocol import BASELINES, PROBES, column_of, flat
from cvjax.evaluate.shares import in_words
from cvjax.text import read_text
from cvjax.train.log import read_metrics
from cvjax.workflow.compare import HEADLINES
from cvjax.workflow.config import RUN_DATA, STARTED
from cvjax.workflow.next_commands import next_commands, resume_command
from cvjax.workflow.report.html import details, document, lines, table, text
from cvjax.workflow.report.plot import plots
from cvjax.workflow.run_files import SUMMARY, read_config, read_summary

REPORT = "report.html"
_LARGEST = 8_000_000  # bytes of a picture that goes into the page; a larger one is named
_NAMED = 200  # unreadable files
_FEW = 12  # a longer table of numbers is folded

_PICTURES = {  # what a picture of `figures/` shows; others are called by their file's name
    "reconstruction": "Images, what the network saw of them, and its reconstruction",
    "confusion": "Confusion: the true class by row, the answer by column",
    "reliability": "Reliability: how often answers of each certainty are right",
    "mistakes": "The mistakes that the network was surest of",
    "explanations": "What the answers rest on",
    "kernels": "The filters of the first convolution",
    "templates": "What each class looks for",
    "segmentation": "Images, true label maps, and the network's",
    "detections": "Boxes that the network found, and true ones",
    "precision_recall": "Precision and recall of each class",
    "neighbours": "Images and their nearest neighbours",
    "views": "Views of one image, as the training sees them",
    "average_precision": "Average precision of each label",
    "predictions": "Predictions and true numbers",
    "scaling": "Loss by parameters and images"}

_LIVE = """
const time = document.querySelector("time"), box = document.getElementById("refresh");
const ago = document.getElementById("ago"), alarm = document.getElementById("alarm");
const keep = (get) => { try { return get(sessionStorage) } catch { return null } };
box.parentElement.hidden = false;
box.checked = keep((s) => s.refresh) !== "no";
box.onchange = () => keep((s) => s.refresh = box.checked ? "yes" : "no");
for (const part of document.querySelectorAll("details")) {
  if (keep((s) => s[part.id])) part.open = true;
  part.ontoggle = () => keep((s) => s[part.id] = part.open ? "open" : "");
}
const look = () => {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time.dateTime)) / 1000));
  const old = seconds > LIMIT;
  ago.textContent = seconds < 120 ? ` (${seconds} seconds ago)` : ` (${Math.round(seconds / 60)} minutes ago)`;
  alarm.hidden = !old;
  if (old) document.getElementById("state").textContent = "no sign of life";
};
look();
setInterval(look, 1000);
setInterval(() => { if (box.checked) location.reload() }, EVERY * 1000);
"""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training is. step: steps done. facts: more about it, name -> value. stopped: why it has ended early;
    None while it trains. every: seconds after which the page is written anew."""

    step: int
    total_steps: int
    facts: Mapping[str, Any]
    stopped: str | None = None
    every: float = 5.0


def write_report(folder: Path, place: str, config: Mapping[str, Any], summary: Mapping[str, Any] | None,
                 progress: Progress | None = None) -> str | None:
    """Write a run's page whole, and not synced, since it can be made again. What prevented it, None if nothing did.

    Arguments as in `page_of`.
    """
    try:
        write_whole(folder / REPORT, page_of(folder, place, config, summary, progress), synced=False)
    except OSError as error:  # a run does not end for its page's sake
        return f"{place}/{REPORT} is not written: {error.strerror or error}"
    return None


def page_of(folder: Path, place: str, config: Mapping[str, Any], summary: Mapping[str, Any] | None,
            progress: Progress | None = None, now: datetime | None = None) -> str:
    """The page of a run.

    folder: where its files are on this machine. place: where the run is, as commands name it. config: the content of
    its `config.json`. summary: that of `summary.json`; None while the run is not complete. progress: of a training that
    is under way. now: the time on the page.
    """
    state = _state_of(summary, progress)
    experiment = config["experiment"]
    name = f"{experiment}: {_run_name(place)}"
    logged = read_metrics(folder / "metrics.jsonl")
    commands = next_commands(experiment, config, place) if summary else []
    written = now or datetime.now(UTC)
    header = (f'<p class="over">cvjax run</p><h1>{text(name)}</h1>'
              f'<p><span class="state {state}" id="state">{_STATES[state]}'
              f"{f' at {_time(written)}' if state == 'training' else ''}</span></p><p>"
              f"{_lead(config, summary, progress)}</p>"
              + (_progress(progress, logged, resume_command(config)) if progress else "")
              + (_unfinished(logged, config) if state == "unfinished" else ""))
    return document(name, header, [
        ("results", "Results", _results(config, summary)),
        ("curves", "Curves", plots(logged) or ("<p>No line has been logged yet.</p>" if state == "training" else "")),
        ("pictures", "Pictures", _pictures(folder)),
        ("tables", "Tables", _tables(folder)),
        ("next", "What to do next", "".join(f"<p>This {text(purpose)}:</p>{_command(command)}"
                                            for command, purpose in commands)),
        ("made", "How it was made", _made(config, summary, progress, folder, resume_command(config))),
    ], f"{'Last written' if state == 'training' else 'Written'} {_time(written)} by cvjax. This page is one file and "
       "loads nothing from a network.",
        script=_live(progress) if progress and state == "training" else "",
        head=f'<noscript><meta http-equiv="refresh" content="{progress.every:.0f}"></noscript>'
        if progress and state == "training" else "")


State = Literal["complete", "training", "stopped", "unfinished"]
_STATES: dict[State, str] = {"complete": "complete", "training": "training", "stopped": "stopped",
                             "unfinished": "not complete"}


def _state_of(summary: Mapping[str, Any] | None, progress: Progress | None) -> State:
    if summary is not None:
        return "complete"
    return "unfinished" if progress is None else "training" if progress.stopped is None else "stopped"


def _live(progress: Progress) -> str:
    """The script of a page that loads itself anew, and says so when nobody has written it for long."""
    return _LIVE.replace("LIMIT", str(int(max(120, 4 * progress.every)))).replace("EVERY", f"{progress.every:.0f}")


def _run_name(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def _lead(config: Mapping[str, Any], summary: Mapping[str, Any] | None, progress: Progress | None) -> str:
    """What was trained, or judged, and on what, in a sentence or two."""
    protocol = summary["protocol"] if summary else {}
    facts = {**flat(protocol.get("data", {})), **(progress.facts if progress else {})}
    what = f"<b>{text(config['model'])}</b>" if config.get("model") else "A network"
    given = config.get("checkpoint") or config.get("runs")
    if given:
        runs = given if isinstance(given, list) else [given]
        kind = "mean" if "runs" in config else "network"
        what = f"The {kind} of {', '.join(f'<b>{text(run)}</b>' for run in runs)}"
    counts = [f"{facts[key]:,} {word}" for key, word in (("training_images", "training images"),
                                                         ("test_images", "test images"), ("classes", "classes"))
              if isinstance(facts.get(key), int) and facts[key]]
    data = config.get("data", "data that are not recorded")
    said = f"{what} on <b>{'the data that it learnt from' if data == RUN_DATA else text(data)}</b>"
    said += f": {', '.join(counts)}." if counts else "."
    if summary and summary.get("steps"):
        seconds = summary.get("wall_seconds", 0)
        said += (f" {summary['steps']:,} steps of {config.get('batch_size', '?')} images in {_duration(seconds)}, "
                 f"{summary.get('images_per_second', 0):,.0f} images per second.")
    return said


def _progress(progress: Progress, logged: Sequence[Mapping[str, Any]], resume: str | None) -> str:
    """How far a training is, and how it goes on if it has stopped."""
    done, total = progress.step, progress.total_steps
    bar = (f'<p><label for="progress">Step {done:,} of {total:,} ({100 * done / max(total, 1):.0f} %)</label>'
           f'<progress id="progress" max="{total}" value="{done}"></progress></p>')
    again = f"<p>This command goes on from the last checkpoint:</p>{_command(resume)}" if resume else ""
    if progress.stopped is not None:
        return f'{bar}<div class="alarm"><p>The training has ended early: {text(progress.stopped)}.</p>{again}</div>'
    after = " All steps are done; results and pictures come next." if done >= total else ""
    if logged and not after and logged[-1]["step"]:
        left = logged[-1].get("seconds", 0) * (total - done) / logged[-1]["step"]
        after = f" At this pace the steps take {_duration(left)} more."
    every = f"every {progress.every:.0f} seconds"
    return (f'{bar}<p class="note">Written at the time above<span id="ago"></span>, and anew {every} while the '
            f"training runs.{after} If that was minutes ago, it has probably been interrupted. "
            f'<label hidden><input type="checkbox" id="refresh" checked> load anew {every}</label></p>'
            '<div class="alarm" id="alarm" hidden><p><b>This page is old.</b> The training has probably been '
            f"interrupted, unless one step or evaluation takes that long.</p>{again}</div>")


def _unfinished(logged: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """What is known of a run without a summary, when nobody says that it trains."""
    last = f"Its last line in the log is of step {logged[-1]['step']:,}. " if logged else ""
    resume = resume_command(config)
    again = f"This command goes on with it:</p>{_command(resume)}" if resume else "</p>"
    return ('<div class="alarm"><p>This run has no summary: it was interrupted, or is still running. '
            f"{last}{again}</div>")


def _results(config: Mapping[str, Any], summary: Mapping[str, Any] | None) -> str:
    """The headlines large, all numbers in a table, each with the number of images that it rests on."""
    if summary is None:
        return ""
    metrics, protocol = summary["metrics"], summary["protocol"]
    chosen = [name for name in metrics if any(fnmatch.fnmatchcase(column_of(name), pattern) for pattern in HEADLINES)]
    tiles = "".join(f"<div><dt>{text(name)}</dt><dd>{text(in_words(name, metrics[name]))}"
                    f"<small>{_of_images(name, protocol)}</small>{_baselines(name, metrics)}</dd></div>"
                    for name in (chosen or list(metrics))[:4])
    rows = [(text(name), text(in_words(name, value)), images_behind(name, protocol))
            for name, value in metrics.items()]
    head = ("metric", "value", "n (images)")

    def numbers(part: Sequence[tuple[str, str, str]]) -> str:
        return table(head, part, numbers=(1, 2), caption="Numbers")

    numbered = numbers(rows)
    if len(rows) > _FEW:
        numbered = details("all-numbers", f"All {len(rows)} numbers", numbered)
    seed = f"This is one run (seed {text(config['seed'])})" if "seed" in config else "This is one run"
    return (f'<dl class="tiles">{tiles}</dl>{numbered}<p class="note">{seed}: it does not say how much another seed '
            "changes a number. Runs of several seeds are averaged in the index of runs, with their deviation.</p>")


def images_behind(metric: str, protocol: Mapping[str, Any]) -> str:
    """The number of images that a metric rests on, in words; "" where the protocol does not say it."""
    data, kind = protocol.get("data", {}), metric.split("/")[0]
    count = data.get("training_images") if kind == "train" else data.get("test_images", protocol.get("test_pictures"))
    known = kind in ("train", "test", *PROBES) or metric.split("/")[1:2] in (["miou"], ["pixel_accuracy"], ["ap50"])
    return f"{count:,}" if isinstance(count, int) and known else ""


def _of_images(metric: str, protocol: Mapping[str, Any]) -> str:
    count = images_behind(metric, protocol)
    return f"n = {count} images" if count else ""


def _baselines(metric: str, metrics: Mapping[str, float]) -> str:
    """What networks that have learnt nothing, or no network at all, reach in a metric's place."""
    kind, name, *rest = [*metric.split("/"), ""]
    if kind in PROBES and not rest[1:]:
        found = {baseline: metrics.get(f"{kind}/{baseline}") for baseline in BASELINES if baseline != name}
    else:
        found = {baseline: metrics.get(f"{baseline}/{name}") for baseline in ("majority", "colour")}
    return "".join(f"<small>{text(baseline)}: {text(in_words(metric, value))}</small>"
                   for baseline, value in found.items() if value is not None)


def _pictures(folder: Path) -> str:
    """The run's pictures, within the page; its curves are drawn above."""
    shown = []
    for path in sorted((folder / "figures").glob("*.png")):
        if path.stem == "curves":
            continue
        title = _PICTURES.get(path.stem, path.stem.replace("_", " "))
        try:
            content = path.read_bytes()
        except OSError:  # deleted just now, or not readable: the page is not worth an error
            continue
        if len(content) > _LARGEST:
            shown.append(f"<p>{text(title)}: figures/{text(path.name)}, {len(content) / 1e6:.0f} MB</p>")
            continue
        shown.append(f'<figure class="picture"><img alt="{text(title)}" '
                     f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
                     f"<figcaption><b>{text(title)}</b> (figures/{text(path.name)})</figcaption></figure>")
    return f'<div class="pictures">{"".join(shown)}</div>' if shown else ""


def _tables(folder: Path) -> str:
    """The run's own tables of classes, labels or columns."""
    found = sorted((folder / "figures").glob("*.txt"))
    return "".join(f'<h3>{text(path.name)}</h3><pre role="region" tabindex="0" aria-label="{text(path.name)}">'
                   f"{lines(read_text(path, names=True))}</pre>" for path in found)


def _made(config: Mapping[str, Any], summary: Mapping[str, Any] | None, progress: Progress | None, folder: Path,
          resume: str | None) -> str:
    """Differences from the preset, protocol, sources, environment, and how to resume."""
    started = config.get(STARTED, {})
    parts = []
    if "changed" in started:
        changed = started["changed"]
        rows = [(text(name), text(plain(before)), text(plain(now))) for name, (before, now) in changed.items()]
        content = "<p>None: every field is the preset's.</p>"
        if rows:
            content = table(("field", "in the preset", "in this run"), rows, caption="Differences from the preset")
        parts.append(details("changed", f"Differences from the preset {started['preset']} ({len(rows)})", content))
    if summary:
        parts.append(details("protocol", "Protocol: what the numbers rest on",
                             _pairs(flat(summary["protocol"]), "Protocol")))
        if summary.get("sources"):
            parts.append(details("sources", "Sources: the weights that it started from or judged", "".join(
                _pairs(source, "Source") for source in summary["sources"])))
    fields = {key: value for key, value in config.items() if key not in ("experiment", STARTED)}
    parts.append(details("fields", f"All {len(fields)} fields", _pairs(fields, "Fields")))
    versions = (summary or {}).get("versions") or started.get("versions", {})
    parts.append(details("environment", "Environment: devices and versions",
                         _pairs({"devices": started.get("devices", "not recorded"), **versions}, "Environment")))
    bad = [line for path in sorted(folder.glob("bad_files*.txt"))
           for line in read_text(path, names=True).splitlines()]
    if bad:
        more = [f"and {len(bad) - _NAMED:,} more"] if len(bad) > _NAMED else []
        named = lines("\n".join(line.replace("\t", ": ") for line in bad[:_NAMED] + more))
        parts.append(details("bad", f"Unreadable files that were left out ({len(bad):,})",
                             f'<pre tabindex="0">{named}</pre>'))
    if resume:
        said = "complete: the command prints its numbers" if summary else "not complete: the command goes on with it"
        parts.append(details("resume", "How to resume or repeat it", f"<p>The run is {said}. With "
                             f"<code>--overwrite</code> it starts anew.</p>{_command(resume)}"))
    return "".join(parts)


def _pairs(content: Mapping[str, Any], caption: str) -> str:
    rows = [(text(key), text(plain(value))) for key, value in content.items()]
    return table(("name", "value"), rows, caption=caption)


def plain(value: Any) -> str:
    """A value of JSON as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    return "none" if value is None else str(value)


def _command(command: str) -> str:
    return f'<pre class="command" tabindex="0">{text(command)}</pre>'


def _time(moment: datetime) -> str:
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'


def _duration(seconds: float) -> str:
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"


def rewrite_report(folder: Path) -> None:
    """Write the page of the run in a folder on this machine again, complete or not.

    Raises:
        ConfigError: if the configuration or the summary cannot be read.
        OSError: if the page cannot be written.
    """
    summary = read_summary(folder) if (folder / SUMMARY).exists() else None
    write_whole(folder / REPORT, page_of(folder, str(folder), read_config(folder), summary), synced=False)
