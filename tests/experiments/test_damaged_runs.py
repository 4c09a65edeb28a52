"""A run's own files, damaged or edited: one line names the file, what is wrong with it and what to do."""

import dataclasses
import json
import shutil

import pytest

from cvjax.errors import ConfigError
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.run_files import read_config
from experiments.mae_pretrain import PRESETS, Config
from tests.test_power_cut import TINY


@pytest.fixture
def opened(tmp_path):
    """`opened()`: the folder of one run, begun as the run itself does; `opened.path` is where it lies."""
    def open_run(**changed) -> RunFolder:
        config = dataclasses.replace(Config(**PRESETS["digits"], run_dir=str(tmp_path / "run")), **changed)
        with RunFolder(config, "mae_pretrain", "digits") as folder:
            folder.begin()
        return folder

    open_run.path = tmp_path / "run"
    open_run()
    return open_run


def complaint(opened, **changed) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(**changed)
    text = str(caught.value)
    assert "\n" not in text and str(opened.path) in text
    return text


WHOLE = json.dumps({"experiment": "mae_pretrain"}).encode()
UNREADABLE = {
    b"": "is empty",
    b" \n": "is empty",
    bytes(4096): "is empty",
    b'{"experiment": "mae_pre': "is cut off or not JSON (line 1, column 16: ",
    WHOLE + b"}": "is cut off or not JSON (line 1, column 31: ",
    b'{\n"a": 1,\n}': "is cut off or not JSON (line 3, column 1: ",
    b'{"a": "\xff"}': "is not JSON (config.json is not UTF-8: byte 0xff in line 1",
    b"[" * 100_000: "is not JSON (",
    b"[1]": "is not a JSON object",
    b"null": "is not a JSON object",
    b"{}": "is not the configuration of a run: it names no experiment",
    b'{"experiment": 3}': "is not the configuration of a run: it names no experiment",
}


@pytest.mark.parametrize("content", UNREADABLE, ids=lambda content: repr(content[:12]))
def test_a_configuration_that_cannot_be_read_is_one_line_and_stays(opened, content):
    path = opened.path / "config.json"
    path.write_bytes(content)
    text = complaint(opened)
    assert f"{path} {UNREADABLE[content]}" in text
    assert text.endswith("put a copy of it back, give another --run-dir, or --overwrite to delete the run")
    assert path.read_bytes() == content and not list(opened.path.glob("*.partial"))
    opened(overwrite=True)
    assert read_config(opened.path)["experiment"] == "mae_pretrain"


def edited(opened, **fields) -> None:
    path = opened.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_fields_of_another_version_are_named(opened):
    edited(opened, of_tomorrow=3, warmth=None)
    text = complaint(opened)
    assert "config.json has fields that this version does not know (of_tomorrow, warmth)" in text
    assert "resume with that version" in text and "--overwrite" in text


def test_a_field_that_is_missing_is_said_to_be_and_another_value_is_as_before(opened):
    path = opened.path / "config.json"
    content = json.loads(path.read_text())
    del content["mask_ratio"]
    path.write_text(json.dumps(content | {"seed": "0"}))
    assert "another configuration (mask_ratio was not there, is now 0.6; seed was '0', is now 0)" in complaint(opened)


def test_another_experiment_is_another_configuration_not_another_version(opened):
    edited(opened, experiment="knn", k=20)
    text = complaint(opened)
    assert "experiment was 'knn', is now 'mae_pretrain'" in text and "k was 20" in text and "version" not in text


@pytest.mark.parametrize("content", [b"", bytes(100), b'{"metrics": {"a": 1', b"[]", b"{}", b'{"metrics": {"a": "b"}}'])
def test_a_run_with_a_damaged_summary_is_not_complete_and_says_so(opened, capsys, content):
    (opened.path / "summary.json").write_bytes(content)
    capsys.readouterr()
    folder = opened()
    said, = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{opened.path}/summary.json ") and said.endswith(
        "the run is finished again; the file is now summary.json.damaged")
    assert folder.summary is None and not folder.finished()
    assert (opened.path / "summary.json.damaged").read_bytes() == content
    folder.finish({"test/top1": 0.5}, {})
    assert opened().finished()


def test_the_file_is_named_as_the_folder_was(opened, monkeypatch):
    (opened.path / "config.json").write_bytes(b"{}")
    monkeypatch.chdir(opened.path.parent)
    for place in ("run", "./run", "run/"):
        with pytest.raises(ConfigError) as caught:
            opened(run_dir=place)
        assert str(caught.value).startswith(f"{place.rstrip('/')}/config.json is not the configuration of a run: ")


def test_what_a_killed_process_was_writing_goes_when_the_run_is_opened(opened):
    (opened.path / "config.json.123.partial").write_bytes(b'{"exp')
    opened()
    assert not list(opened.path.glob("*.partial"))
    shutil.rmtree(opened.path)
    opened.path.mkdir()
    (opened.path / "config.json.123.partial").write_bytes(b"")  # killed at its very first file
    opened()
    assert sorted(path.name for path in opened.path.iterdir()) == ["config.json", "figures"]


@pytest.mark.slow
def test_a_training_with_damaged_files_ends_with_the_same_numbers(command, tmp_path):
    run = tmp_path / "run"
    assert command(*TINY, "--run-dir", run).status == 0
    before = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_bytes(b"")
    lines = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(b"garbage\n" + lines)
    again = command(*TINY, "--run-dir", run)
    assert again.status == 0 and f"resuming {run} at step 30 of 30" in again.out
    assert "summary.json is empty: the run is finished again" in again.out
    assert "metrics.jsonl was damaged, 1 line of 7 bytes after step 0 dropped" in again.out
    after = json.loads((run / "summary.json").read_text())
    assert [after[key] for key in ("metrics", "params_sha256")] == [before[key] for key in ("metrics", "params_sha256")]
    assert (run / "metrics.jsonl").read_bytes() == lines

    (run / "summary.json").unlink()
    (run / "metrics.jsonl").unlink()  # nothing to draw curves from
    again = command(*TINY, "--run-dir", run)
    assert again.status == 0 and "metrics.jsonl is empty: lines up to step 30 are missing" in again.out
    assert "no curves are drawn" in again.out
    shutil.rmtree(run / "checkpoints")
    (run / "config.json").write_bytes(b"")
    assert f"{run}/config.json is empty" in command(*TINY, "--run-dir", run).complaint
