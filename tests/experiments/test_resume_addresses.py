"""A run that is stopped and resumed ends as one that was not, wherever its pictures are."""

import contextlib
import json

import pytest

from tests.data.pictures import write_folder
from tests.data.servers import http_folder
from tests.data.test_addresses import upload
from tests.data.test_tar import webdataset, write_tar
from tests.experiments.test_far_folder import no_pictures, stop_after  # noqa: F401

pytestmark = pytest.mark.slow

MLP = ("--model", "mlp", "--model-fields", "hidden=(16,)", "--batch-size", 8, "--log-every", 2, "--schedule", "cosine",
       "--image-size", 6, "--steps", 9, "--checkpoint-every", 2)


@pytest.fixture
def place(request, tmp_path, memory, monkeypatch):
    """`--data` of a kind, with its pictures where it wants them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kind, shards = request.param, tmp_path / "shards"
    shards.mkdir()
    for n in range(3):
        write_tar(shards / f"train-{n}.tar", webdataset(range(12 * n, 12 * n + 12)))
    named = "train-{0..2}.tar"
    with contextlib.ExitStack() as stack:
        if kind == "tar":
            yield f"tar:{shards}/{named}"
        elif kind == "tar in memory":
            yield f"tar:{upload(memory, shards, 'shards')}/{named}"
        elif kind == "tar over http":
            pytest.importorskip("aiohttp")
            yield f"tar:{stack.enter_context(http_folder(shards))[0]}/{named}"
        elif kind == "tar in an object store":
            bucket = request.getfixturevalue("bucket")
            for path in shards.iterdir():
                bucket.put_file(str(path), f"photos/{path.name}")
            yield f"tar:s3://photos/{named}"
        elif kind == "folder in memory":
            write_folder(tmp_path / "photos", {"cat": 20, "dog": 20})
            yield f"folder:{upload(memory, tmp_path / 'photos', 'photos')}"
        else:
            pytest.importorskip("datasets")
            from tests.data.test_hf import records, save

            yield save(tmp_path / "saved", train=records(range(40)), test=records(range(6)))


@pytest.mark.parametrize("place", ["tar", "tar in memory", "tar over http", "tar in an object store",
                                   "folder in memory", "hf"], indirect=True)
def test_a_stopped_run_ends_as_one_that_was_not(place, command, tmp_path, monkeypatch, no_pictures):  # noqa: F811
    ends = []
    for name in ("whole", "stopped"):
        arguments = ("supervised", "--data", place, "--run-dir", tmp_path / name, *MLP)
        with monkeypatch.context() as context:
            if name == "stopped":
                stop_after(context, 4)
                assert "the same command resumes" in command(*arguments).err
        done = command(*arguments)
        assert done.status == 0 and ("resuming" in done.out) == (name == "stopped"), done.err
        ends.append(json.loads((tmp_path / name / "summary.json").read_text()))
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"] and ends[0]["metrics"] == ends[1]["metrics"]
