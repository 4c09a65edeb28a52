"""The page of a run and the page of all runs: what they say, that they load nothing, and that no name is markup."""

import errno
import json
import os
import re
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cvjax.train.observers import Observer, StepRead
from cvjax.workflow import folder as folder_module
from cvjax.workflow.next_commands import next_commands, resume_command
from cvjax.workflow.report import live, page
from cvjax.workflow.report.live import LivePage
from cvjax.workflow.report.plot import plot
from tests.experiments.test_hostile_names import STEERS
from tests.experiments.written_pages import HOSTILE, METRICS, PROTOCOL, STARTED, write_finished, write_live

EMPTY = {"meta", "br", "wbr", "img", "input", "link", "hr"}
ADDRESSES = {"src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction"}


class Read(HTMLParser):
    """A page's elements and text; fails where an element is not closed as it was opened."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open, self.elements, self.said = [], [], []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def read(path: Path) -> Read:
    """A page, after the checks that hold for all."""
    content = path.read_text(encoding="utf-8")
    found = Read(content)
    assert not STEERS.search(content.replace("\n", " ")), "nothing steers the direction of writing"
    assert content.count("<script") <= 1, "no name is markup"
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ADDRESSES & attributes.keys():
            assert re.match(r"#|data:image/png;base64,|\./", attributes[name]), (tag, attributes[name][:80])
            assert not attributes[name].startswith("#") or attributes[name][1:] in ids
        assert tag != "svg" or "aria-hidden" in attributes or attributes["role"] == "img"
        assert tag != "img" or attributes["alt"]
    assert not re.search(r"@import|url\(|<link|<iframe|<object", content)
    return found


def test_a_complete_run_has_its_numbers_pictures_and_commands(tmp_path):
    found = read(write_finished(tmp_path / "run") / "report.html")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"] == METRICS
    for said in ("complete", "test/loss 1.25 360", "test/top1 81.25 % 360", "test/top5 100.00 % 360",
                 "1,437 training images, 360 test images, 3 classes", r"<script>document.title=", r"\u202e",
                 "Differences from the preset digits (2)", "batch_size 256 8", "chosen_by last step", "99.00 %",
                 f"evaluate --checkpoint {tmp_path}/run", "step 10", "5 points"):
        assert said in found.text, said
    pictures = [attributes for tag, attributes in found.elements if tag == "img"]
    assert len(pictures) == 2 and all(each["src"].startswith("data:image/png;base64,") for each in pictures)
    assert summary["versions"]["jax"] in found.text and "devices 1 x cpu" in found.text
    assert "refresh" not in {attributes.get("http-equiv") for _, attributes in found.elements}
    circles = sum(tag == "circle" for tag, _ in found.elements)
    assert circles == 5 * 4, "curves of a short run show their points: loss, top1, learning rate, a class"


def test_the_page_is_on_the_disk_before_the_summary_and_the_same_when_written_again(tmp_path, command, monkeypatch):
    order = []
    monkeypatch.setattr(folder_module, "sync_tree", lambda path: order.append((path / "report.html").exists()))
    run = write_finished(tmp_path / "run")
    assert order == [True]

    def timeless() -> str:
        return re.sub(r"\d+-\d\d-\d\d[T ]\d\d:\d\d:\d\d( UTC|Z)", "", (run / "report.html").read_text())

    before = timeless()
    (run / "report.html").unlink()
    done = command("report", run)
    assert done.status == 0 and f"written to {run}/report.html" in done.out and timeless() == before


def test_a_live_page_says_so_and_a_stopped_one_does_not_claim_to_train(tmp_path):
    found = read(write_live(tmp_path / "live") / "report.html")
    assert "training at 20" in found.text and "Step 50 of 200 (25 %)" in found.text
    assert "take 75 seconds more" in found.text and ("noscript", {}) in found.elements
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in found.elements
    assert "python -m experiments.supervised --data $'<script>" in found.text and "--run-dir 'a b'" in found.text
    found = read(write_live(tmp_path / "stopped", stopped="saved at step 50 of 200") / "report.html")
    assert "stopped" in found.text and "ended early: saved at step 50" in found.text and "training at" not in found.text
    assert "refresh" not in {attributes.get("http-equiv") for _, attributes in found.elements}


@pytest.mark.parametrize("when", ["finished", "live"])
def test_a_page_that_cannot_be_written_loses_no_run(tmp_path, monkeypatch, capsys, when):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(page, "write_whole", full)
    if when == "finished":
        write_finished(tmp_path / "run")
        assert (tmp_path / "run" / "summary.json").exists()
        assert f"{tmp_path}/run/report.html is not written: No space left on device" in capsys.readouterr().out
        return
    monkeypatch.setattr(live, "EVERY", 0.0)
    log = FakeLog()
    observer = LivePage(FakeFolder(tmp_path), log, total_steps=9, facts={})
    for number in (1, 2):
        observer.on_step(StepRead(number, {}, 0.0, None))
    assert len(log.notes) == 1 and "No space left on device" in log.notes[0], "told once"


class FakeLog:
    def __init__(self):
        self.notes = []
        self.note = self.notes.append

    def paused(self):
        return self

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


class FakeFolder:
    config = {"experiment": "supervised", "started": STARTED}

    def __init__(self, path):
        self.path, self.place = path, str(path)


def test_a_page_takes_a_hundredth_of_the_time_at_most_and_changes_nothing(tmp_path, monkeypatch):
    clock, written = [100.0], []

    def slow(*arguments):
        written.append(arguments[-1].step)
        clock[0] += 0.2 if arguments[-1].step < 30 else 0.01

    monkeypatch.setattr(live, "write_report", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    observer = LivePage(FakeFolder(tmp_path), FakeLog(), total_steps=60, facts={})
    for number in range(1, 61):
        clock[0] += 1.0
        observer.on_step(StepRead(number, {}, 0.0, None))
    observer.on_end()
    assert written == [0, 21, 42, 47, 52, 57, 60], "every 20 seconds while it takes 0.2, then every 5"
    assert observer.state() is None and observer.name == "" and not observer.ended
    for method in ("reads_at", "pauses_at", "on_pause", "restore"):
        assert getattr(LivePage, method) is getattr(Observer, method)
    LivePage(FakeFolder(tmp_path), FakeLog(), total_steps=60, facts={}, writes=False).on_end()
    assert len(written) == 7


@pytest.mark.slow
def test_a_training_that_fails_says_why_on_its_page(command, tmp_path, monkeypatch):
    from cvjax.errors import DataError
    from cvjax.train.log import RunLog

    write = RunLog.write

    def write_and_fail(self, step, values):
        write(self, step, values)
        raise DataError("the second batch cannot be read")

    monkeypatch.setattr(RunLog, "write", write_and_fail)
    done = command("supervised", "--model", "mlp", "--model-fields", "hidden=(8,)", "--steps", 2, "--log-every", 1,
                   "--schedule", "cosine", "--run-dir", tmp_path / "run")
    assert "the second batch" in done.complaint
    found = read(tmp_path / "run" / "report.html")
    assert "ended early: the second batch cannot be read" in found.text and "Step 0 of 2" in found.text
    assert f"python -m experiments.supervised --model mlp --model-fields 'hidden=(8,)' --steps 2 --log-every 1 "\
        f"--schedule cosine --run-dir {tmp_path}/run" in found.text


def test_the_index_has_a_table_for_each_protocol_and_a_row_for_each_configuration(command, tmp_path):
    from tests.experiments.test_compare import write

    runs = tmp_path / "runs"
    for seed, value in enumerate((0.2, 0.4)):
        write(runs / f"knn/a{seed}", {"knn/dino": value}, seed=seed)
    write(runs / "knn/b", {"knn/dino": 0.9}, config={"batch_size": 3})
    write(runs / "knn/other protocol", {"knn/dino": 0.7}, k=20)
    write(runs / "knn/no headline", {"loss": 0.7})
    write_live(runs / "supervised" / "<i>")
    write_finished(runs / "supervised" / "done")
    write(runs / "supervised" / "done" / "fold-0", {"knn/dino": 0.1})
    (runs / "knn/b/summary.json.damaged").write_text("")
    done = command("report", runs)
    assert done.status == 0 and f"written to {runs}/index.html" in done.out
    assert "in no table: supervised/<i> is unfinished (no summary.json)" in done.out
    found = read(runs / "index.html")
    assert "7 runs, 5 of them in 3 tables" in found.text
    # The mean of 20 and 40 %; their deviation by the divisor 1.
    assert "knn/ a… (2 seeds) seed 0 seed 1" in found.text and "30.00 % ± 14.14 % 2 seeds" in found.text
    keys = [each["data-value"] for tag, each in found.elements if tag == "th" and "data-value" in each]
    assert keys == ["knn/b", "knn/a… (2 seeds)", "knn/other protocol", "supervised/done"], "the best first"
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a" and attributes["href"][0] == "."]
    assert "./knn/other%20protocol/report.html" in links and all((runs / "knn/a0/report.html").exists() for _ in links)
    assert "has none of the numbers" in found.text and "its log ends at step 50" in found.text
    assert "n = 360 images" in found.text and "knn/k 20" in found.text and "<i>" in found.text


def test_a_folder_without_runs_and_a_damaged_run_are_one_line(command, tmp_path):
    assert command("report", tmp_path / "none").complaint.endswith("give a run's folder, or one with runs")
    assert "holds no run" in command("report", tmp_path).complaint
    (write_finished(tmp_path / "run") / "summary.json").write_text("{")
    assert "summary.json is cut off or not JSON" in command("report", tmp_path / "run").complaint
    done = command("report", tmp_path)
    assert done.status == 0 and "in no table: run" in done.out and "is cut off" in done.out


@pytest.mark.parametrize("experiment, config, expected", [
    ("supervised", {}, ["predict PHOTOS --checkpoint runs/x/y --output DIR", "evaluate --checkpoint runs/x/y"]),
    ("supervised", {"folds": 2, "fold": None}, [
        "predict PHOTOS --checkpoint runs/x/y/fold-0 runs/x/y/fold-1 --output DIR",
        "evaluate --checkpoint runs/x/y/fold-0 runs/x/y/fold-1"]),
    ("segment", {}, ["predict PHOTOS --checkpoint runs/x/y --output DIR"]),
    ("mae_pretrain", {}, ["knn --checkpoint runs/x/y", "linear_probe --checkpoint runs/x/y",
                          "finetune --checkpoint runs/x/y"]),
    ("dino_pretrain", {}, ["knn --checkpoint runs/x/y", "linear_probe --checkpoint runs/x/y"]), ("knn", {}, [])])
def test_next_commands(experiment, config, expected):
    commands = [command for command, _ in next_commands(experiment, config, "runs/x/y")]
    assert commands == [f"python -m experiments.{line}" for line in [*expected, "report runs"]]
    assert not any("report" in command for command, _ in next_commands(experiment, config, "s3://bucket/run"))


def test_a_command_is_what_a_shell_gives_back_and_steers_nothing():
    """bash reads bytes in $'': a letter such as U+009B has two of them."""
    data = "folder:\x1b[2J\u202eit's\\n\n\udce9 x\x9b\xad1"
    command = resume_command({"started": {"arguments": ["experiments.supervised", "--data", data]}})
    assert not STEERS.search(command)
    said = subprocess.run(["bash", "-c", f"printf %s {command.rpartition('--data ')[2]}"], capture_output=True,
                          env=os.environ | {"LC_ALL": "C.UTF-8"}).stdout
    assert said == data.encode("utf-8", "surrogateescape")


def test_a_plot_shows_one_point_thins_many_and_says_what_is_left_out():
    one = plot("p", "top1", {"test": {10: 0.5}}, 0)
    assert "<circle" in one and "50.00 % at step 10" in one and ">50 %<" in one
    many = plot("p", "loss", {"train": {step: 1 + (step == 777) for step in range(10_000)}}, 3)
    points = re.search(r'points="([^"]*)"', many)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert 200 < len(points) <= 402 and heights.count(min(heights)) == 1, "the one peak is there"
    assert "3 values that are not finite are left out" in many and "<circle" not in many and "10000 points" in many
    assert HOSTILE not in plot("p", HOSTILE, {HOSTILE: {1: 2.0}}, 0)
    assert "log scale" in plot("p", "loss", {"train": {1: 100.0, 2: 1.0}}, 0)
    Read(many)


def test_the_protocol_names_what_the_numbers_rest_on(tmp_path):
    run = write_finished(tmp_path / "run", {"knn/dino": 0.5, "knn/random": 0.25, "validation/top1": 0.5, "law/a": 2.0},
                         experiment="dino_pretrain", protocol=PROTOCOL | {"knn": {"k": 20}})
    text = read(run / "report.html").text
    assert "knn/dino 50.00 % n = 360 images random: 25.00 %" in text, "beside what an untrained network reaches"
    assert "knn/k 20" in text and "data/fingerprint ab" in text
    assert "validation/top1 50.00 % law/a 2" in text, "no number of images where it is not known"
