"""What `--help` prints: the options that people change first, on one screen; and `--help-all`: all options in full."""

import ast
import dataclasses
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvjax.text import read_text
from cvjax.workflow.options import Option, options_of

HELP, HELP_ALL = ("-h", "--help"), "--help-all"

# What people change first, in this order: `--help` shows these options of a configuration that has more than FEW.
FIRST = ("data", "checkpoint", "teacher", "method", "model", "weights", "pretrained", "freeze", "image_size",
         "crop_size", "canvas", "form", "mask_ratio", "epochs", "steps", "minutes", "batch_size", "optimizer",
         "base_learning_rate", "weight_decay", "validation", "dtype", "workers", "seed", "output", "run_dir",
         "overwrite", "dry_run")
FEW = 22
ROWS = 38  # of a screen of 40, without the command itself and the prompt after it
COLUMN = 30  # where the texts begin


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a command line wants help and nothing else."""
    return not {*HELP, HELP_ALL}.isdisjoint(words)


def help_text(command: str, description: str, config: Any, words: Sequence[str], presets: Sequence[str] = ()) -> str:
    """The help that a command line asks for.

    Args:
        command: how the program is called, such as `python -m experiments.knn`.
        description: the docstring of the module with the options.
        config: a configuration's class, or an instance, whose values are shown as defaults.
        words: the command line.
        presets: names, the default first.
    """
    columns = max(60, min(shutil.get_terminal_size((80, 24)).columns, 120))
    options = options_of(config)
    owner = config if isinstance(config, type) else type(config)
    texts = _texts(owner) | {option.name: option.mark.help for option in options if option.mark.help}
    sections = _sections(owner, options)
    usage = _wrapped(f"usage: {command}{' [PRESET]' * bool(presets)} {_usage(options)}", columns)
    told = [_wrapped(part, columns) for part in textwrap.dedent(description).strip().split("\n\n")]
    names = ", ".join(f"{name} (the default)" if name == presets[0] else name for name in presets)
    named = [_wrapped(f"Presets: {names}.", columns)] * bool(presets)
    if HELP_ALL in words:
        rest = [*named, *(_section(title, within, texts, columns) for title, within in sections)]
    else:
        shown = sections[0][1] if len(options) > FEW else [option for _, within in sections for option in within]
        rest = [*named, "\n".join(_line(option, texts.get(option.name, ""), columns) for option in shown),
                f"{HELP_ALL} explains all {len(options)} options in full."]
        told = _fitting(told, ROWS - _rows([usage, *rest], columns) - 1, columns)
    return "\n\n".join([usage, *told, *rest])


def _usage(options: Sequence[Option]) -> str:
    """What follows a program's name: what may or must be given without and with a name."""
    positional = [option.metavar if option.default is dataclasses.MISSING else f"[{option.metavar}]"
                  for option in options if option.mark.positional]
    needed = [f"{option.flag} {option.metavar}" for option in options if option.required and not option.mark.positional]
    return " ".join([*positional, *needed, "[--option VALUE]..."])


def _fitting(paragraphs: Sequence[str], rows: int, columns: int) -> list[str]:
    """The first paragraph and those others that fit into so many rows; commands go before explanations."""
    chosen = [paragraphs[0]]
    for part in sorted(paragraphs[1:], key=lambda part: not part.startswith(" ")):
        if _rows([*chosen, part], columns) <= rows:
            chosen.append(part)
    return sorted(chosen, key=paragraphs.index)


def _rows(parts: Sequence[str], columns: int) -> int:
    """Rows that these parts take on a screen, with an empty one between them."""
    return sum(max(1, -(-len(line) // columns)) for line in "\n\n".join(parts).splitlines())


def _wrapped(paragraph: str, columns: int) -> str:
    """A paragraph in lines of so many columns; one that is indented, such as commands, as it is."""
    if paragraph.startswith("    "):
        return textwrap.indent(textwrap.dedent(paragraph), "  ")
    return textwrap.fill(" ".join(paragraph.split()), columns, break_on_hyphens=False, break_long_words=False)


def _texts(config: type) -> dict[str, str]:
    """The text under each field of a configuration's class and of the classes that it extends, on one line."""
    texts = {}
    for each in reversed(config.__mro__[:-1]):
        path = getattr(sys.modules[each.__module__], "__file__", None)
        tree = ast.parse(read_text(Path(path))) if path else ast.Module([], [])
        found = next((node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == each.__name__),
                     None)
        for node, after in zip(found.body, found.body[1:]) if found else ():
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(node.target, ast.Name):
                text = after.value.value if isinstance(after.value, ast.Constant) else ""
                texts[node.target.id] = " ".join(str(text).split())
    return texts


def _sections(owner: type, options: Sequence[Option]) -> list[tuple[str, list[Option]]]:
    """The options under headings: what comes first, then those of each class, the configuration's own before others'.

    A heading is what the class says of itself first, and `HEADINGS` of a class has the fields at which others begin.
    """
    titles: dict[str, str] = {}
    order = []
    for each in reversed([each for each in owner.__mro__ if dataclasses.is_dataclass(each)]):
        title = " ".join((each.__doc__ or "").split()).partition(". ")[0]
        title = title.partition(";")[0].rstrip(".")
        order.insert(0, [title])
        for name in each.__dict__.get("__annotations__", {}):
            heading = each.__dict__.get("HEADINGS", {}).get(name)
            if heading:
                order[0].append(title := heading)
            titles.setdefault(name, title)
    needed = [option for option in options if option.mark.positional or option.required]
    first = [*needed, *(option for name in FIRST for option in options if option.name == name and option not in needed)]
    others = [option for option in options if option not in first]
    return [("What people change first", first), *(
        (title, within) for headings in order for title in headings
        if (within := [option for option in others if titles[option.name] == title]))]


def _section(title: str, options: Sequence[Option], texts: dict[str, str], columns: int) -> str:
    return "\n".join([f"{title}:", *(_full(option, texts.get(option.name, ""), columns) for option in options)])


def _default(option: Option) -> str:
    if option.default is dataclasses.MISSING:
        return "needed" if option.required else ""
    if option.switch:
        return "on" if option.default else ""
    values = option.default if isinstance(option.default, tuple) else (option.default,)
    return "" if option.default is None else " ".join(str(value).removesuffix(".0") for value in values)


def _named(option: Option, both: bool) -> str:
    if option.mark.positional:
        return option.metavar
    if option.switch:
        return f"{option.flag}, {option.opposite}" if both or option.default else option.flag
    return f"{option.flag} {option.metavar}"


def _line(option: Option, text: str, columns: int) -> str:
    """An option on one line: the first part of its text, and the value that it has if it is not given."""
    name = _named(option, both=False)
    if len(name) > COLUMN - 4 and "|" in name:  # a long list of words to choose from
        name, text = f"{option.flag} NAME", option.metavar.replace("|", " | ")
    default = _default(option)
    default = f" [{default}]" if 0 < len(default) <= 14 else ""
    start = f"  {name:{COLUMN - 4}}  "
    return f"{start}{_short(text, columns - len(start) - len(default) - 1)}{default}".rstrip()


def _short(text: str, most: int) -> str:
    """The first sentence of a text without what is in parentheses, or as many of its clauses or words as fit."""
    sentence = re.sub(r" \([^()]*\)", "", text).partition(". ")[0].rstrip(".")
    clauses = [sentence[:end.start()] for end in re.finditer(r"[;:] ", sentence)]
    fitting = [sentence] if len(sentence) <= most else [clause for clause in clauses if 20 < len(clause) <= most]
    return fitting[-1] if fitting else textwrap.shorten(sentence, most, placeholder=" ...")


def _full(option: Option, text: str, columns: int) -> str:
    """An option with its whole text, in two columns."""
    if len(_named(option, both=True)) > columns - 2:
        text = f"One of {option.metavar.replace('|', ', ')}. {text}"
    default = _default(option)
    lines = textwrap.wrap(f"{text} (default: {default})" if default else text, columns - COLUMN - 1,
                          break_on_hyphens=False, break_long_words=False)
    name = f"  {_named(option, both=True)}"
    if len(name) > columns:
        name = f"  {option.flag} NAME"
    if len(name) > COLUMN - 2:
        return "\n".join([name, *(f"{'':{COLUMN}}{line}" for line in lines)])
    return "\n".join([f"{name:{COLUMN}}{(lines or [''])[0]}", *(f"{'':{COLUMN}}{line}" for line in lines[1:])]).rstrip()
