"""Names of classes and files that steer terminals: nothing that a command prints or writes as text obeys them."""

import re

import pytest

from tests.data.pictures import write_folder

CLASSES = ("\x1b[2J\x1b[31mred", "$\\frac{$", "<script>\nalert(1)", "caf\udce9", "\u202egpj.exe")
STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\udc80-\udcff]")
SMALL = ("--model", "mlp", "--model-fields", "hidden=(16,)", "--image-size", 8, "--batch-size", 8, "--crop-scale", 1, 1,
         "--schedule", "cosine")


def obeyed(text: str) -> list[str]:
    """The lines of a text in which something steers; progress bars, which begin lines anew, aside."""
    return [line for line in text.replace("\r", "\n").split("\n") if STEERS.search(line)]


@pytest.mark.parametrize("experiment", ["supervised"])
def test_a_run_and_its_answers(command, tmp_path, experiment):
    photos = tmp_path / "photos"
    write_folder(photos / "train", dict.fromkeys(CLASSES, 6))
    write_folder(photos / "test", dict.fromkeys(CLASSES, 2))
    (photos / "train" / CLASSES[0] / "\x1b[31mbad\n.png").write_bytes(b"\x1b[2J<html>")
    (photos / "train" / CLASSES[1] / "note.\x1b[31m").write_bytes(b"")
    done = command(experiment, "--data", f"folder:{photos}", *SMALL, "--steps", 2, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    assert not obeyed(done.out) and not obeyed(done.err)
    assert "data unreadable: 1 of 41 files, such as " in done.out and r"\x1b[31mbad\n.png" in done.out
    assert r"data ignored: 1 .\x1b[31m files (note.\x1b[31m)" in done.out
    for path in tmp_path.glob("run/**/*.txt"):
        assert not obeyed(path.read_text().replace("\t", " ")), path
    assert r"$\frac{$" in (tmp_path / "run/figures/classes.txt").read_text()  # and no formula in the pictures
    picture = photos / "test" / CLASSES[2] / "000.png"
    done = command("predict", picture, tmp_path / "\x1b[31mnone.png", "--checkpoint", tmp_path / "run", "--top", 5)
    assert done.status == 0 and not obeyed(done.out) and not obeyed(done.err), done.out
    assert len(done.out.strip().splitlines()) == 3 and r"\x1b[2J\x1b[31mred" in done.out
    assert r"\x1b[31mnone.png: No such file or directory" in done.out


def test_an_error(command, tmp_path):
    write_folder(tmp_path / "photos", {"train/a": 4, "train/b": 4, "test/\x1b[31mc\nd": 2})
    done = command("supervised", "--data", f"folder:{tmp_path / 'photos'}", *SMALL, "--run-dir", tmp_path / "run")
    assert not obeyed(done.err) and r"classes that are not in train: \x1b[31mc\nd" in done.complaint
    (tmp_path / "long").mkdir()
    (tmp_path / "long/labels.csv").write_text("file,y\na.png,1\nb.png," + "x" * 100_000 + "\n")
    done = command("supervised", "--data", f"labels:{tmp_path / 'long'}", *SMALL, "--run-dir", tmp_path / "other")
    assert len(done.complaint) < 2100 and " [...] " in done.complaint
