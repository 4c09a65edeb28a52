"""A result says which weights it judged or started from, and is out of date once those have changed."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from cvjax.errors import ConfigError
from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.train.checkpoint import Checkpointer, describe
from cvjax.workflow.config import DataConfig, TrainingConfig
from cvjax.workflow.far_folder import FarFolder
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.origin import RunOrigin, changes_of, find_checkpoint, from_json, origin_of_run, sources_json
from cvjax.workflow.restore import load_run
from tests.experiments.written_runs import write_run

TINY = ("--width", 16, "--depth", 1, "--heads", 2, "--decoder-width", 16, "--decoder-depth", 1, "--decoder-heads", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey pictures of two classes, with and without their labels."""
    folder, numbers = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 48), ("test", 16)):
        labels = np.arange(count) % 2
        images = numbers.integers(0, 100, (count, 8, 8)) + 100 * labels[:, None, None]
        arrays |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels}
    np.savez(folder / "labelled.npz", **arrays)
    np.savez(folder / "unlabelled.npz", train_images=arrays["train_images"])
    return folder


@pytest.fixture(scope="module")
def states(tmp_path_factory, process, data):
    """A pre-training of four steps: stopped after two of them, and complete."""
    folder = tmp_path_factory.mktemp("states")
    done = process("mae_pretrain", "--data", f"npz:{data}/unlabelled.npz", "--batch-size", 16, "--steps", 4,
                   "--checkpoint-every", 2, "--run-dir", folder / "complete", *TINY)
    assert done.status == 0, done.err
    shutil.copytree(folder / "complete", folder / "half")
    shutil.rmtree(folder / "half" / "checkpoints" / "4")
    (folder / "half" / "summary.json").unlink()
    return folder


@pytest.fixture
def source(states, tmp_path):
    """`source("half")`: the run in this state, always at one place."""
    def put(state: str):
        shutil.rmtree(tmp_path / "source", ignore_errors=True)
        shutil.copytree(states / state, tmp_path / "source")
        return tmp_path / "source"

    return put


def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_a_run_judged_while_it_trains_is_judged_anew_when_it_is_complete(command, source, data, tmp_path):
    run = source("half")

    def knn(name: str):
        return command("knn", "--checkpoint", run, "--data", f"npz:{data}/labelled.npz", "--batch-size", 16,
                       "--run-dir", tmp_path / name)

    first = knn("knn")
    assert first.status == 0 and f"{run} is unfinished: step 2 of 4\n" in first.err
    (facts,) = summary(tmp_path / "knn")["sources"]
    assert (facts["run"], facts["step"], facts["total_steps"]) == (str(run), 2, 4)
    again = knn("knn")
    assert f"{tmp_path}/knn is complete" in again.out, "nothing has changed"
    source("complete")
    anew = knn("knn")
    assert anew.status == 0 and "unfinished" not in anew.err
    assert f"{tmp_path}/knn is out of date and judged anew: {run} at step 2 of 4 then, {run} at step 4 of 4 now\n" in (
        anew.out)
    fresh = knn("fresh")
    assert fresh.status == 0 and summary(tmp_path / "knn")["metrics"] == summary(tmp_path / "fresh")["metrics"]
    assert summary(tmp_path / "knn")["sources"] == summary(tmp_path / "fresh")["sources"] != [facts]
    assert f"{tmp_path}/knn is complete" in knn("knn").out
    shutil.rmtree(run)
    gone = knn("knn")
    assert gone.status == 0 and "is not there any more" in gone.out and "is complete" in gone.out


def finetune(command, run, data, folder, *options):
    return command("finetune", "--checkpoint", run, "--data", f"npz:{data}/labelled.npz", "--batch-size", 16, "--steps",
                   3, "--checkpoint-every", 1, "--run-dir", folder, *options)


@pytest.mark.slow
def test_a_training_from_another_state_is_refused_not_repeated(command, source, data, tmp_path):
    run = source("half")
    first = finetune(command, run, data, tmp_path / "tuned")
    assert first.status == 0 and f"{run} is unfinished: step 2 of 4" in first.err, first.err
    assert "is complete" in finetune(command, run, data, tmp_path / "tuned").out
    before = (tmp_path / "tuned" / "summary.json").read_bytes()
    source("complete")
    complaint = finetune(command, run, data, tmp_path / "tuned").complaint
    assert complaint == (
        f"error: {tmp_path}/tuned is complete, but what it started from has changed: {run} at step 2 of 4 then, {run} "
        "at step 4 of 4 now; --overwrite trains anew, another --run-dir trains beside it")
    assert (tmp_path / "tuned" / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_an_interrupted_training_goes_on_from_what_it_started_from(command, source, data, tmp_path, monkeypatch):
    """The source goes on in between; the run ends as one that was not interrupted, and says what it started from."""
    run, save = source("half"), Checkpointer.save
    assert finetune(command, run, data, tmp_path / "alone").status == 0

    def save_and_stop(self, state, *arguments, **options):
        save(self, state, *arguments, **options)
        if int(state.step) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as context:
        context.setattr(Checkpointer, "save", save_and_stop)
        assert finetune(command, run, data, tmp_path / "tuned").status == 143
    source("complete")
    done = finetune(command, run, data, tmp_path / "tuned")
    assert done.status == 0, done.err
    assert (f"it started from {run} at step 2 of 4, now {run} at step 4 of 4, and goes on from what its checkpoint "
            "holds" in done.out)
    ends = [summary(tmp_path / name) for name in ("tuned", "alone")]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"] and ends[0]["sources"] == ends[1]["sources"]


@pytest.mark.slow
def test_weights_of_a_file_that_is_replaced(command, data, tmp_path):
    model, file = create_model("resnet20", width=4, depths=(1,), num_classes=0, in_channels=1, image_size=8), (
        tmp_path / "weights.safetensors")

    def write(seed: int) -> None:
        variables = model.init(jax.random.key(seed), np.zeros((1, 8, 8, 1), np.float32))
        save_weights(variables, model, file, layout="timm")

    def knn():
        return command("knn", "--model", "resnet20", "--model-fields", "width=4", "depths=(1,)", "in_channels=1",
                       "--weights", file, "--image-size", 8, "--data", f"npz:{data}/labelled.npz", "--batch-size", 16,
                       "--run-dir", tmp_path / "knn")

    write(0)
    first = knn()
    assert first.status == 0, first.err
    (facts,) = summary(tmp_path / "knn")["sources"]
    assert facts["file"] == str(file) and facts["size"] == file.stat().st_size
    os.utime(file, (0, 0))  # copied, say: other times, the same bytes
    assert "is complete" in knn().out
    write(1)
    anew = knn()
    assert "is out of date and judged anew" in anew.out and anew.status == 0
    assert summary(tmp_path / "knn")["sources"] != [facts]
    assert "is complete" in knn().out


@pytest.mark.parametrize("config", [DataConfig, TrainingConfig])
def test_a_complete_run_looks_at_its_source_again(tmp_path, capsys, config):
    run = write_run(tmp_path / "source")

    def opened():
        return RunFolder(config(run_dir=str(tmp_path / "run")), "x", "x")

    with opened() as folder:
        folder.reads(load_run(run).origin)
        folder.finish({"knn": 0.5}, {})
    assert f"{run} is unfinished: step 1\n" in capsys.readouterr().err
    assert opened().finished() and (tmp_path / "run" / "summary.json").exists()
    write_run(tmp_path / "source", 3.0, step=2)
    changed = f"{run} at step 1 then, {run} at step 2 now"
    with opened() as folder:
        if config is TrainingConfig:
            with pytest.raises(ConfigError, match=f"what it started from has changed: {changed}; --overwrite trains"):
                folder.finished()
            return
        capsys.readouterr()
        assert not folder.finished() and folder.anew
        assert capsys.readouterr().out == f"{tmp_path}/run is out of date and judged anew: {changed}\n"
        assert (tmp_path / "run" / "summary.json").exists(), "until there is a new result"
        folder.reads(load_run(run).origin)
        folder.finish({"knn": 0.6}, {})
    assert opened().finished() and summary(tmp_path / "run")["metrics"] == {"knn": 0.6}


def test_the_hash_is_that_of_the_weights(tmp_path):
    """Of equal weights at another step it is the same, of others it is not; nothing of the arrays is read for it."""
    hashes = []
    for i, (sharpness, step) in enumerate([(2.0, 1), (2.0, 3), (3.0, 1)]):
        folder = write_run(tmp_path / str(i), sharpness, step=step) / "checkpoints"
        shutil.rmtree(folder / str(step) / "training")
        for path in (folder / str(step) / "weights").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        hashes.append(describe(folder).weights)
    assert hashes[0] == hashes[1] != hashes[2]


def test_origins_come_back_from_json_and_are_found_at_addresses(tmp_path, memory):
    run = write_run(tmp_path / "run")
    far = FarFolder("memory://run")
    shutil.copytree(run, far.path)
    (far.path / "config.json").write_text("{}")
    far.carry()
    shutil.rmtree(far.path)
    found = [origin_of_run(place, find_checkpoint(run, "judged"), "judged") for place in (str(run), "memory://run")]
    assert from_json(json.loads(json.dumps(sources_json([*found, None])))) == found
    assert changes_of(sources_json(found)) == "" and found[1].now() == found[1]
    other = RunOrigin("memory://run", "judged", 1, None, "another")
    assert changes_of(sources_json([other])) == "memory://run at step 1 then, memory://run at step 1 now"
    assert RunOrigin("memory://none", "latest", 1, None, "x").now() is None
