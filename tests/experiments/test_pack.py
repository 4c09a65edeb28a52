"""The command that packs images."""

import pytest

from tests.data.pictures import encode, photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for i in range(10):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        (root / "ab"[i % 2] / f"{i}.jpg").write_bytes(encode(photo(40, 50, i), "JPEG"))
    return root


def test_pack(folder, tmp_path, command):
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "a" / "notes.txt").write_text("notes")
    pack = tmp_path / "pack"
    arguments = ("pack", f"folder:{folder}", "--output", pack, "--image-size", 30)
    assert "1 of 11 files cannot be read" in command(*arguments, "--data-max-bad", 0).complaint
    done = command(*arguments)
    assert done.status == 0, done.err
    assert "train: 10 images, " in done.out and "1 .txt files" in done.out and f"--data packed:{pack}" in done.out
    assert f"1 unreadable files are named in {pack / 'bad_files.txt'}" in done.out
    assert "is there already" in command(*arguments).complaint


@pytest.mark.parametrize("arguments, message", [
    (("pack", "digits", "--output", "x"), "cannot pack 'digits': it must be folder:PATH"),
    (("pack", "folder:x", "--output", "y", "--quality", 99), "--quality 99: it must be in [1, 95]"),
    (("pack", "folder:x", "--output", "y", "--image-size", 0), "--image-size 0: it must be at least 1"),
    (("pack", "folder:x", "--output", "y", "--shard-mb", 0), "--shard-mb 0: it must be at least 1"),
    (("pack", "folder:/missing", "--output", "y"), "no such folder: /missing"),
])
def test_mistakes(arguments, message, command):
    assert message in command(*arguments).complaint
