"""Reads the text of a compiled program (HLO): its computations, their instructions, and how often each runs."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BITS = {"pred": 8, "s1": 1, "u1": 1, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r"known_trip_count\D*(\d+)")


class Size(NamedTuple):
    """Bytes of an array or a tuple of them, in the device's main memory."""

    exact: float
    padded: float  # with what the layout's tiles add


class Instruction(NamedTuple):
    """An instruction: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def label(self) -> str:
        """The path that JAX gives the operation."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        branches = [name.strip().removeprefix("%") for found in _BRANCHES.findall(self.attributes)
                    for name in found.split(",")]
        return _CALLED.findall(self.attributes) + branches


class Program(NamedTuple):
    """A compiled program."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def running(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that is scheduled by itself, with how often it runs: bodies of loops as often as the
        compiler knows they do (else once), both branches of a condition; not the inside of fusions."""
        runs = collections.Counter({self.entry: 1})
        waiting, seen = [self.entry], {self.entry}
        while waiting:
            name = waiting.pop()
            for instruction in self.computations.get(name, ()):
                if instruction.opcode not in ("while", "call", "conditional", "async-start"):
                    continue
                trips = _TRIPS.search(instruction.attributes) if instruction.opcode == "while" else None
                for called in instruction.called:
                    runs[called] += runs[name] * (int(trips.group(1)) if trips else 1)
                    if called not in seen:
                        seen.add(called)
                        waiting.append(called)
        for name, count in runs.items():
            for instruction in self.computations.get(name, ()):
                yield instruction, count

    def inside(self, instruction: Instruction) -> collections.Counter[str]:
        """Opcodes of a fusion, with those of fusions in it."""
        found: collections.Counter[str] = collections.Counter()
        for name in instruction.called:
            for inner in self.computations.get(name, ()):
                found[inner.opcode] += 1
                if inner.opcode == "fusion":
                    found += self.inside(inner)
        return found


def parse(text: str) -> Program:
    """The program of `compiled.as_text()`. Raises ValueError for a text without an entry."""
    computations: dict[str, list[Instruction]] = {}
    current, entry = None, None
    for line in text.splitlines():
        if not line.startswith(" ") and (head := _HEAD.match(line)):
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif current is not None and (found := _LINE.match(line)):
            shape, rest = _split_shape(found.group(2))
            opcode, _, inner = rest.partition("(")
            end = _closing(inner, 1)
            if re.fullmatch(r"[a-z0-9\-]+", opcode):
                operands = tuple(re.findall(r"%([\w.\-]+)", inner[:end]))
                # The number of a parameter is all that stands in its brackets.
                current.append(Instruction(found.group(1), shape, opcode, operands,
                                           inner if opcode == "parameter" else inner[end:]))
    if entry is None:
        raise ValueError("no ENTRY: this is not the text of a compiled program")
    return Program({name: tuple(found) for name, found in computations.items()}, entry)


def sizes(shape: str) -> Size:
    """Bytes of a shape as HLO writes it, such as `bf16[64,197,768]{2,1,0:T(8,128)(2,1)}`.

    What lies in on-chip memory (`S(1)`) counts nothing.
    """
    exact = padded = 0.0
    for dtype, dims, layout in _SHAPE.findall(shape):
        if re.search(r"S\([15]\)", layout):
            continue
        sides = [int(side.strip("<=")) for side in dims.split(",") if side]
        width = _bits(dtype) / 8
        exact += math.prod(sides) * width
        padded += math.prod(_tiled(sides, layout)) * width
    return Size(exact, padded)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    return int(digits.group()) if digits else 0


def _tiled(sides: list[int], layout: str) -> list[int]:
    """Sides in memory, major to minor, rounded up to the layout's first tile."""
    order, _, rest = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", rest)
    if not tile or not sides:
        return sides
    minor_first = [int(number) for number in order.split(",") if number]
    tile_sides = [int(side) for side in tile.group(1).split(",")]
    inside = [sides[axis] for axis in reversed(minor_first)]
    inside = [1] * (len(tile_sides) - len(inside)) + inside
    for place in range(1, len(tile_sides) + 1):
        inside[-place] = -(-inside[-place] // tile_sides[-place]) * tile_sides[-place]
    return inside


def _split_shape(text: str) -> tuple[str, str]:
    """The shape that an instruction begins with, and the rest."""
    if text.startswith("("):
        end = _closing(text[1:], 1) + 2
        return text[:end], text[end + 1:]
    shape, _, rest = text.partition(" ")
    return shape, rest


def _closing(text: str, depth: int) -> int:
    """Where the bracket closes that is `depth` deep at the beginning of the text."""
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    return len(text)
