"""Runs whose folder is at an address: what is carried there and in which order, and that they are the same runs."""

import json
import os
import signal
import threading
import time

import pytest

from cvjax import storage
from cvjax.errors import ConfigError, StorageError
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.log import TIMING
from cvjax.workflow import far_folder
from cvjax.workflow import folder as folders
from cvjax.workflow.config import DataConfig
from cvjax.workflow.far_folder import FarFolder, local_copy
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.restore import load_run

MLP = ("--model", "mlp", "--model-fields", "hidden=(16,)", "--batch-size", 64, "--log-every", 2, "--crop-scale", 1, 1,
       "--schedule", "cosine")
STEPS = (*MLP, "--steps", 9, "--checkpoint-every", 2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(far_folder, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take half of a short run's time."""
    import cvjax.workflow.classification.goal as goal
    import cvjax.workflow.classification.report as report

    monkeypatch.setattr(goal.Classification, "write", lambda *_: None)
    for name in ("_draw_mistakes", "_explain", "_draw_kernels"):
        monkeypatch.setattr(report, name, lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)


@pytest.fixture
def uploads(monkeypatch):
    """The addresses that are written, in order."""
    found = []

    def upload(path, address):
        storage.upload(path, address)
        found.append(address)

    monkeypatch.setattr(far_folder, "upload", upload)
    return found


def write(far: FarFolder, *names: str, text: str = "text") -> None:
    """Files of the copy."""
    for name in names:
        path = far.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def stored(memory) -> dict[str, bytes]:
    return {name.removeprefix("/run/"): memory.cat_file(name) for name in memory.find("/run")}


def test_a_checkpoint_counts_once_its_mark_is_there_and_a_summary_is_last(memory, uploads):
    far = FarFolder("memory://run")
    far.fetch()
    write(far, "summary.json", "checkpoints/2/meta/a", "checkpoints/2/weights", "config.json", "checkpoints/4",
          "log/x", "figures/x", "metrics.partial", "checkpoints/6.orbax-checkpoint-tmp-1/a", "checkpoints/8.removed/a",
          "checkpoints/9.damaged/a")
    far.carry()
    names = [address.removeprefix("memory://run/") for address in uploads]
    assert names[-1] == "summary.json" and names[-2] == "checkpoints/2/carried" and names[0] == "config.json"
    assert set(names[-4:-2]) == {"checkpoints/2/meta/a", "checkpoints/2/weights"}
    assert set(names) == set(stored(memory)) and len(names) == 8
    uploads.clear()
    far.carry()
    assert uploads == []
    write(far, "figures/x", text="another")
    write(far, "checkpoints/5/a")
    far.carry()
    assert [address.removeprefix("memory://run/") for address in uploads] == [
        "figures/x", "checkpoints/5/a", "checkpoints/5/carried"]


def test_what_is_gone_goes_marks_first_and_what_is_half_there_is_not_fetched(memory, monkeypatch):
    far = FarFolder("memory://run/")
    write(far, "config.json", "checkpoints/2/a", "checkpoints/4/a")
    far.carry()
    removed = []
    monkeypatch.setattr(far_folder, "remove", lambda address: (removed.append(address), storage.remove(address)))
    (far.path / "checkpoints" / "2" / "a").unlink()
    far.carry()
    assert removed == ["memory://run/checkpoints/2/carried", "memory://run/checkpoints/2/a"]
    assert set(stored(memory)) == {"config.json", "checkpoints/4/a", "checkpoints/4/carried"}
    memory.pipe_file("/run/checkpoints/6/a", b"half of it")
    assert {p.relative_to(q).as_posix() for q in [local_copy("memory://run")] for p in q.rglob("*") if p.is_file()} == {
        "config.json", "checkpoints/4/a"}
    assert "checkpoints/6/a" in stored(memory)  # a reader leaves it to the run
    again = FarFolder("memory://run")
    again.fetch()
    assert sorted(p.name for p in (again.path / "checkpoints").iterdir()) == ["4"]
    assert "checkpoints/6/a" not in stored(memory)
    removed.clear()
    before, again = stored(memory), FarFolder("memory://run")
    again.fetch(anew=True)
    assert stored(memory) == before and not again.path.exists(), "what is there goes when the new run begins"
    again.start()
    assert removed[0] == "memory://run/checkpoints/4/carried" and removed[-1] == "memory://run/config.json"
    assert stored(memory) == {}
    again.close()


def test_a_checkpoint_that_vanishes_while_it_is_carried_gets_no_mark(memory, monkeypatch):
    far = FarFolder("memory://run")
    write(far, "checkpoints/2/a", "checkpoints/2/b")

    def upload(path, address):
        if path.name == "a":
            (far.path / "checkpoints" / "2" / "b").unlink()
        storage.upload(path, address)

    monkeypatch.setattr(far_folder, "upload", upload)
    far.carry()
    assert set(stored(memory)) == {"checkpoints/2/a"}


def test_a_complete_run_is_fetched_without_its_checkpoints_and_one_with_a_damaged_summary_whole(memory):
    far = FarFolder("memory://run")
    write(far, "config.json", "checkpoints/2/a", "metrics.jsonl")
    write(far, "summary.json", text='{"metrics": {"test/top1": 0.5}}')
    far.carry()
    for summary, complete in (('{"metrics": {"test/top1": 0.5}}', True), ("", False), ('{"metrics": {"te', False)):
        memory.pipe_file("/run/summary.json", summary.encode())
        far = FarFolder("memory://run")
        far.fetch()
        names = {path.relative_to(far.path).as_posix() for path in far.path.rglob("*") if path.is_file()}
        assert names == {"config.json", "summary.json"} | (set() if complete else {"checkpoints/2/a", "metrics.jsonl"})


def test_addresses_that_are_no_place_for_a_run(memory, monkeypatch):
    memory.pipe_file("/run/photos/1.jpg", b"")
    with pytest.raises(ConfigError, match=r"^--run-dir memory://run holds files but no run \(no config.json\)"):
        FarFolder("memory://run").fetch(anew=True)
    assert set(stored(memory)) == {"photos/1.jpg"}
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: exec("raise PermissionError('no rights')"))
    with pytest.raises(ConfigError, match="^--run-dir memory://run: memory://run is forbidden: PermissionError: no"):
        FarFolder("memory://run").fetch()


def test_what_cannot_be_carried_now_is_carried_later_and_said_at_the_end(memory, monkeypatch, capsys):
    monkeypatch.setattr(far_folder, "EVERY", 0.01)
    monkeypatch.setattr(storage, "WAITS", ())
    far = FarFolder("memory://run")
    write(far, "config.json")
    far.start()
    fails = threading.Event()
    put = type(memory).put_file

    def put_file(self, *arguments, **options):
        if fails.is_set():
            raise ConnectionError("reset")
        put(self, *arguments, **options)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    fails.set()
    write(far, "later")
    wait_until(lambda: "not carried to memory://run yet: memory://run/later cannot be r" in capsys.readouterr().err)
    fails.clear()
    wait_until(lambda: "later" in stored(memory))
    fails.set()
    write(far, "last", text="2")
    with pytest.raises(StorageError, match=f"ConnectionError: reset; what is not there yet is in {far.path}$"):
        far.close()
    assert (far.path / "last").read_text() == "2"


def wait_until(holds) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def end_of(read) -> tuple:
    """What a run ended with; read: name -> a file's bytes."""
    summary = json.loads(read("summary.json"))
    lines = [json.loads(line) for line in read("metrics.jsonl").splitlines()]
    return (summary["params_sha256"], summary["metrics"], summary["steps"],
            [{key: value for key, value in line.items() if key not in TIMING} for line in lines])


def stop_after(monkeypatch, step: int) -> None:
    """SIGTERM once the checkpoint of this step is being saved, as a machine that is taken away sends it."""
    save = Checkpointer.save

    def save_and_stop(self, state, *arguments, **options):
        save(self, state, *arguments, **options)
        if int(state.step) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpointer, "save", save_and_stop)


@pytest.mark.slow
def test_a_run_in_memory_is_stopped_resumed_and_ends_as_one_in_a_folder(command, memory, tmp_path, monkeypatch,
                                                                         no_pictures):
    local = command("supervised", "--run-dir", tmp_path / "run", *STEPS)
    assert local.status == 0, local.err
    arguments = ("supervised", "--run-dir", "memory://run", *STEPS)
    with monkeypatch.context() as context:
        stop_after(context, 4)
        stopped = command(*arguments)
    assert stopped.status == 143 and "the same command resumes" in stopped.err
    there = stored(memory)
    assert {"config.json", "metrics.jsonl", "checkpoints/4/carried"} <= there.keys() and "summary.json" not in there
    assert not (tmp_path / "cache" / "runs").is_dir() or not any((tmp_path / "cache" / "runs").iterdir())
    dry = command(*arguments, "--dry-run")
    assert dry.status == 0 and stored(memory) == there
    assert "memory://run holds a run of another configuration (weight_decay" in command(
        *arguments, "--weight-decay", 0.5).complaint
    resumed = command(*arguments)
    assert resumed.status == 0 and "resuming memory://run at step " in resumed.out, resumed.err
    assert "written to memory://run/summary.json" in resumed.out
    assert end_of(lambda name: memory.cat_file(f"/run/{name}")) == end_of(lambda n: (tmp_path / "run" / n).read_bytes())
    assert {name.split("/")[1] for name in stored(memory) if name.startswith("checkpoints/")} == {
        p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    again = command(*arguments)
    assert again.status == 0 and "memory://run is complete" in again.out
    run, here = load_run("memory://run"), load_run(tmp_path / "run")
    assert run.image_size == here.image_size and run.class_names == here.class_names
    judged = command("evaluate", "--checkpoint", "memory://run", "--run-dir", tmp_path / "judged")
    assert judged.status == 0, judged.err
    anew = command(*arguments[:3], *MLP, "--steps", 2, "--overwrite")
    assert anew.status == 0 and json.loads(memory.cat_file("/run/summary.json"))["steps"] == 2
    assert "no checkpoints in it" in command("evaluate", "--checkpoint", "memory://none", "--run-dir",
                                             tmp_path / "other").complaint


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_is_carried_resumes_from_what_is_there(command, memory, monkeypatch, no_pictures):
    """The machine is gone after the configuration, within a checkpoint, after its mark, and before the summary."""
    arguments = ("supervised", "--run-dir", "memory://run", *STEPS)
    monkeypatch.setattr(far_folder, "EVERY", 1e-3)
    assert command(*arguments).status == 0
    ends = {json.loads(memory.cat_file("/run/summary.json"))["params_sha256"]}
    moments = {"/config.json": False, "/meta/metadata": False, "/carried": True, "before the summary": True}
    for moment, resumes in moments.items():
        memory.store.clear()
        gone = threading.Event()

        def upload(path, address, moment=moment, gone=gone):
            if gone.is_set() or moment == "before the summary" and address.endswith("/summary.json"):
                gone.set()
                raise StorageError("the machine is gone")
            storage.upload(path, address)
            if address.endswith(moment):
                gone.set()

        with monkeypatch.context() as context:
            context.setattr(far_folder, "upload", upload)
            assert "the machine is gone" in command(*arguments).complaint
        done = command(*arguments)
        assert done.status == 0 and ("resuming memory://run at step " in done.out) == resumes, (moment, done)
        ends.add(json.loads(memory.cat_file("/run/summary.json"))["params_sha256"])
    assert len(ends) == 1


@pytest.mark.slow
def test_a_run_in_an_object_store(command, bucket, tmp_path, monkeypatch, no_pictures):
    assert command("supervised", "--run-dir", tmp_path / "run", *STEPS).status == 0
    arguments = ("supervised", "--run-dir", "s3://photos/runs/one", *STEPS)
    with monkeypatch.context() as context:
        stop_after(context, 4)
        assert "the same command resumes" in command(*arguments).err
    resumed = command(*arguments)
    assert resumed.status == 0 and "resuming s3://photos/runs/one at step " in resumed.out, resumed.err
    assert end_of(lambda name: bucket.cat_file(f"photos/runs/one/{name}")) == end_of(
        lambda name: (tmp_path / "run" / name).read_bytes())
    judged = command("evaluate", "--checkpoint", "s3://photos/runs/one", "--run-dir", "s3://photos/judged")
    assert judged.status == 0 and bucket.exists("photos/judged/summary.json"), judged.err
    assert "s3://nowhere/run/config.json cannot be written: there is no such bucket" in command(
        "supervised", "--run-dir", "s3://nowhere/run", *STEPS).complaint


def test_a_run_in_several_processes_is_refused_before_it_begins(memory, monkeypatch):
    monkeypatch.setattr(folders.jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="^--run-dir memory://run: a run in 2 processes needs a folder that all"):
        RunFolder(DataConfig(run_dir="memory://run"), "supervised", "digits")
    assert stored(memory) == {}
