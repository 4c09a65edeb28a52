"""Data sets in an object store: moto's S3 on this machine, through the same libraries as any other."""

import contextlib

import numpy as np
import pytest

from cvjax import storage
from cvjax.data.crops import RandomResizedCrop
from cvjax.data.pipeline import Stream, TrainBatches
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError, StorageError
from tests.data.servers import HOST
from tests.data.test_addresses import alike, assert_resumes, own_cache, photos, shards  # noqa: F401

pytestmark = pytest.mark.slow


def test_tar_files(bucket, shards):  # noqa: F811
    for path in shards.iterdir():
        bucket.put_file(str(path), f"photos/in/{path.name}")
    root, local = "s3://photos/in", open_dataset(f"tar:{shards}")
    for place in (root, f"{root}/{{train-{{000..003}},val-0}}.tar"):
        assert alike(open_dataset(f"tar:{place}"), local)
    before = storage.facts(f"{root}/val-0.tar")
    bucket.pipe_file("photos/in/val-0.tar", b"x" * before.size)
    after = storage.facts(f"{root}/val-0.tar")
    assert after.size == before.size and after.stamp != before.stamp
    assert_resumes(f"tar:{root}/train-{{000..003}}.tar")
    with pytest.raises(DataError, match="1 of 2 tar files are missing, such as s3://photos/in/train-009.tar"):
        open_dataset(f"tar:{root}/train-{{000,009}}.tar")


def test_a_folder(bucket, photos):  # noqa: F811
    bucket.put(f"{photos}/", "photos/in/", recursive=True)
    here, there = open_dataset(f"folder:{photos}"), open_dataset("folder:s3://photos/in")
    assert alike(there, here) and there.ignored == here.ignored
    assert_resumes("folder:s3://photos/in")
    with pytest.raises(DataError, match="no such folder: s3://photos/out"):
        open_dataset("folder:s3://photos/out")


def test_worker_processes_find_the_store(bucket, shards):  # noqa: F811
    for path in shards.iterdir():
        bucket.put_file(str(path), f"photos/{path.name}")
    source = open_dataset("tar:s3://photos").train
    found = []
    for workers in (0, 1):
        stream = TrainBatches(source, RandomResizedCrop(4), Stream(4, seed=0, workers=workers))
        with contextlib.closing(stream):
            found.append([next(stream)["image"] for _ in range(4)])
    np.testing.assert_array_equal(*found)


def test_a_store_that_does_not_answer(bucket, monkeypatch):
    monkeypatch.setattr(storage, "WAITS", ())
    type(bucket).clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="^s3://photos/in cannot be reached: "):
        open_dataset("folder:s3://photos/in")
