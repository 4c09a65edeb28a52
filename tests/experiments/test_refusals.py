"""What the system refuses: one line that names the file and the reason, status 2, no traceback."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

import cvjax.text
from cvjax.errors import MissingError, RefusedError
from cvjax.workflow.refusals import refusals

SHORT = ("--steps", 2, "--batch-size", 16, "--width", 16, "--depth", 1, "--heads", 2, "--decoder-width", 16,
         "--decoder-depth", 1, "--decoder-heads", 2, "--log-every", 1)


def train(command, folder: Path, *options):
    return command("mae_pretrain", "--run-dir", folder, *SHORT, *options)


@pytest.fixture
def refused(monkeypatch):
    """`refused("config.json", "w", errno.ENOSPC)`: files whose name begins so cannot be opened in this mode.

    at_once: False for a file that opens, but takes no bytes, as /dev/full does.
    """
    def refuse(name: str, modes: str, number: int, *, at_once: bool) -> None:
        def opened(file, mode="r", *arguments, **options):
            if isinstance(file, str | Path) and Path(file).name.startswith(name) and modes in mode:
                if at_once:
                    raise OSError(number, os.strerror(number), os.fspath(file))
                file = "/dev/full"
            return real(file, mode, *arguments, **options)

        real = open
        monkeypatch.setattr("builtins.open", opened)
        monkeypatch.setattr("io.open", opened)  # pathlib's

    return refuse


@pytest.mark.parametrize("name, mode", [("config.json", "w"), ("metrics.jsonl", "a")])
def test_a_full_disk_is_one_line(command, tmp_path, refused, name, mode):
    refused(name, mode, errno.ENOSPC, at_once=False)
    complaint = train(command, tmp_path / "run").complaint
    assert complaint.startswith(f"error: {tmp_path}/run/{name}") and complaint.endswith(": No space left on device")


@pytest.mark.slow
def test_a_disk_that_is_full_when_results_are_written_is_one_line(command, tmp_path, monkeypatch):
    """Where nothing names the file, the run is named."""
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cvjax.workflow.folder.plot_curves", full)
    np.savez(tmp_path / "grey.npz", train_images=np.zeros((40, 8, 8), np.uint8))  # without labels nothing is probed
    done = train(command, tmp_path / "run", "--data", f"npz:{tmp_path}/grey.npz")
    assert done.complaint == f"error: {tmp_path}/run: No space left on device"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_must_not_be_written_is_one_line(command, tmp_path, refused, number):
    """Root may write everywhere, so that the system is asked to refuse."""
    refused("config.json", "w", number, at_once=True)
    complaint = train(command, tmp_path / "run").complaint
    assert f"{tmp_path}/run/config.json" in complaint and complaint.endswith(f": {os.strerror(number)}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(command, tmp_path):
    tmp_path.chmod(0o555)
    try:
        assert train(command, tmp_path / "run").complaint == f"error: {tmp_path}/run: Permission denied"
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_file_where_a_folder_is_due_is_named(command, tmp_path, below):
    (tmp_path / "runs").write_text("no folder")
    complaint = train(command, tmp_path / "runs" / below).complaint
    assert f"{tmp_path}/runs is a file; it must be a folder or not exist" in complaint


def test_a_name_too_long_is_one_line(command, tmp_path):
    assert train(command, tmp_path / ("x" * 300)).complaint.endswith(": File name too long")


def test_an_output_that_cannot_be_written_is_one_line(command, tmp_path, refused):
    """Of a command that leaves no run folder."""
    for name in ("summary.json", "config.json"):
        (tmp_path / name).write_text('{"experiment": "knn", "metrics": {"knn": 0.5}, "protocol": {}}')
    refused("table.md", "w", errno.ENOSPC, at_once=False)
    complaint = command("compare", tmp_path, "--output", tmp_path / "table").complaint
    assert complaint == f"error: {tmp_path}/table.md: No space left on device"


@pytest.mark.parametrize("error, said", [
    (OSError(errno.ENOSPC, "", "a.txt"), "a.txt: No space left on device"),
    (OSError(errno.ENOSPC, ""), "runs/x: No space left on device"),
    (OSError(errno.EXDEV, "", "a", None, "b"), None),
    (OSError(errno.EACCES, "", "a", None, "b"), "b: Permission denied"),
    (OSError(errno.EACCES, ""), None),  # a socket's, say
    (OSError(errno.ENOENT, "", "a.txt"), None),  # a file that the program should have made
    (MissingError("no such file: s3://a"), None),  # one line already
    (ValueError("a bug"), None)])
def test_only_refusals_of_the_system_are_told_in_one_line(error, said):
    with pytest.raises(type(error) if said is None else RefusedError) as found, refusals("runs/x"):
        raise error
    assert said is None or str(found.value) == said


def test_a_full_disk_is_named_by_what_writes_text(tmp_path, refused):
    refused("a.txt", "w", errno.ENOSPC, at_once=False)
    with pytest.raises(OSError) as error:
        cvjax.text.write_text(tmp_path / "a.txt", "x")
    assert error.value.filename == str(tmp_path / "a.txt")
