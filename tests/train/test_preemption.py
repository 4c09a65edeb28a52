"""Signals: at once outside the loop, after the step inside it, never with a traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cvjax.train.preemption import StopRequest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stop():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield StopRequest("; go on").install()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_outside_the_loop_a_signal_ends_the_process(stop, number, status, capfd):
    with stop.closing(), pytest.raises(SystemExit) as exit:
        signal.raise_signal(number)
    assert exit.value.code == status
    assert f"{number.name} received: stopped; go on" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_inside_the_loop_a_signal_waits_for_the_step(stop, number, capfd):
    with stop.closing(), stop.deferred():
        signal.raise_signal(number)
        assert stop.requested
    assert "saving after this step" in capfd.readouterr().err
    assert stop.leave() == 128 + number, "it was met"


def test_after_the_loop_a_signal_ends_the_process_again(stop):
    with stop.closing():
        with stop.deferred():
            pass
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    assert not stop.requested


def ended(code: str) -> tuple[int, str, str]:
    """Status, output and errors of a process in which `stop` is installed and `send()` is a SIGTERM to itself."""
    start = ("import os, signal, sys\nfrom cvjax.train.preemption import StopRequest\n"
             "stop = StopRequest().install()\ndef send(): signal.raise_signal(signal.SIGTERM)\n")
    done = subprocess.run([sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


SAID = "\nSIGTERM received: stopped\n"


def test_a_second_signal_does_not_wait():
    """Nor does it pass through what is open, which may be a save."""
    code = "try:\n  with stop.closing(), stop.deferred(): send(); send()\nfinally: print('closed')"
    assert ended(code) == (143, "", "\nSIGTERM received: saving after this step (once more to quit without)\n" + SAID)


@pytest.mark.parametrize("code", [
    "try: send()\nexcept BaseException: print('raised')",  # nothing is open: a library could swallow an exception
    "with stop.closing():\n  try: send()\n  finally: [send() for _ in range(4)]",  # while all is being closed
    "import atexit; atexit.register(send)\nwith stop.closing(): send()",  # while Python itself ends
    # while an object ends, from where Python passes nothing on
    "class Ends:\n  def __del__(self): send()\nwith stop.closing():\n  Ends(); print('went on')",
    "class A:\n  def __del__(self): send()\nA()",  # in a method whose exceptions Python prints
])
def test_signals_in_a_row_end_quietly(code):
    assert ended(code) == (143, "", SAID)


def test_what_was_printed_before_is_not_lost():
    assert ended("print('before', end=' ')\nsend()") == (143, "before ", SAID)


def test_a_process_that_is_leaving_keeps_its_status():
    assert ended("stop.leave(0)\nsend()") == (0, "", ""), "the run was complete"
    assert ended("stop.leave(2)\nsend()") == (2, "", "")
