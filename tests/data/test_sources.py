import pickle
import subprocess
import sys

import numpy as np
import pytest

from cvjax.data.dataset import ArraySource
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError
from tests.data.pictures import encode, gradient, write_folder


def error_line(spec, **options):
    with pytest.raises(DataError) as error:
        open_dataset(spec, **options)
    line = str(error.value)
    assert line and "\n" not in line
    return line


# --- what open_dataset accepts


@pytest.mark.parametrize("spec", ["", "digit", "mnist", "folder", "folder:", "http://x", "digits:8"])
def test_an_unknown_spec_names_the_allowed_forms(spec):
    line = error_line(spec)
    assert repr(spec) in line
    assert all(form in line for form in ("digits", "folder:PATH", "tfds:NAME", "npz:FILE"))


def test_importing_the_package_imports_no_heavy_library():
    heavy = ["tensorflow", "sklearn", "tensorflow_datasets", "torch", "matplotlib"]
    code = f"import sys, cvjax.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- digits


def test_digits():
    digits = open_dataset("digits", seed=5)
    assert (len(digits.train), len(digits.test), digits.num_classes, digits.channels) == (1437, 360, 10, 1)
    assert digits.in_memory and digits.image_size == (8, 8)
    images = digits.train.images
    assert (
        images.shape == (1437, 8, 8, 1)
        and images.dtype == np.uint8
        and (images.min(), images.max()) == (0, 255)
    )
    shares = np.bincount(digits.test.labels) / 360
    assert np.abs(shares - np.bincount(digits.train.labels) / 1437).max() < 0.003
    assert digits.fingerprint == open_dataset("digits", seed=0).fingerprint


# --- folders


def test_a_folder_of_classes_is_split_by_class_and_seed(tmp_path):
    write_folder(tmp_path, {"cat": 10, "ant": 5, "bee": 2})
    data = open_dataset(f"folder:{tmp_path}")
    assert data.class_names == ("ant", "bee", "cat") and data.channels == 3 and not data.in_memory
    assert np.bincount(data.test.labels).tolist() == [1, 1, 2]
    assert np.bincount(data.train.labels).tolist() == [4, 1, 8]
    assert not set(data.train.files) & set(data.test.files)
    again, other = open_dataset(f"folder:{tmp_path}"), open_dataset(f"folder:{tmp_path}", seed=1)
    assert again.fingerprint == data.fingerprint != other.fingerprint
    assert again.test.files == data.test.files != other.test.files
    record = data.train[0]
    assert (record["label"], record["index"]) == (0, 0) and isinstance(record["image"], bytes)
    assert data.train.name(0).startswith(f"{tmp_path}/ant/")
    assert pickle.loads(pickle.dumps(data.train)).name(3) == data.train.name(3)


def test_train_and_test_folders(tmp_path):
    write_folder(tmp_path / "train", {"a": 3, "b": 1})
    write_folder(tmp_path / "val", {"b": 2})
    data = open_dataset(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.test.labels.tolist() == [1, 1]
    write_folder(tmp_path / "test", {"a": 1})
    data = open_dataset(f"folder:{tmp_path}")
    assert data.test.labels.tolist() == [0] and data.validation.labels.tolist() == [1, 1] and data.ignored == ""


def test_upper_case_nested_and_left_out_files(tmp_path):
    write_folder(tmp_path, {"a": 2, "b/deep/er": 2})
    (tmp_path / "a" / "X.JPG").write_bytes(encode(gradient(4, 4), "JPEG"))
    (tmp_path / "a" / "y.WebP").write_bytes(encode(gradient(4, 4), "WEBP"))
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "a" / "README").write_text("")
    (tmp_path / "a" / "._x.jpg").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose.png").write_bytes(encode(gradient(4, 4)))
    data = open_dataset(f"folder:{tmp_path}")
    assert len(data.train) + len(data.test) == 6 and data.class_names == ("a", "b")
    for words in ("1 .txt files", "1 extensionless files", "2 hidden entries", "1 folders without images"):
        assert words in data.ignored
    assert "1 images outside class folders" in data.ignored


def test_links_that_are_not_followed_are_counted(tmp_path):
    write_folder(tmp_path / "photos", {"cat": 2})
    write_folder(tmp_path / "elsewhere", {"more": 2})
    (tmp_path / "photos" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "photos" / "cat" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere" / "more")  # a class may be a link
    data = open_dataset(f"folder:{tmp_path}/photos")
    assert data.class_names == ("cat", "dog") and len(data.train) + len(data.test) == 4
    assert data.ignored == "1 broken links (gone.png); 1 linked folders inside others (cat/more)"


def test_unlabelled_folders(tmp_path):
    for place in (tmp_path / "flat", tmp_path / "split" / "train"):
        write_folder(place.parent, {place.name: 10})
    for root in (tmp_path / "flat", tmp_path / "split"):
        data = open_dataset(f"folder:{root}")
        assert (len(data.train), len(data.test), data.class_names) == (8, 2, ())
        assert (data.train.labels == -1).all() and (data.test.labels == -1).all()
        assert data.train[0]["label"] == -1


def test_folders_that_cannot_be_used(tmp_path):
    assert "no such folder" in error_line(f"folder:{tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    assert "no images" in error_line(f"folder:{tmp_path}/empty")
    (tmp_path / "empty" / "a.txt").write_text("")
    assert "1 .txt files" in error_line(f"folder:{tmp_path}/empty")
    write_folder(tmp_path / "single", {"a": 3, "b": 1})
    assert "'b' has a single image" in error_line(f"folder:{tmp_path}/single")
    write_folder(tmp_path, {"one": 1})
    assert "single image" in error_line(f"folder:{tmp_path}/one")
    write_folder(tmp_path / "only", {"test/a": 2})
    assert "no train folder" in error_line(f"folder:{tmp_path}/only")
    write_folder(tmp_path / "nolabels", {"train/a": 2, "test": 2})
    assert "test split has no labels" in error_line(f"folder:{tmp_path}/nolabels")
    write_folder(tmp_path / "nolabels2", {"train": 2, "test/a": 2})
    assert "training split has no labels" in error_line(f"folder:{tmp_path}/nolabels2")
    write_folder(tmp_path / "extra", {"train/a": 2, "test/a": 2, "test/zebra": 1})
    assert "zebra" in error_line(f"folder:{tmp_path}/extra")


def test_cache_decodes_once_and_drops_bad_files(tmp_path):
    write_folder(tmp_path / "train", {"a": 4, "b": 4})
    write_folder(tmp_path / "test", {"a": 2})
    (tmp_path / "train" / "a" / "001.png").write_bytes(b"broken")
    files = open_dataset(f"folder:{tmp_path}")
    data = open_dataset(f"folder:{tmp_path}", cache=True)
    assert data.in_memory and data.image_size == (12, 12) and data.train.images.shape == (7, 12, 12, 3)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    ((name, reason),) = data.train.dropped
    assert name == files.train.name(1) and "not a JPEG" in reason
    (tmp_path / "train" / "b" / "000.png").write_bytes(encode(gradient(5, 6)))
    assert "images must have one size" in error_line(f"folder:{tmp_path}", cache=True)


def test_a_changed_file_changes_the_fingerprint(tmp_path):
    write_folder(tmp_path, {"a": 5})
    before = open_dataset(f"folder:{tmp_path}").fingerprint
    (tmp_path / "a" / "000.png").write_bytes(b"shorter")
    assert open_dataset(f"folder:{tmp_path}").fingerprint != before


# --- npz

IMAGES = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)
LABELS = np.arange(10) % 3


def save(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return f"npz:{tmp_path}/data.npz"


def test_npz(tmp_path):
    spec = save(
        tmp_path,
        train_images=IMAGES,
        train_labels=LABELS[:, None],
        test_images=IMAGES[:4],
        test_labels=LABELS[:4].astype(np.uint8),
        val_images=IMAGES,
        val_labels=LABELS,
    )
    data = open_dataset(spec)
    assert data.num_classes == 3 and data.image_size == (4, 4) and data.channels == 3
    assert isinstance(data.test, ArraySource) and data.test.labels.tolist() == [0, 1, 2, 0]
    np.testing.assert_array_equal(data.train[3]["image"], IMAGES[3])
    assert len(data.validation) == 10 and data.ignored == ""


def test_npz_without_labels_or_test_or_channels(tmp_path):
    data = open_dataset(save(tmp_path, train_images=IMAGES[..., 0]))
    assert data.train.images.shape == (8, 4, 4, 1) and len(data.test) == 2 and data.class_names == ()
    assert (data.train.labels == -1).all()


@pytest.mark.parametrize(
    "words, arrays",
    [
        ("no train_images", {"test_images": IMAGES}),
        ("float32 from 0 to .* nothing states", {"train_images": IMAGES.astype(np.float32)}),
        (r"numbers \(N, H, W, C\)", {"train_images": IMAGES[0, 0]}),
        ("not empty", {"train_images": IMAGES[:0]}),
        (r"integers \(10,\)", {"train_images": IMAGES, "train_labels": LABELS[:9]}),
        ("integers", {"train_images": IMAGES, "train_labels": LABELS / 2}),
        ("from -1 to 1", {"train_images": IMAGES, "train_labels": LABELS - 1}),
        (
            "test label 9",
            dict(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES, test_labels=LABELS + 7),
        ),
        ("no labels", dict(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES)),
        ("test images are", dict(train_images=IMAGES, test_images=IMAGES[:, :2])),
        ("not a readable", dict(train_images=np.array([None]))),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, words, arrays):
    import re

    assert re.search(words, error_line(save(tmp_path, **arrays)))


def test_npz_that_is_no_npz(tmp_path):
    assert "no such file" in error_line(f"npz:{tmp_path}/none.npz")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 broken")
    assert "not a readable" in error_line(f"npz:{tmp_path}/x.npz")
    np.save(tmp_path / "x.npy", IMAGES)
    assert "not a readable" in error_line(f"npz:{tmp_path}/x.npy")


def test_the_digits_are_kept_and_a_damaged_copy_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    first = open_dataset("digits")
    kept, = (tmp_path / ".cache" / "cvjax").iterdir()
    whole = kept.read_bytes()
    again = open_dataset("digits")
    kept.write_bytes(whole[:-500])
    mended = open_dataset("digits")
    assert kept.read_bytes() == whole
    kept.write_bytes(b"")
    open_dataset("digits")
    assert kept.read_bytes() == whole
    monkeypatch.setenv("HOME", "/proc/nowhere")  # cannot be written to
    unkept = open_dataset("digits")
    assert first.fingerprint == again.fingerprint == mended.fingerprint == unkept.fingerprint
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    open_dataset("digits")
    assert [file.name for file in (tmp_path / "elsewhere" / "cvjax").iterdir()] == [kept.name]
