import json

import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import RandomResizedCrop, ResizeCenterCrop
from cvjax.data.dataset import ArraySource
from cvjax.data.pipeline import Order, Stream, TrainBatches, eval_batches
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError
from tests.data.pictures import encode, gradient, write_folder

N = 23
CROP = RandomResizedCrop(6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """23 different pictures in files: an odd number, on purpose."""
    root = tmp_path_factory.mktemp("pictures") / "train"
    root.mkdir()
    for i in range(N):
        (root / f"{i:03}.png").write_bytes(encode(np.roll(gradient(16, 20), i, axis=1)))
    write_folder(root.parent, {"test": 2})
    return open_dataset(f"folder:{root.parent}").train


@pytest.fixture(scope="module")
def arrays():
    images = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 1)).astype(np.uint8)
    return ArraySource(images, np.arange(N, dtype=np.int32) % 5)


def take(source, crop, count, *, batch_size=4, seed=0, bad=None, **options):
    stream = TrainBatches(source, crop, Stream(batch_size, seed, **options), bad)
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def both(test):
    """Runs a test on files that are cropped and on arrays that are gathered."""
    return pytest.mark.parametrize("kind, crop", [("files", CROP), ("arrays", None)])(test)


class Annotated:
    """Pictures with a number each, which a crop is given by name."""

    channels, fingerprint, labels = 3, "annotated", None

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image = b"no picture" if index == 1 else encode(gradient(4, 4))
        return {"image": image, "label": -1, "index": index, "number": np.int32(10 + index)}

    def name(self, index):
        return f"index {index}"


def annotated(image, rng, number=-1):
    return {"image": CROP(image, rng), "number": np.int32(number)}


def test_a_crop_is_given_what_a_record_says_of_its_image_and_nothing_where_none_is():
    batches = list(eval_batches(Annotated(), annotated, batch_size=4, bad=BadFiles(3, 1.0)))
    np.testing.assert_array_equal(batches[0]["number"], [10, -1, 12, -1])
    np.testing.assert_array_equal(batches[0]["mask"], [True, False, True, False])
    for batch in take(Annotated(), annotated, 3, bad=BadFiles(3, 1.0)):
        np.testing.assert_array_equal(batch["number"], 10 + batch["index"])
        assert 1 not in batch["index"]


@both
def test_batches_have_the_stated_types(kind, crop, request):
    source = request.getfixturevalue(kind)
    (batch,) = take(source, crop, 1)
    shape = (4, 6, 6, 3) if crop else (4, 4, 4, 1)
    assert {key: (value.shape, str(value.dtype)) for key, value in batch.items()} == {
        "image": (shape, "uint8"),
        "label": ((4,), "int32"),
        "index": ((4,), "int64"),
    }


@both
def test_each_epoch_is_another_permutation(kind, crop, request):
    batches = take(request.getfixturevalue(kind), crop, 3 * N, batch_size=1)
    order = np.concatenate([batch["index"] for batch in batches]).reshape(3, N)
    assert (np.sort(order) == np.arange(N)).all()
    assert len({tuple(epoch) for epoch in order}) == 3
    other = take(request.getfixturevalue(kind), crop, N, batch_size=1, seed=1)
    # Not one seed's second epoch as another seed's first, either.
    assert tuple(batch["index"][0] for batch in other) not in {tuple(epoch) for epoch in order}


def test_the_order_is_a_permutation_of_each_epoch_and_stays_what_it_was():
    """An interrupted run goes on in this order, with whatever versions of NumPy and Grain there are by then."""
    order = Order(7, seed=3)
    assert order(np.arange(14)).tolist() == [5, 6, 2, 1, 4, 3, 0, 2, 1, 4, 0, 5, 6, 3]
    assert order(8) == 1 and order(np.arange(14).reshape(7, 2)).tolist()[4] == [1, 4]
    assert Order(7, seed=4)(np.arange(14)).tolist() != order(np.arange(14)).tolist()


def test_positions_alone_are_those_of_the_batches_wherever_they_start(arrays):
    whole = take(arrays, None, 13, seed=3)
    alone = take(arrays, None, 13, seed=3, only_index=True)
    assert all(batch.keys() == {"index"} for batch in alone)
    for a, b in zip(alone, whole, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        assert a["index"].dtype == b["index"].dtype == np.int64
    assert_same(take(arrays, None, 5, seed=3, only_index=True, start_batch=8), alone[8:])
    first, second = (take(arrays, None, 13, seed=3, only_index=True, share=(i, 2)) for i in (0, 1))
    for a, b, both_of_them in zip(first, second, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate([a["index"], b["index"]]), both_of_them["index"])


@both
def test_epochs_are_counted_row_by_row(kind, crop, request):
    source = request.getfixturevalue(kind)
    epochs = np.concatenate([b["epoch"] for b in take(source, crop, 13, with_epoch=True)])
    np.testing.assert_array_equal(epochs, np.arange(13 * 4) // N)  # batches of 4 reach over the end of 23 records
    assert epochs.dtype == np.int32
    late = take(source, crop, 2, with_epoch=True, start_batch=5, share=(1, 2))
    np.testing.assert_array_equal(np.concatenate([b["epoch"] for b in late]), [0, 1, 1, 1])  # rows 22 23 and 26 27
    assert "epoch" not in take(source, crop, 1)[0]


@both
def test_repeated_records_come_in_a_row_and_an_epoch_sees_a_share_of_them(kind, crop, request):
    """As timm's RepeatAugSampler for all replicas together: an epoch of N is the first N / 3 records, thrice."""
    source = request.getfixturevalue(kind)
    batches = take(source, crop, 13, repeats=3, with_epoch=True)
    index, copy, epoch = (np.concatenate([b[name] for b in batches]) for name in ("index", "copy", "epoch"))
    order = Order(N, seed=0)
    np.testing.assert_array_equal(index[:N], np.repeat(order.of_epoch(0), 3)[:N])
    np.testing.assert_array_equal(index[N:2 * N], np.repeat(order.of_epoch(1), 3)[:N])
    np.testing.assert_array_equal(copy, np.concatenate([np.arange(N) % 3] * 3)[:52])  # each epoch starts with a first
    np.testing.assert_array_equal(epoch, np.arange(52) // N)
    assert copy.dtype == np.int32 and "copy" not in take(source, crop, 1)[0]
    for part in (0, 1):
        rows = slice(2 * part, 2 * part + 2)
        late = take(source, crop, 8, repeats=3, with_epoch=True, start_batch=5, share=(part, 2))
        assert_same(late, [{key: value[rows] for key, value in batch.items()} for batch in batches[5:]])


def test_copies_of_a_record_are_cropped_differently(files):
    batch = take(files, CROP, 1, batch_size=12, repeats=4)[0]
    assert len(set(batch["index"])) == 3 and len({image.tobytes() for image in batch["image"]}) == 12


def test_a_record_is_cropped_differently_in_each_epoch(files):
    crops = {}
    for batch in take(files, CROP, 3 * N, batch_size=1):
        crops.setdefault(int(batch["index"][0]), []).append(batch["image"].tobytes())
    assert all(len(set(seen)) == 3 for seen in crops.values())


@both
def test_resuming_is_exact_mid_epoch_and_at_its_end(kind, crop, request):
    source = request.getfixturevalue(kind)
    whole = take(source, crop, 2 * N + 5, batch_size=1)
    for start in (0, 7, N - 1, N, 2 * N):
        assert_same(take(source, crop, 3, batch_size=1, start_batch=start), whole[start : start + 3])


@both
def test_state_restores_and_is_json(kind, crop, request):
    source = request.getfixturevalue(kind)
    stream = TrainBatches(source, crop, Stream(4, seed=3))
    for _ in range(9):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    assert state["next_batch"] == 9
    ahead = [next(stream) for _ in range(4)]
    stream.restore(state)
    assert_same([next(stream) for _ in range(4)], ahead)
    stream.close()
    assert list(stream) == []
    stream.close()


@pytest.mark.parametrize("name, value", [("seed", 4), ("batch_size", 8), ("order", 1), ("repeats", 3)])
def test_a_state_of_another_stream_is_refused(arrays, name, value):
    stream = TrainBatches(arrays, None, Stream(4, seed=3, repeats=2))
    with pytest.raises(DataError, match=f"{name} was {value}, now it is {stream.state()[name]}"):
        stream.restore({**stream.state(), name: value})
    next(stream)
    other = ArraySource(arrays.images ^ 1, arrays.labels)
    foreign = TrainBatches(other, None, Stream(4, seed=3))
    with pytest.raises(DataError, match="fingerprint was"):
        stream.restore(foreign.state())
    stream.close()
    foreign.close()


@both
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_hold_the_global_batch(kind, crop, count, request):
    source = request.getfixturevalue(kind)
    whole = take(source, crop, 14)
    for index in range(count):
        part = take(source, crop, 11, share=(index, count), start_batch=3)
        rows = slice(index * 4 // count, (index + 1) * 4 // count)
        assert_same(part, [{key: value[rows] for key, value in batch.items()} for batch in whole[3:]])


def test_threads_and_workers_change_nothing(files):
    expected = take(files, CROP, 8, threads=1)
    assert_same(take(files, CROP, 8, threads=4), expected)
    assert_same(take(files, CROP, 8, workers=1), expected)


def test_workers_resume_anywhere(files):
    expected = take(files, CROP, 10)
    assert_same(take(files, CROP, 3, workers=2, start_batch=7), expected[7:])


def test_a_single_record_and_a_batch_larger_than_the_data(arrays):
    one = ArraySource(arrays.images[:1], arrays.labels[:1])
    assert take(one, None, 2, batch_size=3)[1]["index"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 5, "share": (0, 2)}, "multiple of the 2 processes, got 5"),
        ({"share": (2, 2)}, "share"),
        ({"seed": -1}, "seed"), ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"start_batch": -1}, "at least 0"),
    ],
)
def test_impossible_combinations(arrays, options, words):
    with pytest.raises(DataError, match=words):
        TrainBatches(arrays, None, Stream(**{"batch_size": 4, "seed": 0, **options}))


def test_files_need_a_crop(files):
    with pytest.raises(DataError, match="need a crop"):
        TrainBatches(files, None, Stream(4, seed=0))


# --- evaluation


@pytest.mark.parametrize("kind, crop", [("files", ResizeCenterCrop(6)), ("arrays", None)])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 8, 46])
def test_evaluation_sees_every_record_once(kind, crop, count, batch_size, request):
    source = request.getfixturevalue(kind)
    parts = [
        list(eval_batches(source, crop, batch_size=batch_size, share=(i, count)))
        for i in range(count)
    ]
    assert {len(part) for part in parts} == {-(-N // batch_size)}
    batches = [batch for part in parts for batch in part]
    assert {batch["image"].shape[0] for batch in batches} == {batch_size // count}
    index, mask, label = (
        np.concatenate([batch[key] for batch in batches]) for key in ("index", "mask", "label")
    )
    assert sorted(index[mask]) == list(range(N)) and (index[~mask] == -1).all()
    np.testing.assert_array_equal(label[mask], source.labels[index[mask]])
    assert (label[~mask] == 0).all() and mask.dtype == bool
    if count == 1:
        assert (index[mask] == np.arange(N)).all()
    if crop is None:
        images = np.concatenate([batch["image"] for batch in batches])
        np.testing.assert_array_equal(images[mask], source.images[index[mask]])
        assert (images[~mask] == 0).all()


# --- bad files


@pytest.fixture
def spoilt(tmp_path):
    """Two classes of 10 files, of which positions 3, 4 and 19 cannot be decoded."""
    write_folder(tmp_path / "train", {"a": 10, "b": 10})
    write_folder(tmp_path / "test", {"a": 2})
    (tmp_path / "train/a/003.png").write_bytes(b"")
    (tmp_path / "train/a/004.png").write_bytes(encode(gradient(9, 9), "JPEG")[:200])
    (tmp_path / "train/b/009.png").write_bytes(b"text")
    return open_dataset(f"folder:{tmp_path}").train


def test_a_bad_file_is_replaced_by_the_next_good_one_and_named(spoilt, tmp_path):
    bad = BadFiles(20, 0.5, tmp_path / "run" / "bad_files.txt")
    batches = take(spoilt, CROP, 20, batch_size=2, bad=bad)
    index = np.concatenate([batch["index"] for batch in batches]).reshape(2, 20)
    for epoch in index:
        assert np.bincount(epoch, minlength=20).tolist() == [2, 1, 1, 0, 0, 3, *[1] * 13, 0]
    np.testing.assert_array_equal(
        np.concatenate([batch["label"] for batch in batches]), spoilt.labels[index.ravel()]
    )
    lines = (tmp_path / "run" / "bad_files.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [spoilt.name(i) for i in (3, 4, 19)]
    assert "empty" in lines[0] and "damaged" in lines[1] and "b'text'" in lines[2]
    assert bad.count == 3
    assert_same(take(spoilt, CROP, 5, start_batch=5, batch_size=2, bad=bad), batches[5:10])


def test_too_many_bad_files_stop_the_run(spoilt, tmp_path):
    path = tmp_path / "bad_files.txt"
    with pytest.raises(DataError) as error:
        take(spoilt, CROP, 20, batch_size=2, bad=BadFiles(5, 0.1, path))
    assert str(error.value).startswith("3 of 5 files cannot be read, 2 may be by --data-max-bad 0.1: ")
    named = [line.split("\t") for line in path.read_text().splitlines()]
    assert len(named) == 3 and all(f"{name} ({why})" in str(error.value) for name, why in named)


def test_nothing_but_bad_files(tmp_path):
    write_folder(tmp_path, {"a": 4})
    for file in tmp_path.glob("a/*"):
        file.write_bytes(b"")
    source = open_dataset(f"folder:{tmp_path}").train
    with pytest.raises(DataError, match="3 files in a row cannot be read"):
        take(source, CROP, 1)


def test_evaluation_masks_bad_files(spoilt):
    bad = BadFiles(20, 0.5)
    batches = list(eval_batches(spoilt, ResizeCenterCrop(6), batch_size=8, bad=bad))
    index, mask = (np.concatenate([batch[key] for batch in batches]) for key in ("index", "mask"))
    assert index[~mask].tolist() == [3, 4, 19, -1, -1, -1, -1] and bad.count == 3
    with pytest.raises(DataError, match="1 of 20 files cannot be read, 0 may be"):
        list(eval_batches(spoilt, ResizeCenterCrop(6), batch_size=8, bad=BadFiles(20, 0)))


def test_a_vanished_file_is_a_bad_file(spoilt, tmp_path):
    (tmp_path / "train/a/000.png").unlink()
    bad = BadFiles(20, 0.5)
    list(eval_batches(spoilt, ResizeCenterCrop(6), batch_size=8, bad=bad))
    assert "No such file" in bad.reasons[spoilt.name(0)]


def test_files_dropped_by_the_cache_count(spoilt, tmp_path):
    source = open_dataset(f"folder:{tmp_path}", cache=True).train
    with pytest.raises(DataError, match="cannot be read"):
        TrainBatches(source, None, Stream(2, seed=0), BadFiles(20, 0))
    bad = BadFiles(20, 0.5)
    TrainBatches(source, None, Stream(2, seed=0), bad).close()
    assert bad.count == 3
    assert source.take(np.arange(2)).dropped == source.dropped  # and where a part of the source is held out


def test_the_list_is_shared_and_survives(tmp_path):
    path = tmp_path / "bad_files.txt"
    first, second = BadFiles(100, 1, path), BadFiles(100, 1, path)
    first.add("b", "x\ny")
    second.add("a", "z")
    second.add("a", "another reason, later")
    first.add("c", "")
    assert path.read_text() == "a\tz\nb\tx y\nc\t\n"
    assert (first.count, second.count) == (2, 1)


@pytest.mark.parametrize("total, share, allowed", [
    (1000, 0.01, 10), (600, 0.01, 6), (100, 0.29, 29), (2000, 0.001, 5), (10, 1, 10),
    (499, 0.01, 5), (10, 0.01, 5), (9, 0.01, 4), (3, 0.01, 1), (2, 0.9, 1), (1, 0.01, 0), (1000, 0, 0)])
def test_the_limit_is_a_share_or_a_few(total, share, allowed):
    bad = BadFiles(total, share)
    for number in range(allowed):
        bad.add(f"file {number}", "why")
    with pytest.raises(DataError, match=f"{allowed + 1} of {total} files cannot be read, {allowed} may be"):
        bad.add("one more", "why")


def test_the_error_names_five_files_and_where_all_are_named(tmp_path):
    with pytest.raises(DataError) as error:
        BadFiles(8, 0.01, tmp_path / "bad").add_all({f"file{n}": f"why\n{n}" for n in range(7)})
    examples = ", ".join(f"file{n} (why {n})" for n in range(5))
    assert str(error.value) == (f"7 of 8 files cannot be read, 4 may be by --data-max-bad 0.01: {examples}, and 2 more"
                                f"; {tmp_path / 'bad'} names them all")
    assert len((tmp_path / "bad").read_text().splitlines()) == 7


def test_impossible_limits_are_refused():
    with pytest.raises(DataError, match="got 2"):
        BadFiles(10, 2)
    with pytest.raises(DataError):
        BadFiles(10, 0).add("a", "")
