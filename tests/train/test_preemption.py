"""Signals: at once outside the loop, after the step inside it."""

import signal

import pytest

from cvjax.train.preemption import StopRequest


@pytest.fixture
def stop():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield StopRequest().install()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_outside_the_loop_a_signal_ends_the_process(stop, number, status, capsys):
    with pytest.raises(SystemExit) as exit:
        signal.raise_signal(number)
    assert exit.value.code == status
    assert f"{number.name} received: stopped; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_inside_the_loop_a_signal_waits_for_the_step(stop, number, capsys):
    with stop.deferred():
        signal.raise_signal(number)
        assert stop.requested
    assert "saving after this step" in capsys.readouterr().err


def test_a_second_signal_does_not_wait(stop):
    with stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit) as exit:
            signal.raise_signal(signal.SIGTERM)
    assert exit.value.code == 128 + signal.SIGTERM, "nothing was saved"


def test_after_the_loop_a_signal_ends_the_process_again(stop):
    with stop.deferred():
        pass
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    assert not stop.requested
