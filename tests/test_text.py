"""Text is UTF-8 whatever the locale: the functions by which files are opened, and whole commands under `LC_ALL=C`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cvjax.data.dataset import listed_classes
from cvjax.data.sources import open_dataset
from cvjax.data.sources.file_list import add_labelled_files
from cvjax.errors import DataError
from cvjax.text import name_as_text, open_text, printable, read_text, text_as_name, write_text
from tests.data.pictures import write_folder

ROOT = Path(__file__).parents[1]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_byte_order_mark_is_no_text_and_names_keep_their_bytes(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff猫\r\n犬\n".encode())
    assert read_text(file) == "猫\n犬\n"
    write_text(file, "猫\n\udce9\n")
    assert file.read_bytes() == "猫\n".encode() + b"\xe9\n"
    assert read_text(file, names=True) == "猫\n\udce9\n"
    with pytest.raises(DataError, match=r"a.txt is not UTF-8: byte 0xe9 in line 2; save it as UTF-8$"):
        read_text(file)
    with open_text(file, "a") as more:
        more.write("鳥\r\n")
    assert file.read_bytes().endswith("鳥\r\n".encode())
    assert text_as_name(name_as_text("猫\udce9")) == "猫\udce9"


def test_nothing_that_is_printed_steers_a_terminal():
    assert printable("a\nb\r\tc\x1b[2J\x07\x9b1m\x7f\u2028\u202e\ufeff\udcff") == (
        r"a\nb\r\tc\x1b[2J\x07\x9b1m\x7f\u2028\u202e\ufeff\xff")
    plain = "süß 猫 नमस्ते خانه\u200cها 👩\u200d🚀 <b>$x$</b> \u00a0\\n"
    assert printable(plain) == plain
    assert printable("ab\ncd", most=4) == r"ab [...] cd" and printable("ab\n", most=3) == r"ab\n"
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert printable(every).encode() and not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]",
                                                     printable(every))


def test_lists_with_a_byte_order_mark(tmp_path):
    (tmp_path / "classes.txt").write_bytes("\ufeff猫\n犬\n".encode())
    assert listed_classes(tmp_path) == ("猫", "犬")
    write_folder(tmp_path / "photos", {"猫": 4, "犬": 4})
    (tmp_path / "more.csv").write_bytes(f"\ufefffile,label\r\n{tmp_path / 'photos/猫/000.png'},猫\r\n".encode())
    data = open_dataset(f"folder:{tmp_path / 'photos'}")
    assert len(add_labelled_files(data, str(tmp_path / "more.csv")).train) == len(data.train) + 1


def test_class_names_are_the_same_where_the_locale_is_ascii(tmp_path):
    """In a program that uses the library, which cannot start itself anew in another mode."""
    write_folder(tmp_path / "photos", {"猫": 4, "犬": 4})
    (tmp_path / "more.csv").write_text(f"file,label\n{tmp_path / 'photos/猫/000.png'},猫\n", encoding="utf-8")
    code = ("import json, sys\nfrom cvjax.data.sources import open_dataset\n"
            "from cvjax.data.sources.file_list import add_labelled_files\n"
            f"data = open_dataset('folder:{tmp_path / 'photos'}')\n"
            f"more = add_labelled_files(data, '{tmp_path / 'more.csv'}')\n"
            "print(json.dumps([sys.getfilesystemencoding(), data.class_names, data.fingerprint,"
            " len(more.train[len(data.train)]['image'])]))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | ASCII, capture_output=True,
                          text=True, check=True)
    data = open_dataset(f"folder:{tmp_path / 'photos'}")
    assert json.loads(done.stdout) == ["ascii", list(data.class_names), data.fingerprint,
                                       (tmp_path / "photos/猫/000.png").stat().st_size]


@pytest.fixture(scope="module")
def run(tmp_path_factory, environment, patience):
    """`run(**variables)`: what a short training writes, with these variables of the environment."""
    root = tmp_path_factory.mktemp("動物")
    for part in ("Train", "valid"):
        write_folder(root / "photos" / part, {"猫": 4, "犬": 4, "鳥": 4}, size=8)

    def start(**variables: str):
        folder = root / "run"
        done = subprocess.run(
            [sys.executable, "-m", "experiments.supervised", "digits", "--data", f"folder:{root / 'photos'}",
             "--image-size", "8", "--steps", "1", "--batch-size", "4", "--schedule", "cosine", "--crop-scale", "1", "1",
             "--model", "linear", "--run-dir", str(folder), "--overwrite", "--model-fields"],
            cwd=ROOT, env=environment() | variables, capture_output=True, timeout=patience)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
        summary, table = json.loads(read_text(folder / "summary.json")), read_text(next(folder.rglob("classes.txt")))
        assert all(name in table for name in "猫犬鳥")
        return {"protocol": summary["protocol"], "metrics": summary["metrics"], "table": table,
                "config": read_text(folder / "config.json"), "printed": done.stdout.decode().splitlines()[:2]}

    return start


@pytest.mark.slow
def test_a_run_under_an_ascii_locale_ends(run):
    written = run(**ASCII)
    data, noticed = written["printed"]
    assert "動物" in data and "12 training and 12 test images, 3 classes" in data
    assert noticed.startswith("data noticed: 12 of 12 test pictures are copies of training pictures, such as ")
    assert "/valid/犬/000.png of " in noticed


@pytest.mark.slow
def test_a_run_under_an_ascii_locale_ends_as_under_utf_8(run):
    assert run(**ASCII) == run()
