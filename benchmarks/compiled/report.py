"""What compilers say, as text and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.compiled.costs import ATTENTION, NOTHING, PRODUCTS, Cost
from benchmarks.compiled.worker import Facts
from cvjax.workflow.absent_devices import Target
from cvjax.workflow.accelerators import DEVICES, Device


class Row(NamedTuple):
    """One program on one target."""

    title: str
    target: Target
    facts: Facts
    kinds: Mapping[str, Cost]
    names: Mapping[tuple[str, str], Cost]  # (kind, the model's name) -> cost

    @property
    def device(self) -> Device:
        return DEVICES[self.target.kind]

    @property
    def bytes(self) -> float:
        """Bytes read from and written to the device's memory."""
        return sum(cost.bytes for cost in self.kinds.values())

    @property
    def outside(self) -> float:
        """Those outside of products, convolutions and fused attention."""
        return self.bytes - sum(self.kinds.get(kind, NOTHING).bytes for kind in (PRODUCTS, ATTENTION))

    @property
    def peak(self) -> float:
        """FLOP/s of the device in the program's type."""
        return self.device.bfloat16 if self.facts.dtype == "bfloat16" else self.device.float32

    @property
    def seconds(self) -> float:
        """Estimated time. TPU: the compiler's cycles. Card: bytes outside of products, and products by whichever is
        slower, bytes or FLOPs."""
        if self.device.clock:
            return sum(cost.cycles for cost in self.kinds.values()) / self.device.clock
        inside = (self.bytes - self.outside) / self.device.bandwidth
        return self.outside / self.device.bandwidth + max(inside, self.facts.flops / self.peak)

    @property
    def utilization(self) -> float:
        """The share of the peak that the model's own FLOPs reach in the estimated time (MFU)."""
        return self.facts.flops / self.peak / self.seconds

    def cost_seconds(self, cost: Cost) -> float:
        """Estimated time of a part; of products on a card, that of their bytes."""
        return cost.cycles / self.device.clock if self.device.clock else cost.bytes / self.device.bandwidth


def text(row: Row, top: int) -> str:
    """A program's costs, for a terminal."""
    if row.facts.error is not None:
        return f"  does not compile: {row.facts.error.strip()[:2000]}"
    facts, memory = row.facts, row.device.memory
    counted = "" if facts.compiled_flops is None else (
        f", {facts.compiled_flops / 1e9:,.0f} by the compiler ({facts.compiled_flops / facts.flops:.2f} times)")
    lines = [
        f"  memory  {facts.peak_bytes / 1e9:6.2f} of {memory / 1e9:.0f} GB, {facts.argument_bytes / 1e9:.2f} of them "
        f"arguments; reckoned {facts.reckoned_bytes / 1e9:.2f}",
        f"  FLOPs   {facts.flops / 1e9:,.0f} G by the model{counted}",
        f"  bytes   {row.bytes / 1e9:.1f} GB, {row.outside / 1e9:.1f} outside of products and fused attention",
        f"  time    {1e3 * row.seconds:.1f} ms estimated, {1e3 * facts.flops / row.peak:.1f} at the peak: at most "
        f"{row.utilization:.0%} of it; {facts.images / row.seconds:,.0f} images/s",
        f"  {'kind':28} {'count':>7} {'GB':>8} {'ms':>8} {'GB padding':>11}"]
    ranked = sorted(row.kinds.items(), key=lambda found: -row.cost_seconds(found[1]))
    lines += [f"  {kind:28} {cost.count:7} {cost.bytes / 1e9:8.2f} {1e3 * row.cost_seconds(cost):8.2f} "
              f"{cost.padding / 1e9:11.2f}" for kind, cost in ranked]
    named = sorted(row.names.items(), key=lambda found: -row.cost_seconds(found[1]))[:top]
    if named:
        lines.append("  costliest:")
    lines += [f"  {1e3 * row.cost_seconds(cost):8.2f} ms {cost.bytes / 1e9:7.2f} GB x{cost.count:<4} {kind:14} "
              f"{label[-90:]}" for (kind, label), cost in named]
    return "\n".join(lines)


def differences(before: Row, after: Row, top: int) -> str:
    """What a change did: kinds, and the names whose bytes or time changed most."""
    if before.facts.error is not None or after.facts.error is not None:
        return "  no comparison: one of the two does not compile"
    lines = ["  in the other checkout -> here:",
             f"  memory {before.facts.peak_bytes / 1e9:.2f} -> {after.facts.peak_bytes / 1e9:.2f} GB, time "
             f"{1e3 * before.seconds:.1f} -> {1e3 * after.seconds:.1f} ms, bytes {before.bytes / 1e9:.1f} -> "
             f"{after.bytes / 1e9:.1f} GB, outside of products {before.outside / 1e9:.1f} -> "
             f"{after.outside / 1e9:.1f}"]
    for one, other, most in ((before.kinds, after.kinds, None), (before.names, after.names, top)):
        changes = {key: after.cost_seconds(other.get(key, NOTHING)) - before.cost_seconds(one.get(key, NOTHING))
                   for key in {*one, *other}}
        for key, change in sorted(changes.items(), key=lambda found: -abs(found[1]))[:most]:
            if abs(change) < 1e-5:
                continue
            label = key if isinstance(key, str) else f"{key[0]}: {key[1][-90:]}"
            gigabytes = (other.get(key, NOTHING).bytes - one.get(key, NOTHING).bytes) / 1e9
            lines.append(f"  {1e3 * change:+8.2f} ms {gigabytes:+8.2f} GB  {label}")
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """One line for each program."""
    lines = ["| program | memory, GB | of | bytes, GB | outside of products | estimate, ms | at the peak | "
             "at most | compiled in |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in rows:
        facts = row.facts
        if facts.error is not None:
            first = facts.error.strip().splitlines()[0].replace("|", " ")
            lines.append(f"| {row.title} | does not compile: {first[:200]} | | | | | | | {facts.seconds:.0f} s |")
            continue
        lines.append(
            f"| {row.title} | {facts.peak_bytes / 1e9:.2f} | {row.device.memory / 1e9:.0f} | {row.bytes / 1e9:.1f} | "
            f"{row.outside / 1e9:.1f} | {1e3 * row.seconds:.1f} | {1e3 * facts.flops / row.peak:.1f} | "
            f"{row.utilization:.0%} | {facts.seconds:.0f} s |")
    versions = {name: version for row in rows for name, version in row.facts.versions.items()}
    return "\n".join([*lines, "", ", ".join(f"{name} {version}" for name, version in versions.items())]) + "\n"
