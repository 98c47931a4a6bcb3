"""The measured times of steps and calls → tables, and whether the aims were reached."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from report import table
from stall_loops import LOOPS, Alone, Record
from stall_systems import BESIDE, BLOCKING, CIUIC

HEADLINE_EVERY = 3
DEVICE_BOUND, CPU_BOUND = LOOPS
CALL_MEDIAN_S, CALL_P99_S, LARGE_CALL_S = 0.005, 0.010, 0.010
FRACTION_OF_DCP = 20
SLOWDOWN = 0.01
LARGE = "4 GB"


@dataclass
class Results:
    """All that one run of the benchmark measured, and where."""

    where: str
    device: str
    cores: int
    headline: str = ""
    minutes: float = 0.0
    surroundings: str = ""
    alone: Alone = field(default_factory=lambda: Alone(0.0, 0.0))
    trial: list[Record] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    calls: list[Record] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Results":
        lists = {
            name: [Record(**record) for record in values[name]]
            for name in ("trial", "records", "calls")
            if name in values
        }
        return cls(**{**values, **lists, "alone": Alone(**values["alone"])})

    def of(self, loop: str, size: str, every: int, system: str) -> list[Record]:
        return [r for r in self.records if (r.loop, r.size, r.every, r.system) == (loop, size, every, system)]

    def systems(self, loop: str, size: str, every: int) -> list[str]:
        names = {r.system for r in self.records if (r.loop, r.size, r.every) == (loop, size, every)}
        return [name for name in ORDER if name in names]

    def base(self, record: Record, among: list[Record] | None = None) -> float:
        """A step's mean time in the same round without snapshots."""
        same = [
            other
            for other in (self.records if among is None else among)
            if other.system == "none" and (other.loop, other.size) == (record.loop, record.size)
        ]
        of_case = [other for other in same if other.every == record.every] or [o for o in same if o.every == 0]
        of_round = [other for other in of_case if other.round == record.round] or of_case
        return statistics.mean(time for other in of_round for time in other.steps) if of_round else math.nan

    def added(self, records: Iterable[Record], among: list[Record] | None = None) -> list[float]:
        """Seconds that one snapshot added to the steps, a value for each round."""
        return [(statistics.mean(r.steps) - self.base(r, among)) * len(r.steps) / max(1, len(r.calls)) for r in records]

    def slowdown(self, records: Iterable[Record]) -> list[float]:
        return [statistics.mean(r.steps) / self.base(r) - 1 for r in records]

    def trial_added(self, system: str) -> float:
        values = self.added([r for r in self.trial if r.system == system], self.trial)
        return values[0] if values else math.inf


ORDER = ("none", *CIUIC, "torch.save", "safetensors", *BLOCKING, *BESIDE)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest measured value that ``part`` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def ms(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}".replace(",", " ")


def spread(values: Sequence[float], show: Callable[[float], str], unit: str) -> str:
    """The median of the rounds and their range; "none" where the range holds zero."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if len(values) == 1:
        return f"{show(low)} {unit}"
    middle = "none" if low <= 0 <= high else f"{show(statistics.median(values))} {unit}"
    return f"{middle} ({show(low)} to {show(high)})"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


HEADER = (
    "system", "step p50", "p95", "p99", "max", "call p50", "p99", "added a snapshot", "slow-down", "snapshots",
)  # fmt: skip


def row(results: Results, label: str, records: list[Record]) -> list[str]:
    steps = [time for record in records for time in record.steps]
    calls = [time for record in records for time in record.calls]
    cells = [label, *(ms(percentile(steps, part)) for part in (0.5, 0.95, 0.99, 1))]
    if records[0].system == "none":
        return [*cells, *[""] * 5]
    problems = sorted({problem for record in records for problem in record.problems})
    done = f"{sum(record.done for record in records)} of {len(calls)}"
    return [
        *cells,
        ms(statistics.median(calls)),
        ms(percentile(calls, 0.99)),
        spread(results.added(records), ms, "ms"),
        spread(results.slowdown(records), percent, "%"),
        done + (f" ({', '.join(problems)})" if problems else ""),
    ]


def headline(results: Results, loop: str) -> str:
    rows = []
    for system in results.systems(loop, results.headline, HEADLINE_EVERY):
        records = results.of(loop, results.headline, HEADLINE_EVERY, system)
        outside = ["", ""]
        if system != "none":
            outside = [ms(statistics.median(getattr(r, name) for r in records)) for name in ("first_call", "drain")]
        rows.append([*row(results, system, records), *outside])
    rounds = len({r.round for r in results.records if (r.loop, r.size) == (loop, results.headline)})
    title = f"**{loop}, {results.headline}, a snapshot every {HEADLINE_EVERY} steps**, {rounds} rounds, times in ms:"
    return f"{title}\n\n{table([*HEADER, 'first call', 'drain'], rows)}" if rows else ""


def rest(results: Results, loop: str) -> str:
    rows = []
    sizes = list(dict.fromkeys(r.size for r in results.records))
    cases = sorted({(sizes.index(r.size), r.every) for r in results.records if r.loop == loop})
    for number, every in cases:
        size = sizes[number]
        if (size, every) == (results.headline, HEADLINE_EVERY):
            continue
        for system in results.systems(loop, size, every):
            records = results.of(loop, size, every, system)
            label = f"{size}, every {every}: {system}" if every else f"{size}: none"
            rows.append([*row(results, label, records), str(len(records))])
    return f"**{loop}, the other cases**, times in ms:\n\n{table([*HEADER, 'rounds'], rows)}" if rows else ""


def verdict(reached: bool) -> str:
    return "reached" if reached else "**not reached**"


def aims(results: Results) -> str:
    size, every, rows = results.headline, HEADLINE_EVERY, []

    def of(loop: str, system: str) -> list[Record]:
        return results.of(loop, size, every, system)

    def median_added(loop: str, system: str) -> float:
        return statistics.median(results.added(of(loop, system)))

    own = of(DEVICE_BOUND, "ciuic")
    case = f"{DEVICE_BOUND}, {size}, every {every}"
    if own:
        calls = [time for record in own for time in record.calls]
        middle, high = statistics.median(calls), percentile(calls, 0.99)
        reached = middle <= CALL_MEDIAN_S and high <= CALL_P99_S
        rows.append(
            [f"{case}: the call", "5 ms median, 10 ms p99", f"{ms(middle)} ms, {ms(high)} ms", verdict(reached)]
        )
        added = median_added(DEVICE_BOUND, "ciuic")
        for system in results.systems(DEVICE_BOUND, size, every):
            if system in (*BLOCKING, *BESIDE):
                limit = median_added(DEVICE_BOUND, system) / FRACTION_OF_DCP
                what = f"{case}: added a snapshot, against {system}"
                aim = f"1/{FRACTION_OF_DCP} of its: {ms(limit)} ms"
                rows.append([what, aim, f"{ms(added)} ms", verdict(added <= limit)])
        slow = statistics.median(results.slowdown(own))
        rows.append([f"{case}: slow-down", "1 %", f"{percent(slow)} %", verdict(slow <= SLOWDOWN)])
    for name in CIUIC:
        own = of(CPU_BOUND, name)
        if not own:
            continue
        case = ", ".join((CPU_BOUND, size, f"every {every}", *name.split(", ")[1:]))
        added = median_added(CPU_BOUND, name)
        limit = (results.alone.copy + results.alone.encode_and_write) / results.cores
        rows.append([f"{case}: added a snapshot", f"{ms(limit)} ms", f"{ms(added)} ms", verdict(added <= limit)])
        for system in results.systems(CPU_BOUND, size, every):
            if system == "none" or system in CIUIC:
                continue
            peer = {
                r.round: value
                for r, value in zip(of(CPU_BOUND, system), results.added(of(CPU_BOUND, system)), strict=True)
            }
            mine = {r.round: value for r, value in zip(own, results.added(own), strict=True)}
            differences = [mine[number] - peer[number] for number in mine.keys() & peer.keys()]
            shown = f"{ms(added)} ms; {spread(differences, ms, 'ms')} apart"
            what = f"{case}: added a snapshot, against {system}"
            if differences and min(differences) <= 0 <= max(differences) and len(differences) > 1:
                state = "no difference beyond the spread"
            else:
                state = verdict(bool(differences) and max(differences) < 0)
            rows.append([what, f"below its {ms(median_added(CPU_BOUND, system))} ms", shown, state])
    calls = [time for record in results.calls for time in record.calls]
    if calls:
        name = f"{LARGE} in 500 tensors" if results.calls[0].size == LARGE else results.calls[0].size
        middle, high = statistics.median(calls), percentile(calls, 0.99)
        shown = f"{ms(middle)} ms median, {ms(high)} ms the slowest of {len(calls)}"
        rows.append([f"{DEVICE_BOUND}, {name}: the call", "10 ms", shown, verdict(high <= LARGE_CALL_S)])
    return table(["aim", "at most", "measured", "which is"], rows)


def trial(results: Results) -> str:
    rows = []
    for system in (*BLOCKING, *BESIDE):
        records = [r for r in results.trial if r.system == system]
        if records:
            call = statistics.median(time for record in records for time in record.calls)
            rows.append([system, f"{ms(call)} ms", f"{ms(results.trial_added(system))} ms"])
    if not rows:
        return ""
    case = f"{DEVICE_BOUND}, {results.headline}, every {HEADLINE_EVERY}"
    title = f"The trial that chose how `async_save` is run ({case}):"
    return f"{title}\n\n{table(['way', 'call p50', 'added a snapshot'], rows)}"


def report(results: Results) -> str:
    alone = results.alone
    parts = [
        aims(results),
        *(headline(results, loop) for loop in LOOPS),
        f"CPU-seconds of a snapshot of {results.headline}, each part alone: copy {alone.copy:.2f}, "
        f"encode and write {alone.encode_and_write:.2f}; on {results.cores} cores.",
        trial(results),
        *(rest(results, loop) for loop in LOOPS),
        "Left out:\n\n" + "\n".join(f"* {line}" for line in results.left_out) if results.left_out else "",
        f"{results.surroundings}, state on {results.device}, written to {results.where}, "
        f"{results.minutes:.0f} minutes.",
    ]
    return "\n\n".join(part for part in parts if part)
