"""Freed memory is kept: pages that arrays live in are asked of the system once."""

import platform

import pytest

FAULTS = """
import json, resource, threading
from cvjax.workflow.allocator import keep_freed_memory

kept = keep_freed_memory() if {keep} else None
def fill():
    for _ in range(6):
        b"x" * 2**26
fill()
thread = threading.Thread(target=fill)  # a thread's heap, by itself, would be too small for it
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread.start(), thread.join()
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not GNU's")
def test_pages_of_freed_arrays_are_used_again(python):
    """64 MiB, more than the default ever keeps, are 16,384 pages of 4 KiB; six times, or once."""
    kept, faults = python(FAULTS.format(keep=True))
    assert kept is True and faults < 2 * 16384
    assert python(FAULTS.format(keep=False))[1] > 5 * 16384


def test_another_c_library_is_left_alone(monkeypatch):
    from cvjax.workflow import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert allocator.keep_freed_memory() is False
