"""`labels:PATH`: images that a CSV list names, with labels or with numbers to predict."""

import numpy as np
import pytest

from cvjax.data.crops import EvaluationCrop
from cvjax.data.held_out import fold_out, hold_out, take_share
from cvjax.data.pipeline import Stream, TrainBatches, eval_batches
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError
from tests.data.pictures import encode


@pytest.fixture
def write(tmp_path):
    """`write({"labels.csv": "..."}, "a.png b.png")`: lists and pictures; the spelling of the folder as a data set."""
    def make(lists: dict[str, str | bytes], pictures: str = "a.png b.png c.png d.png e.png f.png") -> str:
        for number, name in enumerate(pictures.split()):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4, 3), 10 * number, np.uint8)
            pixels[0, 0] = [ord(name[0]), len(name), number]
            (tmp_path / name).write_bytes(encode(pixels))
        for name, text in lists.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"labels:{tmp_path}"

    return make


def said(dataset, part: str) -> dict[str, object]:
    """File -> its labels by name, or its numbers, of a part."""
    source, targets = getattr(dataset, part), dataset.targets
    return {source.files[i]: {name for name, has in zip(targets.names, source[i]["label"], strict=True) if has}
            if targets.kind == "labels" else tuple(source[i]["label"].tolist()) for i in range(len(source))}


PARTS = {"train/labels.csv": "file,labels\na.png,cat;dog\nb.png,\n", "test/labels.csv": "file,labels\nc.png, dog ;\n"}
NESTED = "train/a.png train/b.png test/c.png"


def test_labels_of_an_image_are_separated_by_semicolons(write):
    dataset = open_dataset(write(PARTS, NESTED))
    assert (dataset.targets.kind, dataset.targets.names, dataset.class_names) == ("labels", ("cat", "dog"), ())
    assert said(dataset, "train") == {"a.png": {"cat", "dog"}, "b.png": set()}
    assert said(dataset, "test") == {"c.png": {"dog"}}
    assert dataset.train[0]["label"].dtype == np.float32 and not dataset.ignored and not dataset.lost


def test_columns_of_numbers_are_numbers_to_predict(write):
    dataset = open_dataset(write({"labels.csv": "path,Age,height\na.png,3,-1e-3\nb.png, 4.5 ,+7\nc.png,.5,0\n"}))
    assert (dataset.targets.kind, dataset.targets.names) == ("numbers", ("Age", "height"))
    found = said(dataset, "train") | said(dataset, "test")
    assert found == {"a.png": (3, np.float32(-1e-3)), "b.png": (4.5, 7), "c.png": (0.5, 0)}


@pytest.mark.parametrize("lists, pictures", [
    (PARTS, NESTED),
    ({"labels-train.csv": "file,labels\na.png,cat;dog\nb.png,\n", "Labels_Test.csv": "file,labels\nc.png,dog\n"}, ""),
    ({"labels.csv": "file,split,labels\na.png,Training,cat;dog\nb.png,train,\nc.png,testing,dog\n"}, ""),
    ({"labels.csv": "file,labels\ntrain/a.png,cat;dog\ntrain/b.png,\ntest/c.png,dog\n"}, NESTED),
])
def test_parts_by_folders_lists_a_column_or_the_files(write, lists, pictures):
    dataset = open_dataset(write(lists, pictures or "a.png b.png c.png"))
    bare = {part: {file.split("/")[-1]: labels for file, labels in said(dataset, part).items()}
            for part in ("train", "test")}
    assert bare == {"train": {"a.png": {"cat", "dog"}, "b.png": set()}, "test": {"c.png": {"dog"}}}


def test_val_beside_test_and_val_alone_are_as_in_a_folder(write):
    rows = "a.png,train,1.5\nb.png,train,2\nc.png,val,3\n"
    spec = write({"labels.csv": "file,split,y\n" + rows + "d.png,test,4\n"})
    both = open_dataset(spec)
    assert (said(both, "validation"), said(both, "test")) == ({"c.png": (3,)}, {"d.png": (4,)})
    alone = open_dataset(write({"labels.csv": "file,split,y\n" + rows}))
    assert alone.validation is None and said(alone, "test") == {"c.png": (3,)}


def test_without_a_test_part_a_fifth_is_held_out_by_the_seed(write):
    names = [f"{i:02}.png" for i in range(20)]
    rows = "".join(f"{name},-{i}.5\n" for i, name in enumerate(names))
    spec = write({"labels.csv": "file,y\n" + rows}, " ".join(names))
    first, again, other = (open_dataset(spec, seed=seed) for seed in (0, 0, 1))
    assert len(first.test) == 4 and len(first.train) == 16
    assert said(first, "test") == said(again, "test") != said(other, "test")
    assert said(first, "test").keys().isdisjoint(said(first, "train"))
    assert len(hold_out(first, 0.25, seed=0).validation) == 4 and len(take_share(first, 0.5, seed=0).train) == 8
    folds = [said(fold_out(first, 4, fold, seed=0), "validation") for fold in range(4)]
    assert sum(map(len, folds)) == 16 and {file for fold in folds for file in fold} == set(said(first, "train"))


def test_a_list_itself_a_byte_order_mark_and_names_of_any_bytes(write, tmp_path):
    (tmp_path / "café.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    text = 'file,labels\r\n"café.png","héron"\r\nsub\\a.png,héron\r\n'
    write({"mine.csv": b"\xef\xbb\xbf" + text.encode()}, "sub/a.png")
    dataset = open_dataset(f"labels:{tmp_path}/mine.csv")
    assert said(dataset, "train") | said(dataset, "test") == {"café.png": {"héron"}, "sub/a.png": {"héron"}}


def test_missing_pictures_are_lost_and_repeated_rows_and_unlisted_pictures_counted(write, tmp_path):
    rows = "a.png,x;x\na.png,x;x\ngone.png,x\nb.png,y\n./b.png,y\nc.png,\n"
    dataset = open_dataset(write({"labels.csv": "file,labels\n" + rows, "notes.csv": "anything"}))
    assert dataset.lost == ((f"{tmp_path}/gone.png", "no such file"),)
    assert "1 listed pictures that are not there, left out (gone.png)" in dataset.ignored
    assert "2 rows that repeat another (a.png, ./b.png)" in dataset.ignored
    assert "3 images that no row names (d.png, e.png, f.png)" in dataset.ignored
    assert "1 other lists (notes.csv)" in dataset.ignored and "1 images with a label twice (a.png)" in dataset.ignored
    assert said(dataset, "train") | said(dataset, "test") == {"a.png": {"x"}, "b.png": {"y"}, "c.png": set()}


def test_a_test_folder_without_a_list_is_named(write):
    dataset = open_dataset(write({"train/labels.csv": "file,y\na.png,1.5\nb.png,2\n"}, NESTED))
    assert "1 folders without labels.csv (test)" in dataset.ignored and len(dataset.test) == 1


def test_a_training_list_alone_gives_a_test_part(write):
    dataset = open_dataset(write({"labels-train.csv": "file,y\na.png,1.5\nb.png,2\n", "notes.csv": ""}))
    assert len(dataset.train) == len(dataset.test) == 1 and "1 other lists (notes.csv)" in dataset.ignored


NO_NUMBER = "which is no number; numbers to predict stand in every row and column, labels in a single column"


@pytest.mark.parametrize("lists, message", [
    ({"labels.csv": "file,labels\na.png,4.5\nb.png,cat\n"}, f"line 3: the column labels has 'cat', {NO_NUMBER}"),
    ({"labels.csv": "file,age\na.png,4.5\n\nb.png,\n"}, f"labels.csv line 4: the column age has '', {NO_NUMBER}"),
    ({"labels.csv": "file,age,kind\na.png,4.5,cat\n"}, f"line 2: the column kind has 'cat', {NO_NUMBER}"),
    ({"labels.csv": "file,age\na.png,1_0\nb.png,2\n"}, f"line 2: the column age has '1_0', {NO_NUMBER}"),
    ({"labels.csv": "file,age\na.png,1\nb.png,nan\n"}, "line 3: the column age has nan, which is no finite number"),
    ({"labels.csv": "file,age\na.png,-inf\nb.png,1\n"}, "line 2: the column age has -inf, which is no finite number"),
    ({"labels.csv": "file,age\na.png,1e39\nb.png,1\n"}, "line 2: the column age has 1e39, which is no finite number"),
    ({"labels.csv": "file,Label\na.png,1\nb.png,2\n"}, "the column Label has whole numbers alone, which may be names"),
    ({"labels.csv": "file,y\na.png,1\nb.png,2\na.png,3\n"}, "line 2 and * line 4 say different things of a.png"),
    ({"labels.csv": "file,split,y\na.png,train,1\nb.png,extra,2\n"}, "line 3 has the split 'extra'; it must be train"),
    ({"labels.csv": "file,split,y\na.png,test,1\nb.png,test,2\n"}, "has no training image, only those of test"),
    ({"labels.csv": "file,split\na.png,train\n"}, "the file comes first, then what is to be learnt, besides split"),
    ({"labels.csv": "a.png,cat\nb.png,dog\n"}, "has no header: its first line names an image, a.png"),
    ({"labels.csv": "file;labels\na.png;cat\n"}, "columns are separated by commas"),
    ({"labels.csv": ",file,y\n0,a.png,1\n"}, "needs a header that names two columns or more, the file first"),
    ({"labels.csv": "file,y,Y\na.png,1,2\n"}, "names a column twice: file, y, Y"),
    ({"labels.csv": "file,y\n"}, "needs a header and a row for each image"),
    ({"labels.csv": "file,y\na.png,1,5\n"}, "line 2 has 3 cells, the header has 2; a cell with a comma in it needs"),
    ({"labels.csv": "file,y\n,1\n"}, "line 2 names no file"),
    ({"labels.csv": 'file,y\n"a.png,1\n'}, "is not a readable list: unexpected end of data"),
    ({"labels.csv": b"file,labels\na.png,caf\xe9\n"}, "line 2 is not UTF-8"),
    ({"labels.csv": "file,labels\na.png,\nb.png,;\n"}, "no training image has a label"),
    ({"labels.csv": "file,labels\na.png,Cat\nb.png,cat\n"}, "has the classes Cat and cat, which differ by case only"),
    ({"labels.csv": "file,labels\nx.png,cat\ny.png,cat\n"}, "none of the 2 files of the part train, such as x.png,"),
    ({"labels.csv": "file,split,labels\na.png,train,cat\nb.png,test,bird\n"},
     "the part test of * has classes that are not in train: bird"),
    ({"labels.csv": "file,y\ntrain/a.png,1\ntest/b.png,2\nc.png,3\n"}, "line 4 is in none of the folders train, test"),
    ({"labels.csv": "file,y\na.png,1\n", "labels-train.csv": "file,y\na.png,1\n"}, "keep one kind of list"),
    ({"labels-test.csv": "file,y\na.png,1\n"}, "has labels-test.csv but no list of the training part"),
    ({"labels-train.csv": "file,y\na.png,1\n", "train.csv": "file,y\nb.png,1\n"}, "both mean the part train"),
    ({"animals.csv": "file,y\na.png,1\n"}, "no labels.csv in"),
    ({"test/labels.csv": "file,y\na.png,1\n", "val/labels.csv": "file,y\na.png,1\n"},
     "has test/labels.csv, val/labels.csv but no list of the training part"),
    ({"train.csv": "file,y\na.png,1\n", "test.csv": "file,z\nb.png,1\n"}, "they must be the same, in the same order"),
    ({"train.csv": "file,split,y\na.png,train,1\n", "test.csv": "file,y\nb.png,1\n"},
     "is the list of one part and has a column split: leave it out"),
    ({}, "no labels.csv in"),
])
def test_what_can_be_meant_in_two_ways_or_cannot_be_read_is_one_line(write, lists, message):
    with pytest.raises(DataError) as error:
        open_dataset(write(lists))
    text = str(error.value)
    assert "\n" not in text
    for piece in message.split("*"):
        assert piece in text, text


def test_one_number_that_ends_with_a_semicolon_makes_all_labels(write):
    dataset = open_dataset(write({"labels.csv": "file,labels\na.png,3;\nb.png,4\nc.png,3;4\nd.png,4\ne.png,3\n"}))
    assert dataset.targets.kind == "labels" and dataset.targets.names == ("3", "4")


@pytest.mark.parametrize("cache", [False, True])
def test_batches_have_rows_of_targets_and_padding_is_zero(write, cache):
    rows = "".join(f"{name}.png,{number}.5,{-number}\n" for number, name in enumerate("abcdef"))
    dataset = open_dataset(write({"labels.csv": "file,y,z\n" + rows}), cache=cache)
    assert dataset.in_memory == cache
    crop = None if cache else EvaluationCrop(4, 3, Preprocessing())
    numbers = {i: tuple(dataset.train[i]["label"].tolist()) for i in range(len(dataset.train))}
    assert len(numbers) == 5
    found, masks = {}, []
    for batch in eval_batches(dataset.train, crop, batch_size=3):
        assert batch["label"].dtype == np.float32 and batch["label"].shape == (3, 2)
        found |= {int(i): tuple(row.tolist()) for i, row in zip(batch["index"], batch["label"]) if i >= 0}
        masks += batch["mask"].tolist()
    assert found == numbers and masks == [True] * 5 + [False] and not batch["label"][-1].any()
    stream = TrainBatches(dataset.train, crop and (lambda image, rng: crop(image)), Stream(4, 0))
    batch = next(stream)
    stream.close()
    assert batch["label"].dtype == np.float32
    assert [tuple(row.tolist()) for row in batch["label"]] == [numbers[int(i)] for i in batch["index"]]


def test_other_targets_are_another_data_set(write):
    first = open_dataset(write({"labels.csv": "file,y\na.png,1\nb.png,2\n"})).fingerprint
    assert first != open_dataset(write({"labels.csv": "file,y\na.png,1\nb.png,3\n"})).fingerprint
    assert first != open_dataset(write({"labels.csv": "file,z\na.png,1\nb.png,2\n"})).fingerprint
