"""Data that cannot be used, seen from the command line: one line, exit status 2."""

import numpy as np
import pytest

from tests.data.pictures import encode, write_folder
from tests.experiments.written_runs import write_run

MODEL = ("--image-size", 16, "--model", "mae_vit_tiny_patch16", "--patch-size", 4, "--width", 16, "--depth", 1,
         "--heads", 2, "--decoder-width", 16, "--decoder-depth", 1, "--decoder-heads", 2)


@pytest.fixture
def pretrain(command, tmp_path):
    def run(data, *arguments):
        return command("mae_pretrain", "--data", data, "--run-dir", tmp_path / "run", *MODEL, "--batch-size", 8,
                       "--steps", 4, *arguments)

    return run


def test_an_empty_folder(pretrain, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images (.jpg" in pretrain(f"folder:{tmp_path}/empty").complaint


def test_a_class_with_one_image(pretrain, tmp_path):
    write_folder(tmp_path / "pictures", {"cat": 20, "dog": 1})
    assert "class 'dog' has a single image" in pretrain(f"folder:{tmp_path}/pictures").complaint


def test_a_test_split_without_labels(pretrain, tmp_path):
    write_folder(tmp_path / "pictures/train", {"cat": 20, "dog": 20})
    write_folder(tmp_path / "pictures", {"test": 5})
    assert "the test split has no labels" in pretrain(f"folder:{tmp_path}/pictures").complaint


def test_a_batch_larger_than_the_data_is_made_smaller(pretrain, tmp_path):
    write_folder(tmp_path / "pictures", {"cat": 4, "dog": 4})
    done = pretrain(f"folder:{tmp_path}/pictures", "--dry-run")
    assert done.status == 0, done.err
    assert "--batch-size 8 is larger than the training set of 6 images: 6 are taken at a time" in done.out
    assert "steps of 6 images" in done.out
    done = pretrain(f"folder:{tmp_path}/pictures", "--accumulate", 4, "--dry-run")
    assert "6 images: 4 are taken at a time" in done.out and "steps of 4 images" in done.out
    complaint = pretrain(f"folder:{tmp_path}/pictures", "--accumulate", 7, "--run-dir", tmp_path / "none").complaint
    assert "training set of 6 images, which does not split over 1 devices x accumulate 7" in complaint


def test_images_of_many_sizes_need_an_image_size(command, tmp_path):
    write_folder(tmp_path / "pictures", {"cat": 20, "dog": 20})
    done = command("mae_pretrain", "--data", f"folder:{tmp_path}/pictures", "--run-dir", tmp_path / "run",
                   "--batch-size", 8)
    assert "give --image-size" in done.complaint


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_too_many_corrupt_files_stop_the_run_and_are_named(pretrain, tmp_path, workers):
    write_folder(tmp_path / "pictures", {"cat": 20, "dog": 20})
    broken = [tmp_path / "pictures" / "cat" / f"{i:03}.png" for i in range(10)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:40])
    done = pretrain(f"folder:{tmp_path}/pictures", "--workers", workers)
    # All of them are counted before a step is compiled, so there is no run yet that would have a list.
    assert "10 of 40 files cannot be read, 5 may be by --data-max-bad 0.01: " in done.complaint
    assert sum(f"{path} (damaged image: " in done.complaint for path in broken) == 5
    assert done.complaint.endswith(", and 5 more") and not (tmp_path / "run").exists()


def test_few_corrupt_files_are_skipped_and_listed(pretrain, tmp_path):
    write_folder(tmp_path, {"pictures": 40})
    (tmp_path / "pictures/003.png").write_bytes(b"no picture")
    assert "1 of 40 files cannot be read, 0 may be" in pretrain(f"folder:{tmp_path}/pictures", "--data-max-bad",
                                                               0).complaint
    done = pretrain(f"folder:{tmp_path}/pictures")
    assert done.status == 0, done.err
    (line,) = (tmp_path / "run" / "bad_files.txt").read_text().splitlines()
    assert line.startswith(f"{tmp_path}/pictures/003.png\t")


def test_unlabelled_pictures_are_pretrained_on_and_not_probed(pretrain, tmp_path):
    write_folder(tmp_path, {"pictures": 40})
    done = pretrain(f"folder:{tmp_path}/pictures")
    assert done.status == 0 and "no class labels: nothing to probe" in done.out, done.err
    assert (tmp_path / "run" / "summary.json").exists()


def test_pictures_of_one_class_are_pretrained_on_and_not_probed(pretrain, tmp_path):
    write_folder(tmp_path / "pictures", {"holiday": 40})
    done = pretrain(f"folder:{tmp_path}/pictures")
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow  # the same check as retrieval's, which the suite runs
@pytest.mark.parametrize("experiment", ["knn", "finetune"])
def test_an_encoder_of_grey_images_and_coloured_data(command, tmp_path, experiment):
    grey = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    np.savez(tmp_path / "grey.npz", train_images=grey)
    write_folder(tmp_path / "pictures", {"cat": 20, "dog": 20})
    done = command("mae_pretrain", "--data", f"npz:{tmp_path}/grey.npz", "--run-dir", tmp_path / "run", *MODEL,
                   "--batch-size", 8, "--steps", 1)
    assert done.status == 0, done.err
    done = command(experiment, "--data", f"folder:{tmp_path}/pictures", "--checkpoint", tmp_path / "run",
                   "--run-dir", tmp_path / "second", "--batch-size", 8)
    assert "1 channel" in done.complaint and "3" in done.complaint


def test_a_file_named_like_a_picture_in_the_wrong_format(pretrain, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(encode(np.full((9, 9, 3), i, np.uint8), "JPEG"))
    assert pretrain(f"folder:{tmp_path}/pictures").status == 0


def test_what_judges_a_run_takes_the_data_that_it_learnt_from(pretrain, command, tmp_path):
    data = f"folder:{tmp_path}/pictures"
    write_folder(tmp_path / "pictures", {"cat": 20, "dog": 20})
    assert pretrain(data).status == 0
    knn = command("knn", "--checkpoint", tmp_path / "run", "--run-dir", tmp_path / "knn")
    assert knn.status == 0 and f"on {data}: 32 training images" in knn.out, knn.err
    assert "--batch-size 256 is larger than the training set of 32 images: 32 are taken at a time" in knn.out
    for experiment in ("linear_probe", "few_shot", "retrieval", "finetune"):
        done = command(experiment, "--checkpoint", tmp_path / "run", "--run-dir", tmp_path / "none", "--dry-run")
        assert done.status == 0 and data in done.out and "32 training" in done.out, done.out + done.err
    runs = [write_run(tmp_path / name, channels=3, data=place)
            for name, place in (("a", data), ("b", data), ("c", "digits"))]
    done = command("evaluate", "--checkpoint", *runs[:2], "--run-dir", tmp_path / "none", "--dry-run")
    assert "the checkpoint knows 2 classes (dark, light), folder:" in done.complaint
    done = command("evaluate", "--checkpoint", *runs, "--run-dir", tmp_path / "none")
    assert f"the checkpoints learnt from different data ({data}, ...): give --data" in done.complaint
    done = command("knn", "--model", "resnet20", "--weights", tmp_path / "gone.pth", "--run-dir", tmp_path / "none")
    assert "gone.pth" in done.complaint
