"""Fuzzes every parser of our own for as long as it is told: `python -m tests.fuzz --minutes 60`.

Inputs are made by Hypothesis, by other seeds in each round; with `--atheris` (pip install atheris) by atheris, which
follows the branches that are taken. What breaks a promise is printed; what atheris finds lies in `--found`.
"""

import argparse
import contextlib
import subprocess
import sys
import time
import traceback
from pathlib import Path

watched = contextlib.nullcontext()
if "--atheris" in sys.argv:  # which sees the branches of what is imported under its eyes
    import atheris

    watched = atheris.instrument_imports(include=["cvjax.data", "cvjax.interop", "tarfile", "pickle", "zipfile"])
with watched:
    from tests.fuzz.targets import TARGETS, check
    from tests.fuzz.test_parsers import try_many

_ROUND = 500  # inputs for each target


def main() -> int:
    """The number of targets that broke their promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="in all (default: 60)")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="NAME",
                        help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: 0)")
    parser.add_argument("--atheris", action="store_true", help="inputs by atheris, each target in a process of its own")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where atheris puts inputs that break")
    given = parser.parse_args()
    if given.atheris and len(given.targets) > 1:
        return _each_in_its_process(given)
    return _by_atheris(given) if given.atheris else _by_hypothesis(given)


def _by_hypothesis(given: argparse.Namespace) -> int:
    end, number, tried = time.monotonic() + 60 * given.minutes, given.seed, dict.fromkeys(given.targets, 0)
    broken: dict[str, int] = {}
    while time.monotonic() < end and len(broken) < len(tried):
        for name in [name for name in tried if name not in broken]:
            if time.monotonic() >= end:
                break
            try:
                try_many(name, _ROUND, number)
                tried[name] += _ROUND
            except Exception:
                broken[name] = number
                print(f"{name} breaks in round {number}:")
                traceback.print_exc()
        number += 1
    for name, count in tried.items():
        print(f"{name}: {count:,} inputs{f', broken in round {broken[name]}' if name in broken else ''}")
    return len(broken)


def _each_in_its_process(given: argparse.Namespace) -> int:
    minutes, broken = given.minutes / len(given.targets), 0
    for name in given.targets:
        done = subprocess.run([sys.executable, "-m", "tests.fuzz", "--atheris", "--targets", name, "--minutes",
                               str(minutes), "--found", str(given.found)], check=False)
        broken += done.returncode != 0
        print(f"{name}: {'kept its promise' if done.returncode == 0 else f'broken, see {given.found}/{name}'}")
    return broken


def _by_atheris(given: argparse.Namespace) -> int:
    (name,) = given.targets
    target, corpus = TARGETS[name], given.found / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(content)
    words = given.found / name / "words"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words))
    atheris.Setup([sys.argv[0], f"-max_total_time={max(1, int(60 * given.minutes))}", f"-dict={words}",
                   "-rss_limit_mb=0", f"-artifact_prefix={given.found / name}/", "-print_final_stats=1", str(corpus)],
                  lambda content: check(target, content))
    atheris.Fuzz()  # ends the process
    return 1


if __name__ == "__main__":
    sys.exit(main())
