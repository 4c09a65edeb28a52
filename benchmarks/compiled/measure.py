"""Compile programs for targets, each in a process of its own, and report what their compilers say."""

import gzip
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.compiled.config import Config
from benchmarks.compiled.costs import costs
from benchmarks.compiled.hlo import parse
from benchmarks.compiled.report import Row, differences, markdown, text
from benchmarks.compiled.worker import Facts
from cvjax.data.cache import cache_folder
from cvjax.errors import ConfigError
from cvjax.text import read_text, write_text
from cvjax.workflow.absent_devices import Target, missing_compiler, slices
from cvjax.workflow.folder import write_json
from experiments.plan import EXPERIMENTS

ROOT = Path(__file__).parents[2]


def run(config: Config) -> None:
    """Compile one program after the other, print what each costs, and write the report.

    Raises:
        ConfigError: a target or an experiment is unknown, a compiler is not installed, a program cannot be traced, or
            the other checkout is none.
    """
    for target in (slices(name)[0] for name in config.target):
        if needed := missing_compiler(target):
            raise ConfigError(f"the compiler for {target.kind} is not installed: {needed}")
    commands = [shlex.split(program) for program in config.programs]
    for command in commands:
        if not command or command[0] not in EXPERIMENTS:
            raise ConfigError(f"program {' '.join(command)!r}: it must begin with one of {', '.join(EXPERIMENTS)}")
    checkouts = [ROOT] if config.against is None else [ROOT, config.against.resolve()]
    for checkout in checkouts:
        if not (checkout / "experiments/wiring/plan.py").is_file():
            raise ConfigError(f"--against {checkout}: there is no checkout of cvjax")
    cache = config.cache or cache_folder() / "compiled"
    config.output.mkdir(parents=True, exist_ok=True)
    jobs = [(command, name, checkout) for command in commands for name in config.target for checkout in checkouts]
    rows: list[Row] = []
    begin = time.perf_counter()
    for number, (command, name, checkout) in enumerate(jobs, start=1):
        title = f"{' '.join(command)} ({config.mode}) on {name}{'' if checkout == ROOT else f', {checkout.name}'}"
        print(f"[{number}/{len(jobs)}] {title} ...", flush=True)
        rows.append(compile_one(command, name, config.mode, checkout, cache, title))
        print(text(rows[-1], config.top))
        if checkout != ROOT:
            print(differences(rows[-1], rows[-2], config.top))
        elapsed = time.perf_counter() - begin
        left = elapsed / number * (len(jobs) - number)
        print(f"  {elapsed:.0f} s so far{f', about {left:.0f} s left' if number < len(jobs) else ''}", flush=True)
        write_json(config.output / "compiled.json", [_as_json(row) for row in rows])
        write_text(config.output / "compiled.md", markdown(rows))
    print(f"written to {config.output}/compiled.json and .md")


def compile_one(command: list[str], target: str, mode: str, checkout: Path, cache: Path, title: str) -> Row:
    """Compile one program, or take it from the cache."""
    worker = [sys.executable, str(Path(__file__).with_name("worker.py")), target, mode, str(checkout),
              str(cache.resolve()), *command]
    done = subprocess.run(worker, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise ConfigError(f"{title}: {said[-1].removeprefix('cvjax.errors.ConfigError: ')}")
    path = Path(done.stdout.splitlines()[-1])
    facts = Facts(**json.loads(read_text(path)))
    kinds, names = {}, {}
    if facts.error is None:
        kinds, names = costs(parse(gzip.decompress(path.with_suffix(".hlo.gz").read_bytes()).decode()))
    return Row(title, Target(*facts.target), facts, kinds, names)


def _as_json(row: Row) -> dict[str, Any]:
    return {"program": row.title, "target": row.target._asdict(), "facts": row.facts._asdict(),
            "kinds": {kind: cost._asdict() for kind, cost in row.kinds.items()}}
