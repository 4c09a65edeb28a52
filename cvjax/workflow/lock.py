"""One writer at a time in a folder: a file `lock.N` that names the process which writes there.

The lock with the greatest number counts. Only one process can make the file of the next number, so that of many which
start together, or which find the same dead lock, one gets it. Its file's time moves every `EVERY` seconds. It is dead

- at once, if its process was on this machine and is gone;
- if it has not moved for `EXPIRES` seconds, if its process was elsewhere: on another machine that shares the folder, in
  another container, or before this machine started again. The folder's own clock counts, not that of a machine.

A process whose lock was taken over, or deleted with the folder, ends as soon as it sees that.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cvjax.errors import ConfigError

EVERY = 10.0  # seconds between two signs of life
EXPIRES = 120.0  # seconds without one after which a process elsewhere is dead; it may pause for as long

_NAME = re.compile(r"lock\.(\d+)")


def is_lock(name: str) -> bool:
    """Whether a file of a folder is there for its lock."""
    return name.startswith("lock.")


class FolderLock:
    """The lock of an existing folder on a disk; `place` names the folder in messages."""

    def __init__(self, folder: Path, place: str) -> None:
        self.folder, self.place = folder, place
        self._number: int | None = None
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock; waits for `EVERY` seconds to see whether a process elsewhere is alive, `EXPIRES` if it is not.

        Raises:
            ConfigError: if another process has it.
            OSError: if the folder cannot be written.
        """
        content = json.dumps(_this_process() | {"since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")}).encode()
        while True:
            before = self._greatest()
            if before and not self._is_dead(before):
                raise ConfigError(f"{self.place} is in use by {_said(self._owner(before))}: wait for its end or stop "
                                  "it, or give another --run-dir")
            try:
                file = os.open(self._path(before + 1), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                continue  # another one was quicker
            try:
                with open(file, "wb") as opened:
                    opened.write(content)
            except OSError:  # a full disk: a lock that names nobody would be waited for
                self._path(before + 1).unlink(missing_ok=True)
                raise
            if self._greatest() == before + 1:
                break
            self._path(before + 1).unlink(missing_ok=True)  # what was seen above is long gone
        self._number = before + 1
        for number in self._numbers():
            if number < self._number:
                self._path(number).unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._beat, daemon=True, name="folder lock")
        self._thread.start()

    def release(self) -> None:
        """Give the lock back; does nothing without one."""
        if self._number is None or self._thread is None:
            return
        self._released.set()
        self._thread.join(EVERY)  # no longer: the file system may not answer
        with contextlib.suppress(OSError):  # what stays is dead with this process
            self._path(self._number).unlink(missing_ok=True)
        self._number = None

    def _beat(self) -> None:
        while not self._released.wait(EVERY):
            try:
                os.utime(self._path(self._number))
                taken = self._greatest() != self._number
            except FileNotFoundError:
                taken = True
            except OSError:  # the file system does not answer; if that lasts, another process takes the lock
                continue
            if taken and not self._released.is_set():
                self._end()

    def _end(self) -> None:
        """End this process at once: whatever it still did, it would do in the folder of another."""
        number = self._greatest()
        why = f"now in use by {_said(self._owner(number))}" if number else "gone, or its lock is"
        print(f"\nerror: {self.place} is {why}: this process ends, so that no two write there", file=sys.stderr,
              flush=True)
        os._exit(2)

    def _is_dead(self, number: int) -> bool:
        """Whether the process of a lock is gone; if only time can tell, waits for a sign of life."""
        owner, mine = self._owner(number), _this_process()
        if owner and owner.get("machine") == mine["machine"] is not None:
            return not _is_alive(owner["pid"], owner["started"])
        seen, told = self._moved(number), False
        while seen is not None and self._moved(number) == seen:
            silent = self._now() - seen
            if silent >= EXPIRES:
                return True
            if not told:
                print(f"{self.place} is locked by {_said(owner)}, on another machine or in another container; waiting "
                      f"up to {EXPIRES - silent:.0f} s for a sign of life", file=sys.stderr, flush=True)
                told = True
            time.sleep(min(1.0, EVERY / 4))
        return self._greatest() != number  # it was released, or lives

    def _owner(self, number: int) -> dict[str, Any]:
        """What a lock says; {} for one that was killed before it said anything."""
        until = time.monotonic() + 1
        while time.monotonic() < until:  # it may be a file that is being written
            try:
                return dict(json.loads(self._path(number).read_bytes()))
            except FileNotFoundError:
                break
            except ValueError:
                time.sleep(0.02)
        return {}

    def _moved(self, number: int) -> float | None:
        """The time of a lock by the folder's clock; None if it is gone."""
        try:
            with open(self._path(number), "rb") as file:  # NFS asks its server when a file is opened
                return os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None

    def _now(self) -> float:
        """The folder's clock, which need not be this machine's."""
        probe = self.folder / f"lock.clock-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        return sorted(int(found[1]) for name in os.listdir(self.folder) if (found := _NAME.fullmatch(name)))

    def _greatest(self) -> int:
        """The number of the lock that counts; 0 for none."""
        with contextlib.suppress(FileNotFoundError):
            return max(self._numbers(), default=0)
        return 0

    def _path(self, number: int | None) -> Path:
        return self.folder / f"lock.{number}"


def _said(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"


def _this_process() -> dict[str, Any]:
    """Who this is. machine: equal for processes that see each other by number: of one start of one machine, and of one
    container; None where that is unknown."""
    machine = None
    with contextlib.suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()
        machine = f"{start} {os.readlink('/proc/self/ns/pid')}"
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_of(os.getpid()), "machine": machine}


def _is_alive(pid: int, started: str | None) -> bool:
    """Whether a process of this machine, which started at that time, is there; its number may have gone to another."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return _start_of(pid) in (started, None)


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; "" for one that has ended, None if it cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]
