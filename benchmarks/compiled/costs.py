"""Where a compiled program's time and bytes go."""

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.compiled.hlo import Instruction, Program, sizes

# No work of their own: they name values, or end what another instruction began.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
         "while", "call", "conditional", "copy-done", "slice-done", "async-start", "async-done", "all-reduce-done",
         "all-gather-done", "collective-permute-done", "send-done", "recv-done", "opt-barrier"}
_COLLECTIVE = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_MOVING = {"parameter", "copy", "transpose", "bitcast", "reshape", "convert", "tuple", "slice", "constant", "fusion",
           "pad", "concatenate", "broadcast"}
PRODUCTS, ATTENTION, MOVED, TRAFFIC = "products", "fused attention", "copies", "between devices"


class Cost(NamedTuple):
    """What instructions of one kind, or of one name, cost in a run of the program."""

    count: int
    read: float  # bytes of the main memory
    written: float  # bytes, padding included
    padding: float  # bytes of the written ones that no number lies in
    cycles: int  # the TPU compiler's estimate

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]: not a tuple's
        return Cost(*(one + two for one, two in zip(self, other)))

    @property
    def bytes(self) -> float:
        return self.read + self.written


NOTHING = Cost(0, 0, 0, 0, 0)


def costs(program: Program) -> tuple[dict[str, Cost], dict[tuple[str, str], Cost]]:
    """By kind, and by (kind, the model's own name); copies of one layer in several blocks count together."""
    kinds: dict[str, Cost] = collections.defaultdict(lambda: NOTHING)
    names: dict[tuple[str, str], Cost] = collections.defaultdict(lambda: NOTHING)
    for kind, instruction, cost in instruction_costs(program):
        kinds[kind] += cost
        names[kind, short(instruction.label)] += cost
    return dict(kinds), dict(names)


def instruction_costs(program: Program) -> Iterator[tuple[str, Instruction, Cost]]:
    """(kind, instruction, what it costs in a run) of all that work."""
    shapes = {instruction.name: instruction.shape for found in program.computations.values() for instruction in found}
    for instruction, count in program.running():
        if instruction.opcode in _FREE:
            continue
        output = sizes(instruction.shape)
        read = _read(program, instruction, shapes)
        if instruction.opcode in ("copy-start", "slice-start"):  # source and destination are parts of its output
            read, output = output.padded / 2, sizes("")
        found = re.search(r'estimated_cycles":"(\d+)"', instruction.attributes)
        cycles = int(found.group(1)) if found else 0
        if cycles > 10**13:  # the compiler's way to say that it does not know
            cycles = 0
        yield kind_of(program, instruction), instruction, Cost(
            count, count * read, count * output.padded, count * (output.padded - output.exact), count * cycles)


def _read(program: Program, instruction: Instruction, shapes: dict[str, str]) -> float:
    """Bytes of the operands; of one that a fusion only slices or gathers from, as many as it takes."""
    taken: dict[int, float] = {}
    if instruction.opcode == "fusion" and instruction.called:
        body = program.computations.get(instruction.called[0], ())
        users: dict[str, list[Instruction]] = collections.defaultdict(list)
        for inner in body:
            for operand in inner.operands:
                users[operand].append(inner)
        for inner in body:
            uses = users[inner.name]
            if inner.opcode == "parameter" and uses and all(
                    use.opcode in ("slice", "dynamic-slice", "gather") and use.operands[0] == inner.name
                    for use in uses):
                number = re.match(r"\d+", inner.attributes)
                taken[int(number.group()) if number else -1] = sum(sizes(use.shape).padded for use in uses)
    return sum(min(taken.get(place, float("inf")), sizes(shapes.get(operand, "")).padded)
               for place, operand in enumerate(instruction.operands))


def kind_of(program: Program, instruction: Instruction) -> str:
    """In a person's words, what an instruction does."""
    opcode = instruction.opcode
    if opcode.startswith(_COLLECTIVE):
        return TRAFFIC
    if opcode == "custom-call":
        name = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
        target = name.group(1) if name else "?"
        if "fmha" in target:
            return ATTENTION
        if re.search(r"cublas|cudnn\$conv|conv|matmul|gemm|triton", target, re.IGNORECASE):
            return PRODUCTS
        return target
    if opcode == "fusion":
        if re.search(r'"kind":"__triton[^"]*gemm|__triton_nested_gemm|__cublas|__cudnn', instruction.attributes):
            return PRODUCTS
        inside = program.inside(instruction)
    else:
        inside = collections.Counter([opcode])
    for group, opcodes in ((PRODUCTS, ("dot", "convolution")), ("scatter", ("scatter", "select-and-scatter")),
                           ("sort", ("sort",)), ("gather", ("gather",)),
                           ("reductions", ("reduce", "reduce-window")),
                           ("random numbers", ("rng-bit-generator",))):
        if any(inside.get(name) for name in opcodes):
            return group
    if opcode in ("copy", "copy-start", "transpose", "slice", "slice-start", "pad", "concatenate") or (
            opcode == "fusion" and set(inside) <= _MOVING):
        return MOVED
    return "elementwise"


def short(label: str) -> str:
    """An operation's path without numbers of blocks, so that equal layers have one name."""
    label = re.sub(r"jit\([\w<>.]+\)/|closed_call/|while/body/|checkpoint/|rematted_computation/", "", label)
    label = re.sub(r"\b(blocks?|layers?|stages?|layer|layer\d|block\d)[_.]\d+([_.]\d+)?", r"\1N", label)
    return re.sub(r"/\d+/", "/N/", label)
