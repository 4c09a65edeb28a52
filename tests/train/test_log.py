"""metrics.jsonl and TensorBoard: window averages, and lines that do not show that a run was interrupted."""

import io
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2

from cvjax.train.log import TIMING, RunLog, read_metrics

ROOT, EVERY = Path(__file__).parents[2], 4


def open_log(folder, start=0, resumed=None, total=12):
    log = RunLog(folder, every=EVERY, total_steps=total, batch_size=10, steps_per_epoch=2.5, start_step=start)
    if resumed:
        log.restore(resumed)
    return log


def write_steps(log, first, last):
    for step in range(first, last + 1):
        log.step(step, {"loss": (0.1 * step * 10, 10.0), "top1": (float(step % 3), 10.0)}, 1 / step, waited=0.0)
        if step == 6:
            log.write(step, {"test/loss": 0.1 + 0.2})


def comparable(folder) -> list[str]:
    """The lines as text, without the keys that hold times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({key: value for key, value in line.items() if key not in TIMING}) for line in lines]


@pytest.fixture
def uninterrupted(tmp_path):
    folder = tmp_path / "uninterrupted"
    folder.mkdir()
    log = open_log(folder)
    write_steps(log, 1, 12)
    log.close()
    return comparable(folder)


def test_a_window_is_the_mean_over_its_examples(tmp_path):
    log = open_log(tmp_path)
    log.step(1, {"loss": (2.0, 1.0)}, 0.5, 0.0)
    log.step(2, {"loss": (0.0, 3.0)}, 0.4, 0.0)  # three examples: their mean weighs three times
    log.step(3, {"loss": (4.0, 2.0)}, 0.3, 0.0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    log.step(4, {"loss": (6.0, 2.0)}, 0.2, 0.0)
    log.step(5, {"loss": (100.0, 1.0)}, 0.1, 0.0)
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (line["step"], line["epoch"]) == (4, 1.6)
    assert line["train/loss"] == 12 / 8 and line["train/learning_rate"] == 0.2
    for step in (6, 7, 8):
        log.step(step, {"loss": (0.0, 1.0)}, 0.0, 0.0)
    assert read_metrics(tmp_path / "metrics.jsonl")[1]["train/loss"] == 100 / 4, "a window starts empty"
    log.close()


def test_speed_and_input_wait_of_a_window(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("cvjax.train.log.time.perf_counter", lambda: now)
    log = open_log(tmp_path)
    for step in range(1, 5):
        now += 2.0
        if step == 2:
            with log.paused():  # an evaluation
                now += 30.0
        log.step(step, {"loss": (1.0, 1.0)}, 0.1, waited=0.5)
    log.close()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert line["images_per_second"] == 4 * 10 / 8 and line["input_wait"] == 0.25
    assert line["seconds"] == 38.0


@pytest.mark.parametrize("stopped", [4, 5, 6, 7, 11, 12])
def test_a_resumed_log_writes_the_lines_of_an_uninterrupted_one(tmp_path, uninterrupted, stopped):
    log = open_log(tmp_path)
    write_steps(log, 1, stopped)
    state = json.loads(json.dumps(log.state()))
    write_steps(log, stopped + 1, min(stopped + 5, 12))  # the run goes on after the checkpoint, then is killed
    log.close()
    log = open_log(tmp_path, stopped, state)
    write_steps(log, stopped + 1, 12)
    log.close()
    assert comparable(tmp_path) == uninterrupted


@pytest.mark.parametrize("tail", ['{"step": 8, "epo', '{"step": 8', "{", "\n", "\x00\x00\x00"])
def test_a_half_written_last_line_is_survived(tmp_path, uninterrupted, tail):
    log = open_log(tmp_path)
    write_steps(log, 1, 6)
    state = log.state()
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    log = open_log(tmp_path, 6, state)
    write_steps(log, 7, 12)
    log.close()
    assert comparable(tmp_path) == uninterrupted


def test_kept_lines_are_the_same_bytes(tmp_path):
    log = open_log(tmp_path)
    write_steps(log, 1, 8)
    log.write(8, {"test/loss": math.nan})
    log.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    open_log(tmp_path, 8, {}).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_killed_while_lines_are_cut_keeps_them(tmp_path, monkeypatch):
    """The file is replaced as a whole: there is no moment at which its lines are on disk nowhere."""
    log = open_log(tmp_path)
    write_steps(log, 1, 8)
    log.close()
    path = tmp_path / "metrics.jsonl"
    before = path.read_text()

    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr("cvjax.durable.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        open_log(tmp_path, 8, {})
    monkeypatch.undo()
    assert path.read_text() == before


DAMAGED = {  # what is done to the lines of steps 4, 6, 8 and 12, and what a resume at step 8 says of it
    "cut at the end": (lambda lines: [*lines[:3], lines[3][:17]],
                       "1 line of 17 bytes after step 8 dropped: lines after step 8 are written anew"),
    "garbage in the middle": (lambda lines: [lines[0], b"\xff\0garbage", *lines[2:]],
                              "1 line of 9 bytes after step 4 dropped: lines up to step 8 may be missing"),
    "two joined": (lambda lines: [lines[0][:20] + lines[1], *lines[2:]],
                   "1 line of {joined} bytes after step 0 dropped: lines up to step 8 may be missing"),
    "other JSON": (lambda lines: [lines[0], b"[4]", *lines[1:3], b'{"loss": 1}', b'{"step": 8, "loss": "1"}'],
                   "3 lines of 38 bytes after step 4, 8 dropped: lines up to step 8 may be missing"),
    "zeros": (lambda lines: [bytes(30)], "1 line of 30 bytes after step 0 dropped: lines up to step 8 may be missing"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_repaired_and_said_and_good_lines_stay(tmp_path, capsys, kind):
    damage, said = DAMAGED[kind]
    log = open_log(tmp_path)
    write_steps(log, 1, 12)
    log.close()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 6, 8, 12]
    damaged = damage(lines)
    path.write_bytes(b"\n".join(damaged))
    capsys.readouterr()
    open_log(tmp_path, 8, {}).close()
    said = said.format(joined=len(damaged[0]))
    assert capsys.readouterr().out.splitlines() == [f"metrics.jsonl was damaged, {said}"]
    good = [line for line in lines[:3] if line in damaged]
    assert path.read_bytes() == b"".join(line + b"\n" for line in good)
    open_log(tmp_path, 8, {}).close()
    assert not [line for line in capsys.readouterr().out.splitlines() if "damaged" in line], "said once"


def test_lines_after_the_checkpoint_are_dropped_without_a_word_and_lost_lines_are_not(tmp_path, capsys):
    log = open_log(tmp_path)
    write_steps(log, 1, 12)
    log.close()
    open_log(tmp_path, 6, {}).close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [4, 6]
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    open_log(tmp_path, 3, {}).close()  # no line is due before step 4
    assert capsys.readouterr().out == ""
    open_log(tmp_path, 6, {}).close()
    assert capsys.readouterr().out == "metrics.jsonl is empty: lines up to step 6 are missing\n"


def test_seconds_go_on_after_a_resume(tmp_path):
    log = open_log(tmp_path, 4, {"window": {}, "seconds": 1000.0})
    assert 1000 <= log.seconds < 1100
    log.close()


def events(folder):
    """Scalars `{(tag, step): value}` of all event files, checksums verified."""
    def masked(data):
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length, length_crc), body = struct.unpack("<QI", data[:12]), data[12:]
            assert length_crc == masked(data[:8])
            event, (crc,) = body[:length], struct.unpack("<I", body[length:length + 4])
            assert crc == masked(event)
            message = event_pb2.Event.FromString(event)
            for value in message.summary.value:
                found[value.tag, message.step] = value.simple_value
            data = body[length + 4:]
    return found


def test_tensorboard_files_can_be_read(tmp_path):
    log = open_log(tmp_path)
    write_steps(log, 1, 8)
    log.write(8, {"test/loss": math.inf})
    log.close()
    found = events(tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    # Stored as float32: 2**-24 relative.
    assert found["train/loss", 4] == pytest.approx(lines[0]["train/loss"], rel=1e-7)
    assert found["test/loss", 6] == pytest.approx(0.3, rel=1e-7)
    assert {step for tag, step in found if tag == "train/loss"} == {4, 8}
    assert ("test/loss", 8) not in found, "not finite: nothing to draw"


def test_reading_a_log_that_is_not_there(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_torch_is_not_loaded_for_events(tmp_path):
    """It takes a second of every start where it is installed."""
    (tmp_path / "torch.py").write_text("raise AssertionError('loaded')")
    code = "import sys; import cvjax.train.log; assert 'torch' not in sys.modules; import torch"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 1 and done.stderr.endswith("AssertionError: loaded\n"), "by the last import alone"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def steps_shown(folder, monkeypatch, screen):
    """What a screen shows of two windows of a training that waits for its step first."""
    monkeypatch.setattr(sys, "stderr", screen)
    log = RunLog(folder, every=500, total_steps=123_456, batch_size=64, steps_per_epoch=22.45)
    log.show("compiling the step: 12 s")
    log.clear()
    log.restart_clock()
    for step in range(1, 1001):
        log.step(step, {"loss": (0.25, 1)}, 3.3e-3, 0.0)
    log._bar.refresh()
    log.close()
    return screen.getvalue()


def test_a_terminal_of_80_columns_shows_what_counts(tmp_path, monkeypatch):
    shown = steps_shown(tmp_path, monkeypatch, Terminal()).split("\r")
    assert "compiling the step: 12 s" in [text.strip() for text in shown]
    last = next(text for text in reversed(shown) if "loss" in text)
    seen = last[:80]  # tqdm cuts what a terminal has no room for
    assert "1000/123456" in seen and "loss 0.2500, " in seen and " images/s" in seen


def test_elsewhere_the_bar_is_whole_lines(tmp_path, monkeypatch):
    shown = steps_shown(tmp_path, monkeypatch, io.StringIO())
    assert "\r" not in shown and all(shown.splitlines())
    assert "loss 0.2500, " in shown.splitlines()[-1] and "lr 3.3e-03" in shown.splitlines()[-1]
