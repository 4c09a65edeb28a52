"""The tables of `--data` forms, and what is made from them: help, errors, and the lists in docs/guide.md."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from cvjax.data.forms import BOXES, IMAGES, LABEL_MAPS
from cvjax.errors import DataError

ROOT = Path(__file__).parents[2]
TABLES = {"images": IMAGES, "boxes": BOXES, "label maps": LABEL_MAPS}
LINES = [pytest.param(form, id=f"{kind} {form.name}") for kind, table in TABLES.items() for form in table.forms]


@pytest.mark.parametrize("form", LINES)
def test_the_reader_is_there_and_takes_what_the_table_says(form):
    module, function = form.reader.split(":")
    if form.name == "hf":
        pytest.importorskip("datasets", reason="hf: needs datasets, which is an extra")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    named = {name for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert named == set(form.options)
    assert len(parameters) - len(named) == bool(form.place)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_each_spelling_is_found_and_others_name_them_all(table):
    names = [form.name for form in table.forms]
    assert len(set(names)) == len(names)
    for form in table.forms:
        assert all(table.find(spelling) is form for spelling in form.spellings)
        with pytest.raises(DataError) as error:
            table.find(f"{form.name}:")
        assert all(spelling in str(error.value) for spelling in table.spellings)
        assert all(spelling in table.help for spelling in form.spellings) and form.description in table.help


def test_forms_that_read_no_addresses_say_so():
    for table, spec, words in (
            (IMAGES, "packed:s3://bucket/a", "^packed:DIR is read on this machine only, got 'packed:s3://bucket/a'; "
             "addresses are for folder:PATH, tar:PATH$"),
            (LABEL_MAPS, "folder:gs://bucket/a", "addresses with label maps are for none of its forms$")):
        with pytest.raises(DataError, match=words):
            table.open(spec)


def test_a_library_that_one_reader_needs_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for name in ("cvjax.data.tfds_records", "cvjax.data.sources.tfds"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(DataError, match="^tfds:NAME needs tensorflow_datasets, .*: pip install tensorflow-datasets$"):
        IMAGES.open("tfds:cifar10")


def test_the_table_needs_no_array_and_no_image_library():
    heavy = ["jax", "numpy", "PIL", "cv2", "grain"]
    code = f"import sys, cvjax.data.forms; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_guide_lists_the_forms(table):
    guide = " ".join((ROOT / "docs" / "guide.md").read_text().split())
    assert ", ".join(f"`{spelling}`" for spelling in table.spellings) in guide


@pytest.mark.parametrize(("experiment", "table"), [
    ("experiments.supervised", IMAGES), ("experiments.mae_pretrain", IMAGES), ("experiments.detect", BOXES),
    ("experiments.rcnn", BOXES), ("experiments.segment", LABEL_MAPS)])
def test_help_lists_the_forms(experiment, table):
    done = subprocess.run([sys.executable, "-m", experiment, "--help-all"], capture_output=True, text=True, check=True,
                          cwd=ROOT, env={"COLUMNS": "1000", "PATH": ""})
    shown = " ".join(done.stdout.split())
    assert all(spelling in shown for spelling in table.spellings)
    assert all(form.description in shown for form in table.forms)


def folders(root: Path, *names: str) -> str:
    """A folder with these files; names that end in a slash are folders."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return str(root)


@pytest.mark.parametrize(("table", "names", "meant"), [
    (IMAGES, ["cats/a.jpg", "dogs/b.jpg"], "folder:PATH"),
    (IMAGES, ["train/cats/a.jpg"], "folder:PATH"),
    (IMAGES, ["train-000.tar", "train-001.tar"], "tar:PATH"),
    (IMAGES, ["train-00000.array_record", "manifest.json"], "packed:PATH"),
    (IMAGES, ["labels.csv", "a.jpg"], "labels:PATH"),
    (IMAGES, ["dataset_dict.json", "train/"], "hf:PATH"),
    (IMAGES, ["Annotations/", "JPEGImages/"], "voc:PATH, a data set for detection"),
    (IMAGES, ["annotations/instances_train.json", "train/"], "coco:PATH, a data set for detection"),
    (BOXES, ["Annotations/", "JPEGImages/"], "voc:PATH"),
    (BOXES, ["annotations/instances_train.json"], "coco:PATH"),
    (LABEL_MAPS, ["train/", "trainannot/"], "folder:PATH"),
    (LABEL_MAPS, ["JPEGImages/", "SegmentationClass/"], "voc:PATH"),
])
def test_a_folder_without_its_form_is_told_the_one_that_fits(tmp_path, table, names, meant):
    path = folders(tmp_path / "photos", *names)
    with pytest.raises(DataError) as error:
        table.find(path)
    kind = f" {table.kind}" if table.kind else ""
    assert str(error.value).startswith(f"unknown data set {path!r}{kind}; did you mean --data "
                                       f"{meant.replace('PATH', path)}? allowed: ")


@pytest.mark.parametrize(("name", "meant"), [("a.tar", "tar:"), ("a.npz", "npz:"), ("a.txt", "")])
def test_a_file_without_its_form_is_told_the_one_that_fits(tmp_path, name, meant):
    path = folders(tmp_path, name) + f"/{name}"
    with pytest.raises(DataError) as error:
        IMAGES.find(path)
    assert (f"did you mean --data {meant}{path}?" in str(error.value)) == bool(meant)
    assert ("did you mean" in str(error.value)) == bool(meant)


@pytest.mark.parametrize("spec", ["", "~nobody/photos", "x" * 5000, "a\0b", "/nowhere/photos"])
def test_what_is_no_file_gets_no_hint(spec):
    with pytest.raises(DataError, match="; allowed: digits, folder:PATH"):
        IMAGES.find(spec)


def test_a_form_that_is_misspelt_is_told():
    with pytest.raises(DataError, match="did you mean --data folder:photos[?] allowed: digits, folder:PATH"):
        IMAGES.find("fodler:photos")
