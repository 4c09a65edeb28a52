"""Every parser of our own, on spoilt files: a few here, hundreds with `-m slow`, an hour by `python -m tests.fuzz`."""

import mmap
import sys
import time

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Broken, Target, check, spoilt

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about what is spoilt


def try_many(name: str, count: int, number: int | None = None) -> None:
    """Runs a target on `count` spoilt files: the same ones each time, or others for each `number`."""
    target = TARGETS[name]

    @settings(max_examples=count, deadline=None, derandomize=number is None, database=None,
              suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(target, data.draw(spoilt(target)))

    (run if number is None else seed(number)(run))()


@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_are_read(name):
    for content in TARGETS[name].seeds():
        check(TARGETS[name], content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_spoilt_file_is_read_or_refused_in_one_line(name):
    try_many(name, 20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TARGETS)
def test_hundreds_of_spoilt_files(name):
    try_many(name, 300, 0)


def test_a_parser_that_breaks_its_promise_is_found():
    def refusing(reason: Exception) -> Target:
        def parse(content: bytes) -> None:
            raise reason

        return Target(parse, lambda: [b"a"], errors=(ValueError,))

    check(refusing(ValueError("a line")), b"a")
    for reason in (KeyError("x"), ValueError("a\nb"), ValueError("")):
        with pytest.raises((Broken, KeyError)):
            check(refusing(reason), b"a")
    with pytest.raises(Broken, match="took 0.[0-9] s"):
        check(Target(lambda content: time.sleep(0.1), lambda: [], seconds=0.01), b"")
    if sys.platform == "linux":
        def greedy(content: bytes) -> None:
            """New pages: the allocator may have a hundred megabytes left from tests before."""
            with mmap.mmap(-1, 10**8) as room:
                room[::mmap.PAGESIZE] = b"x" * len(range(0, 10**8, mmap.PAGESIZE))

        with pytest.raises(Broken, match="and [0-9]* MB"):
            check(Target(greedy, lambda: [], megabytes=50), b"")
