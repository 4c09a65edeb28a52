"""The launchers that are recognised, the messages when processes do not come together, and the process that prints."""

import signal
import socket
import subprocess
import sys

import pytest

from cvjax.errors import ProcessError
from cvjax.train.preemption import StopRequest
from cvjax.train.processes import join, launcher


@pytest.mark.parametrize("environment, name", [
    ({}, None),
    ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_JOB_ID": "1"}, "Slurm"),
    ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
    ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, None),  # a shell in an allocation: srun has started nothing
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "Open MPI"),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # any pod
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, "Kubernetes"),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU pod"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "localhost"}, "TPU pod")])
def test_launchers_are_recognised_by_what_they_tell_their_processes(environment, name):
    assert launcher(environment) == name


@pytest.mark.parametrize("place, complaint", [
    (dict(coordinator_address="here:1"), "coordinator_address, num_processes and process_id go together"),
    (dict(num_processes=2, process_id=0), "got None, 2 and 0"),
    (dict(coordinator_address="here", num_processes=2, process_id=0), "here: it must be HOST:PORT"),
    (dict(coordinator_address="here:x", num_processes=2, process_id=0), "it must be HOST:PORT"),
    (dict(coordinator_address="here:1", num_processes=2, process_id=2), "process_id 2: it must be from 0 to 1")])
def test_an_impossible_place_is_refused_in_one_line(place, complaint):
    with pytest.raises(ProcessError) as error:
        join(**place)
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_one_of_one_joins_nobody():
    join("localhost:1", 1, 0)


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("process_id", [0, 1])
def test_a_peer_that_never_comes_ends_the_wait_with_one_line(process_id, environment):
    code = f"from cvjax.train.processes import join; join('localhost:{free_port()}', 2, {process_id}, timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error:")] == lines[-1:]
    assert "not all came within 1 s" in lines[-1] and "Traceback" not in done.stderr


def test_the_only_process_stops_after_the_step_in_which_it_was_asked_to():
    stop = StopRequest()
    assert not stop.after(1)
    with stop.deferred():
        stop._handle(signal.SIGTERM, None)
        assert stop.after(2) and stop.after(3)


def test_what_ends_a_process_is_no_exception(environment):
    """A thread of the process waits for a lost peer in a call that nothing interrupts."""
    code = ("import threading, time; from cvjax.train import processes\n"
            "threading.Thread(target=time.sleep, args=(60,)).start()\n"
            "processes._end('process 1 of 2 is lost')")
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "\nerror: process 1 of 2 is lost\n")


@pytest.mark.parametrize("started, complaint", [
    ("Kubernetes", r"pip install jax\[k8s\]; or give coordinator_address"),
    ("Slurm", "started several processes, but jax cannot find them; or give coordinator_address"), ("TPU pod", None)])
def test_nobody_goes_on_alone_among_several(monkeypatch, capsys, started, complaint):
    def refuse(*arguments, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("cvjax.train.processes.launcher", lambda: started)
    monkeypatch.setattr("jax.distributed.initialize", refuse)
    if complaint is None:  # a single Cloud TPU machine
        join()
        assert "going on with this one" in capsys.readouterr().err
    else:
        with pytest.raises(ProcessError, match=complaint):
            join()


def test_the_only_process_of_a_tpu_keeps_its_answer_to_sigterm(monkeypatch):
    def initialize(*arguments, **options):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as jax's preemption manager takes it over

    monkeypatch.setattr("cvjax.train.processes.launcher", lambda: "TPU pod")
    monkeypatch.setattr("jax.distributed.initialize", initialize)
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop = StopRequest().install()
        join()
        assert signal.getsignal(signal.SIGTERM) == stop._handle
    finally:
        signal.signal(signal.SIGTERM, before)
