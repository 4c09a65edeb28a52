"""One writer at a time in a run's folder: locks of living, dead, distant and quicker processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cvjax.errors import ConfigError
from cvjax.workflow import lock
from cvjax.workflow.lock import FolderLock

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick(monkeypatch):
    """Signs of life in tenths of seconds."""
    monkeypatch.setattr(lock, "EVERY", 0.05)
    monkeypatch.setattr(lock, "EXPIRES", 1.0)


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_behind(folder: Path, number: int = 1, **changed) -> Path:
    """The lock of a process that is gone, or whatever `changed` makes of it."""
    path = folder / f"lock.{number}"
    path.write_text(json.dumps(lock._this_process() | {"since": "then", **changed}))
    return path


ELSEWHERE = dict(machine="another", host="node7", pid=1)


def test_the_second_is_refused_with_process_host_and_time(tmp_path):
    first = FolderLock(tmp_path, "runs/x")
    first.acquire()
    with pytest.raises(ConfigError) as error:
        FolderLock(tmp_path, "runs/x").acquire()
    assert f"runs/x is in use by process {os.getpid()} on {os.uname().nodename} since 20" in str(error.value)
    assert "\n" not in str(error.value) and locks(tmp_path) == ["lock.1"], "the first is unharmed"
    first.release()
    assert locks(tmp_path) == []
    second = FolderLock(tmp_path, "runs/x")
    second.acquire()
    second.release()


@pytest.mark.parametrize("changed", [{"pid": 2**22 + 1}, {"started": "1"}])  # gone; its number is another process's
def test_a_dead_process_of_this_machine_holds_nothing(tmp_path, changed):
    left_behind(tmp_path, **changed)
    mine = FolderLock(tmp_path, "x")
    mine.acquire()
    assert locks(tmp_path) == ["lock.2"]
    mine.release()


def test_a_process_that_was_killed_holds_nothing_at_once(tmp_path):
    code = f"from cvjax.workflow.lock import FolderLock; import time\nfrom pathlib import Path\n" \
           f"FolderLock(Path({str(tmp_path)!r}), 'x').acquire(); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {other.pid} on "):
        FolderLock(tmp_path, "x").acquire()
    other.send_signal(signal.SIGKILL)  # not waited for yet: it is a zombie
    while "Z" not in Path(f"/proc/{other.pid}/stat").read_text():
        time.sleep(0.01)
    mine = FolderLock(tmp_path, "x")
    mine.acquire()
    mine.release()
    other.wait()


def test_a_process_elsewhere_is_dead_after_a_time_without_a_sign(tmp_path, quick, capsys):
    left_behind(tmp_path, **ELSEWHERE)
    mine, start = FolderLock(tmp_path, "x"), time.monotonic()
    mine.acquire()
    assert 0.8 < time.monotonic() - start < 5
    said = capsys.readouterr().err
    assert said.startswith("x is locked by process 1 on node7 since then, on another machine") and said.count("\n") == 1
    mine.release()


def test_a_process_elsewhere_that_moves_is_alive(tmp_path, quick, monkeypatch):
    path, sleep = left_behind(tmp_path, **ELSEWHERE), time.sleep

    def beat(seconds):
        sleep(seconds)
        os.utime(path)

    monkeypatch.setattr(time, "sleep", beat)
    with pytest.raises(ConfigError, match="process 1 on node7 since then"):
        FolderLock(tmp_path, "x").acquire()


def test_the_clock_is_the_folders(tmp_path, quick, monkeypatch):
    """A file server an hour behind: a lock of a second ago by its clock must not look an hour old, nor the reverse."""
    path = left_behind(tmp_path, **ELSEWHERE)
    real = Path.stat

    def stat(self, **options):
        found = real(self, **options)
        return type("Stat", (), {"st_mtime": found.st_mtime - 3600}) if "clock" in self.name else found

    monkeypatch.setattr(Path, "stat", stat)
    now = time.time()
    os.utime(path, (now - 3600, now - 3600))
    start = time.monotonic()
    mine = FolderLock(tmp_path, "x")
    mine.acquire()
    assert time.monotonic() - start > 0.8, "by this machine's clock it was dead at once"
    mine.release()


def test_an_empty_lock_is_that_of_a_process_killed_while_it_wrote(tmp_path, quick):
    (tmp_path / "lock.1").touch()
    mine = FolderLock(tmp_path, "x")
    mine.acquire()
    assert locks(tmp_path) == ["lock.2"]
    mine.release()


RACE = """
import os, sys, time
from pathlib import Path
from cvjax.errors import ConfigError
from cvjax.workflow.lock import FolderLock
folder, count = Path(sys.argv[1]), 24
start = time.time() + 1
look = FolderLock._greatest

def look_together(self):
    seen = look(self)
    time.sleep(max(0, start - time.time()))  # nobody goes on before all have seen the same
    return seen

FolderLock._greatest = look_together
children = []
for i in range(count):
    child = os.fork()
    if child == 0:
        try:
            FolderLock(folder, "x").acquire()
        except ConfigError:
            os._exit(1)
        time.sleep(1)
        os._exit(0)
    children.append(child)
print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children))
"""


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_start_together_exactly_one_gets_it(tmp_path, dead):
    """Also of many that find the same dead lock."""
    if dead:
        left_behind(tmp_path, pid=2**22 + 1)
    done = subprocess.run([sys.executable, "-c", RACE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


TAKEN = """
import sys, time
from pathlib import Path
from cvjax.workflow import lock
lock.EVERY = 0.05
folder = Path(sys.argv[1])
lock.FolderLock(folder, "runs/x").acquire()
time.sleep(0.2)
if sys.argv[2] == "taken":
    (folder / "lock.2").write_text('{"pid": 7, "host": "node7", "since": "noon"}')
else:
    (folder / "lock.1").unlink()
time.sleep(30)
"""


@pytest.mark.parametrize("how, why", [("taken", "now in use by process 7 on node7 since noon"),
                                      ("gone", "gone, or its lock is")])
def test_a_process_whose_lock_was_lost_ends_in_one_line(tmp_path, how, why):
    done = subprocess.run([sys.executable, "-c", TAKEN, str(tmp_path), how], cwd=ROOT, capture_output=True, text=True,
                          timeout=20)
    assert done.returncode == 2
    assert done.stderr == f"\nerror: runs/x is {why}: this process ends, so that no two write there\n"


def test_a_lock_that_a_full_disk_has_no_room_for_does_not_stay(tmp_path, monkeypatch):
    def full(file: int, mode: str):
        os.close(file)
        return open("/dev/full", mode, buffering=0)

    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    monkeypatch.setattr(lock, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        FolderLock(tmp_path, "runs/x").acquire()
    assert locks(tmp_path) == []
    monkeypatch.undo()
    FolderLock(tmp_path, "runs/x").acquire()
