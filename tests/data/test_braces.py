"""Names in braces stand for what bash makes of them."""

import shutil
import subprocess

import pytest

from cvjax.data.braces import expand
from cvjax.errors import DataError

PATTERNS = [
    "a.tar", "train-{000..012}.tar", "{a,b}-{0..2}", "{x,y{1..3},z}", "{3..1}", "{train-{00..01},val-{0..1}}.tar",
    "{1..10..3}", "{09..11}", "{-1..2}", "{a..e}", "{e..a..2}", "{one}", "{}", "p{a,}q", "{{1..2},{3..4}}",
    "{a{1..2}}", "{1..2,x}", "{a..3}", "{01..3}x{0,1}", "{-01..1}", "{5..5}"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is the independent implementation")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bash_has_the_same_names(pattern):
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand(pattern) == said.stdout.splitlines()


def test_a_hundred_shards():
    assert expand("s3://b/train-{000..099}.tar") == [f"s3://b/train-{n:03}.tar" for n in range(100)]


@pytest.mark.parametrize("pattern", ["a{1..2", "a}b", "{a,{b}", "{a,b}}"])
def test_a_brace_without_its_other_one_is_refused(pattern):
    with pytest.raises(DataError, match="a brace has no other one"):
        expand(pattern)


def test_a_name_that_is_there_twice_is_refused():
    with pytest.raises(DataError, match="names a1 twice"):
        expand("a{1,2,1}")
