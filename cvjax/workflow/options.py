"""Options from the fields of a configuration: how a command line writes them, and which values they take.

A configuration is a frozen dataclass, and each of its fields an option: `batch_size: int = 256` is `--batch-size INT`.
A field's type is `str`, `int`, `float`, `bool`, `Path` or a `Literal` of words, or a tuple of these, and any of them
may be `| None`. A bool is given as `--name` or `--no-name`, a tuple as several words, and None as the word None.
"""

import dataclasses
import re
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cvjax.errors import ConfigError
from cvjax.spelling import did_you_mean
from cvjax.storage import is_address
from cvjax.workflow.names_elsewhere import unknown_option

_METAVARS = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}
_ALLOWED = {str: "a text", int: "a whole number", float: "a number", Path: "a path on this machine"}


@dataclasses.dataclass(frozen=True)
class Mark:
    """What a field says of its option besides the type: `Annotated[str, Mark(metavar="FORM")]`.

    Attributes:
        help: the text that explains it, in place of the one under the field.
        metavar: what help calls a value.
        positional: its values are given without its name, in the order of such fields. Only the last one may take any
            number of them.
        check: raises a CvjaxError for a value that a command line must not give; before any slow import. A
            configuration that is made in Python is not asked.
    """

    help: str = ""
    metavar: str = ""
    positional: bool = False
    check: Callable[[Any], object] | None = None


Positional = Mark(positional=True)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: the field's.
        kinds: the type of each value; of one value, if there may be any number.
        many: there may be any number of values.
        optional: it may be None.
        mark: what the field's annotation says besides.
        default: the value that it has if it is not given; `dataclasses.MISSING` if it must be given.
    """

    name: str
    kinds: tuple[Any, ...]
    many: bool
    optional: bool
    mark: Mark
    default: Any

    @property
    def flag(self) -> str:
        """How a command line names it."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def opposite(self) -> str:
        """How a command line turns a bool off."""
        return f"--no-{self.name.replace('_', '-')}"

    @property
    def switch(self) -> bool:
        """Whether it is a bool, which has no value."""
        return self.kinds == (bool,)

    @property
    def required(self) -> bool:
        """Whether it must be given; a positional one with any number of values may have none."""
        return self.default is dataclasses.MISSING and not (self.mark.positional and self.many)

    @property
    def metavar(self) -> str:
        """What help writes for its values, such as `FLOAT FLOAT`."""
        if self.switch:
            return ""
        own = self.mark.metavar or (self.name.upper() if self.mark.positional else "")
        values = " ".join(own or (_METAVARS.get(kind) or "|".join(get_args(kind))) for kind in self.kinds)
        return f"{values}..." if self.many else values

    @property
    def allowed(self) -> str:
        """Which values it takes, in words."""
        kind = self.kinds[0]
        one = _ALLOWED.get(kind) or f"one of {', '.join(get_args(kind))}"
        several = f"any number of values, each {one}" if self.many else f"{len(self.kinds)} values, each {one}"
        return (one if len(self.kinds) == 1 and not self.many else several) + ", or None" * self.optional

    def takes_more(self, words: Sequence[str]) -> bool:
        """Whether it may have more values than these."""
        return self.many or len(words) < len(self.kinds)

    def value(self, words: Sequence[str]) -> Any:
        """The value of the field that these words give; ConfigError, or that of `check`, if it does not take them."""
        if self.optional and list(words) == ["None"]:
            return None
        try:
            if not self.many and len(words) != len(self.kinds):
                raise ValueError
            values = tuple(_read(kind, word) for kind, word in zip(self.kinds * len(words), words))
        except ValueError:
            near = did_you_mean(words[-1], get_args(self.kinds[0])) if words else ""
            given = " ".join([self.flag, *words]) + ("" if words else " without a value")
            raise ConfigError(f"{given}: it must be {self.allowed}{near and f'; {near}'}") from None
        value = values if self.many or len(self.kinds) > 1 else values[0]
        if self.mark.check is not None:
            self.mark.check(value)
        return value


def options_of(config: Any) -> list[Option]:
    """The options of a configuration's class, in the order of the fields; of an instance, with its values as defaults.

    Raises TypeError for a field of a type that no option has.
    """
    hints = get_type_hints(config if isinstance(config, type) else type(config), include_extras=True)
    return [_option(field, hints[field.name], field.default if isinstance(config, type) else
                    getattr(config, field.name)) for field in dataclasses.fields(config)]


def _option(field: dataclasses.Field, hint: Any, default: Any) -> Option:
    mark = Mark()
    if get_origin(hint) is Annotated:
        hint, mark = get_args(hint)
    members = set(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else {hint}
    optional = type(None) in members
    kind, *others = members - {type(None)}
    many = get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis
    kinds = tuple(each for each in get_args(kind) if each is not Ellipsis) if get_origin(kind) is tuple else (kind,)
    known = all(each in _ALLOWED or get_origin(each) is Literal for each in kinds) or kinds == (bool,)
    if others or not known or not isinstance(mark, Mark):
        raise TypeError(f"{field.name}: {field.type} is no type of an option")
    return Option(field.name, kinds, many, optional, mark, default)


def _read(kind: Any, word: str) -> Any:
    if kind is Path and is_address(word):  # of which a path would lose a slash
        raise ValueError
    if get_origin(kind) is not Literal:
        return kind(word)
    if word not in get_args(kind):
        raise ValueError
    return word


def read_words(options: Sequence[Option], words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values that a command line gives, by the names of fields, and the words that belong to no option.

    The last one counts of options that are given twice.

    Raises:
        ConfigError: for an unknown option, and for values that an option does not take.
        CvjaxError: from the `check` of an option.
    """
    flags = {flag: option for option in options if not option.mark.positional
             for flag in ([option.flag, option.opposite] if option.switch else [option.flag])}
    values: dict[str, Any] = {}
    loose: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not _is_flag(word):
            loose.append(word)
            continue
        flag, attached, first = word.partition("=")
        flag = flag.replace("_", "-")
        if flag not in flags:
            raise ConfigError(unknown_option(flag, [option.name for option in options if not option.mark.positional]))
        option = flags[flag]
        if option.switch:
            if attached or (waiting and waiting[0].lower() in ("true", "false")):
                raise ConfigError(f"{flag} {first or waiting[0]}: it takes no value; write {option.flag} or "
                                  f"{option.opposite}")
            values[option.name] = flag == option.flag
            continue
        taken = [first] if attached else []
        while waiting and option.takes_more(taken) and not _is_flag(waiting[0]):
            taken.append(waiting.pop(0))
        values[option.name] = option.value(taken)
    for option in options:
        if option.mark.positional and loose:
            taken = loose if option.many else loose[:1]
            values[option.name], loose = option.value(taken), loose[len(taken):]
    return values, loose


def _is_flag(word: str) -> bool:
    """Whether a word names an option: `--seed`, `-s`; not `-1`, `-inf` or `-`."""
    return re.match(r"--?[A-Za-z]", word) is not None and word.lower() not in ("-inf", "-infinity", "-nan")
