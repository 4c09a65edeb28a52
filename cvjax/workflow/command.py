"""The command line: it parses options, imports the code that does the work, and reports expected errors in one line.

Options and their help import quickly. The libraries that do the work take seconds to import, so they are imported only
after the options are parsed. This file is the one place that imports late.
"""

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cvjax.errors import ConfigError, CvjaxError, ProcessError, TrainingError
from cvjax.spelling import did_you_mean
from cvjax.text import open_text, printable
from cvjax.train.preemption import Stopped, StopRequest
from cvjax.workflow.allocator import keep_freed_memory
from cvjax.workflow.config import FREE, PLACE, TrainingConfig, as_json, with_flags
from cvjax.workflow.help import asks_for_help, help_text
from cvjax.workflow.menu import called, show
from cvjax.workflow.options import options_of, read_words
from cvjax.workflow.refusals import refusals

LONGEST_NAME = 80  # bytes of a run's name: short enough for a table, and for every file system


def main(options: str, wiring: str) -> None:
    """Run an experiment: `[PRESET] [--field value]...` from the command line, into a run folder.

    options: the module with `Config`, `PRESETS` and a docstring. wiring: the module whose `run(config, folder, stop)`
    does the work; it is not called for a run that is complete already.
    An expected error prints one line and exits with status 2. A run that is stopped before its end, saved or not, exits
    with 130 after Ctrl-C and with 143 after SIGTERM.
    """
    _speak_utf8()
    stop = StopRequest("; the same command goes on from the last checkpoint, if there is one").install()
    module = importlib.import_module(options)
    experiment = _short_name(options)
    with _told_in_one_line():
        config, name = parse(options, module.Config, module.PRESETS, module.__doc__ or "")
        started = how_started(options, config, module.PRESETS)
    if config.dry_run and getattr(config, "parallel", "jit") == "pmap":
        print("a dry run shows what --parallel jit would do")
        config = dataclasses.replace(config, parallel="jit")

    def body() -> None:
        folder_module = importlib.import_module("cvjax.workflow.folder")
        work = importlib.import_module(wiring)
        importlib.import_module("cvjax.workflow.training").enable_compilation_cache()
        with stop.closing(), folder_module.RunFolder(config, experiment, name, started=started) as folder:
            if not folder.finished():
                work.run(config, folder, stop)

    _start(body, stop, config.run_dir or f"runs/{experiment}/{name}", config)


def command(options: str, wiring: str, arguments: Sequence[str] | None = None, **fixed: Any) -> None:
    """Run a command that has no presets; its arguments may be positional, and what it writes is its own affair.

    options: the module with `Config` and a docstring. wiring: the module whose `run(config, **fixed)` does the work.
    arguments: those of the command line, by default all.
    """
    _speak_utf8()
    stop = StopRequest().install()
    module = importlib.import_module(options)
    words = sys.argv[1:] if arguments is None else arguments
    with _told_in_one_line():
        config = _configure(options, module.Config, module.__doc__ or "", words)

    def body() -> None:
        work = importlib.import_module(wiring)
        with stop.closing():
            work.run(config, **fixed)

    _start(body, stop, str(getattr(config, "output", "a file")))


def _speak_utf8() -> None:
    """Start this process again in Python's UTF-8 mode (PEP 540) if the locale has another encoding.

    Otherwise names of files, arguments, what is printed, and what libraries write would be in the locale's, and a run
    could not be resumed under another one. `cvjax.text` itself needs no such mode.
    """
    if sys.getfilesystemencoding().lower() != "utf-8" and hasattr(sys.modules["__main__"], "__file__"):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def parse(options: str, config: type, presets: Mapping[str, Mapping[str, Any]], description: str,
          arguments: Sequence[str] | None = None) -> tuple[Any, str]:
    """The configuration that a command line asks for, and a name for its run: the preset and the changed fields.

    options: the module that is run. The first preset is the default. Prints and exits for `--help`; ConfigError for
    mistakes.
    """
    preset, words = _preset_of(presets, arguments)
    if asks_for_help(words):
        show(help_text(_prog(options), description, config(**presets[preset]), words, list(presets)))
        sys.exit()
    base, given = _given(config, presets, preset, words)
    parsed = dataclasses.replace(base, **given)
    return parsed, _run_name(preset, base, parsed)


def how_started(options: str, parsed: Any, presets: Mapping[str, Mapping[str, Any]],
                arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """How a run is started, as JSON: what follows `python -m` to resume it, the preset, and what differs from it.

    Returns `{"arguments": [...], "preset": NAME, "changed": {field: [value of the preset, value of the run]}}`. Fields
    that say where a run is written are left out of the latter.
    """
    preset, words = _preset_of(presets, arguments)
    base, _ = _given(type(parsed), presets, preset, words)
    before, now = as_json(base), as_json(parsed)
    given = sys.argv[1:] if arguments is None else arguments
    return {"arguments": [options, *(word for word in given if word != "--overwrite")], "preset": preset,
            "changed": {name: [before[name], now[name]] for name in now if before[name] != now[name]}}


def _preset_of(presets: Mapping[str, Mapping[str, Any]], arguments: Sequence[str] | None) -> tuple[str, list[str]]:
    """The name of the preset that a command line asks for, and its other words."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        return next(iter(presets)), words
    preset, *words = words
    if preset not in presets:
        otherwise = f"it must be one of {', '.join(presets)}"
        hint = f"did you mean --data {preset}?" if ":" in preset else did_you_mean(preset, presets, otherwise)
        raise ConfigError(f"unknown preset {preset!r}: {hint}")
    return preset, words


def _given(config: type, presets: Mapping[str, Mapping[str, Any]], preset: str, words: Sequence[str]
           ) -> tuple[Any, dict[str, Any]]:
    """The configuration of a preset, and the fields that a command line changes."""
    base = config(**presets[preset])
    given, loose = read_words(options_of(config), words)
    if loose and loose[0] in presets:
        raise ConfigError(f"{loose[0]!r}: the preset comes before all options")
    _refuse(loose)
    lengths = [name for name in ("steps", "epochs", "minutes") if name in given]
    if len(lengths) > 1:
        raise ConfigError(f"--{lengths[0]} and --{lengths[1]} both given: give one of them")
    if lengths and lengths != ["steps"] and getattr(base, "steps", None):  # they replace a preset's steps
        base = dataclasses.replace(base, steps=None)
    return base, given


def _configure(options: str, config: type, description: str, arguments: Sequence[str]) -> Any:
    """The configuration of a command without presets; prints and exits for `--help`."""
    if asks_for_help(arguments):
        show(help_text(_prog(options), description, config, arguments))
        sys.exit()
    known = options_of(config)
    given, loose = read_words(known, arguments)
    _refuse(loose)
    for option in known:
        if option.required and option.name not in given:
            raise ConfigError(f"{option.metavar if option.mark.positional else f'{option.flag} {option.metavar}'} must "
                              "be given; --help explains it")
    return config(**{option.name: () for option in known if option.mark.positional and option.many
                     and option.default is dataclasses.MISSING} | given)


def _refuse(loose: Sequence[str]) -> None:
    if loose:
        raise ConfigError(f"{loose[0]!r} is one word too many: it belongs to no option")


def _short_name(options: str) -> str:
    return options.removesuffix(".config").split(".")[-1]


def _prog(options: str) -> str:
    return called(options.removesuffix(".config"))


def _run_name(preset: str, base: Any, parsed: Any) -> str:
    """`digits`, or `digits-seed=1-no-flip` when fields were changed, in the words of the command line."""
    changed = [f.name for f in dataclasses.fields(base) if f.name not in PLACE and f.name not in FREE
               and getattr(base, f.name) != getattr(parsed, f.name)]
    return name_from("-".join([preset, *(_in_words(name, getattr(parsed, name)) for name in changed)]))


def name_from(whole: str) -> str:
    """A text as the name of a run's folder. A long name is cut, and ends in a hash of the whole."""
    name = "".join(c if c.isalnum() or c in "-_.,=" else "_" for c in whole)
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(whole.encode(errors="surrogateescape"), digest_size=5).hexdigest()
    kept = name.encode()[:LONGEST_NAME - len(digest) - 1].decode(errors="ignore")
    return f"{kept.rstrip('-_.,=')}-{digest}"


def _in_words(name: str, value: Any) -> str:
    """A field as a person gives it: `seed=1`, `data-cache`, `no-flip`, `crop_scale=0.5,1`, `ema_decay=none`."""
    if isinstance(value, bool):
        return ("" if value else "no-") + name.replace("_", "-")

    def word(value: Any) -> str:
        if isinstance(value, tuple | list):
            return ",".join(map(word, value))
        return str(value).lower() if value is None or isinstance(value, bool) else str(value).removesuffix(".0")

    return f"{name}={word(value)}"


def _start(body: Callable[[], None], stop: StopRequest, place: str, config: Any = None) -> None:
    """Call `body` with everything a process needs around it.

    place: where it writes, for what the system refuses without saying which file it was.
    config: that of an experiment, None for a command. A training may run in several processes, which must end together:
    none of them may leave while the others still wait for it.
    """
    keep_freed_memory()  # before jax starts its threads
    # Libraries and a traced step are a million small objects that stay. Searching them for garbage again and again
    # takes a sixth of the start-up time.
    gc.set_threshold(100_000, 20, 100)
    jax = importlib.import_module("jax")
    processes = importlib.import_module("cvjax.train.processes")
    try:
        with contextlib.ExitStack() as stack:
            if isinstance(config, TrainingConfig):
                processes.join(config.coordinator_address, config.num_processes, config.process_id,
                               timeout=config.coordinator_timeout)
                if not processes.is_first():  # the first one speaks for all
                    stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open_text(os.devnull, "w"))))
            elif config is not None and (launcher := processes.launcher()) in ("Slurm", "Open MPI"):
                raise ProcessError(f"{launcher} started several processes, but this experiment runs in one process: "
                                   "all of them would write the same folder")
            stack.enter_context(refusals(place))
            body()
    except Stopped as saved:
        print(f"{saved}; the same command resumes", file=sys.stderr)
        processes.leave(stop.leave(), together=True)
        sys.exit(stop.status)
    except SystemExit as ended:
        processes.leave(ended.code if isinstance(ended.code, int) else 1, together=False)
        raise
    except CvjaxError as error:
        processes.leave(stop.leave(_complain(error)), together=False)
        sys.exit(stop.status)
    except BaseException as error:
        if jax.process_count() > 1:
            if isinstance(error, jax.errors.JaxRuntimeError):
                processes.wait_to_be_ended()
            traceback.print_exc()
            processes.leave(1, together=False)
        raise
    processes.leave(stop.leave(0), together=True)


@contextlib.contextmanager
def _told_in_one_line() -> Iterator[None]:
    try:
        yield
    except CvjaxError as error:
        sys.exit(_complain(error))


def _complain(error: Exception) -> int:
    message = str(error)
    if isinstance(error, ProcessError | TrainingError):  # raised where no command line is known
        message = with_flags(message)
    print(f"error: {printable(message, most=2000)}", file=sys.stderr)
    return 2
