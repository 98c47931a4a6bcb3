"""The measured saves and restores → tables, and whether the aims were reached."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from report import table
from throughput_measures import DEPTH, DISK, MEMORY, Figure, History, Made
from throughput_state import LEARNING_RATE
from throughput_systems import REFERENCE

COMMIT_MOST = {MEMORY: 1.2, DISK: 0.9}
STORED_MOST = 2 / 3
KEYFRAME_MOST, DEEP_MOST, COLD_MOST = 1.0, 2.5, 1.0
PEAK_MOST = 256 << 20
MIB = 1 << 20
NAMES = {MEMORY: "tmpfs", DISK: "disk, with fsync"}
RESTORED = {MEMORY: "warm, from tmpfs", DISK: "cold, from disk"}
COSTS = ("call", "fence", "copy", "encode", "check", "write")


@dataclass
class Results:
    """All that one run measured, and where. ``media``: the file systems' types."""

    media: dict[str, str]
    cores: int
    shape: str
    history: History | None = None
    figures: list[Figure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    minutes: float = 0.0
    surroundings: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Results":
        history = values["history"]
        if history is not None:
            for made in history["snapshots"]:
                made["depths"] = {int(depth): nbytes for depth, nbytes in made["depths"].items()}
            history = History(**{**history, "snapshots": [Made(**made) for made in history["snapshots"]]})
        figures = [Figure(**figure) for figure in values["figures"]]
        return cls(**{**values, "history": history, "figures": figures})

    def of(self, what: str, where: str, system: str) -> list[Figure]:
        return [f for f in self.figures if (f.what, f.where, f.system) == (what, where, system)]

    def systems(self, what: str, where: str) -> list[str]:
        """ciuic's first."""
        names = dict.fromkeys(f.system for f in self.figures if (f.what, f.where) == (what, where))
        return sorted(names, key=lambda name: (not name.startswith("ciuic"), name != REFERENCE.get(what), name))

    def ratios(self, figures: Iterable[Figure]) -> list[float]:
        """Of the time, against the reference in the same round."""
        found = []
        for figure in figures:
            same = [f for f in self.of(figure.what, figure.where, REFERENCE[figure.what]) if f.round == figure.round]
            found += [figure.seconds / other.seconds for other in same]
        return found

    @staticmethod
    def label(made: Made) -> str:
        return "ciuic, keyframe" if made.depth == 0 else f"ciuic, depth {made.depth}"


def median_of(figures: Iterable[Figure], name: str) -> float:
    values = [getattr(figure, name) for figure in figures]
    return statistics.median(values) if values else 0.0


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    if len(values) < 2:
        return show(values[0]) if values else ""
    return f"{show(statistics.median(values))} ({show(min(values))} to {show(max(values))})"


def seconds(value: float) -> str:
    return f"{value:.2f}"


def times(value: float) -> str:
    return f"{value:.2f} ×"


def mib(value: float) -> str:
    return f"{value / MIB:,.0f} MiB".replace(",", " ")


def verdict(reached: bool) -> str:
    return "reached" if reached else "**not reached**"


def aims(results: Results) -> str:
    rows = []
    for where, most in COMMIT_MOST.items():
        for system in results.systems("save", where):
            if system.startswith("ciuic"):
                ratios = results.ratios(results.of("save", where, system))
                what = f"durable commit, {NAMES[where]}: {system}, against torch.save"
                rows.append(against(what, most, ratios))
    peer = median_of(results.of("save", DISK, REFERENCE["save"]), "stored")
    for system in results.systems("save", DISK):
        if system.startswith("ciuic") and peer:
            part = median_of(results.of("save", DISK, system), "stored") / peer
            what = f"bytes of that snapshot: {system}, against torch.save"
            rows.append([what, times(STORED_MOST), times(part), verdict(part <= STORED_MOST)])
    for where in (MEMORY, DISK):
        for system in results.systems("restore", where):
            if not system.startswith("ciuic"):
                continue
            keyframe = system == "ciuic, keyframe"
            if where == DISK:
                most = COLD_MOST
            else:
                most = KEYFRAME_MOST if keyframe else DEEP_MOST
            ratios = results.ratios(results.of("restore", where, system))
            rows.append(against(f"verified restore, {RESTORED[where]}: {system}, against torch.load", most, ratios))
    own = [f for f in results.figures if f.what == "restore" and f.system.startswith("ciuic")]
    if own:
        most = max(f.peak for f in own)
        rows.append(
            [
                "verified restore: memory beyond the state, at most",
                mib(PEAK_MOST),
                mib(most),
                verdict(most <= PEAK_MOST),
            ]
        )
    return table(["aim", "at most", "measured", "which is"], rows)


def against(what: str, most: float, ratios: Sequence[float]) -> list[str]:
    reached = bool(ratios) and statistics.median(ratios) <= most
    return [what, times(most), spread(ratios, times), verdict(reached)]


def rounds(figures: Sequence[Figure]) -> int:
    return len({figure.round for figure in figures})


def saves(results: Results, where: str) -> str:
    rows = []
    for system in results.systems("save", where):
        figures = results.of("save", where, system)
        stored = median_of(figures, "stored")
        rows.append(
            [
                system,
                spread([f.seconds for f in figures], seconds),
                spread(results.ratios(figures), times),
                seconds(median_of(figures, "cpu")),
                mib(stored),
                f"{stored / figures[0].nbytes:.3f}",
            ]
        )
    if not rows:
        return ""
    count = max(rounds(results.of("save", where, system)) for system in results.systems("save", where))
    title = f"**Durable commit, {NAMES[where]}** ({results.media[where]}), rounds: {count}, times in seconds:"
    header = ["system", "median (range)", "of torch.save's", "CPU-seconds", "stored", "of raw"]
    return f"{title}\n\n{table(header, rows)}"


def costs(results: Results) -> str:
    rows = []
    for where in (MEMORY, DISK):
        for system in results.systems("save", where):
            figures = [f for f in results.of("save", where, system) if f.costs]
            if figures:
                cells = []
                for name in COSTS:
                    values = [f.costs[name] for f in figures if name in f.costs]
                    cells.append(f"{statistics.median(values):.3f}" if values else "")
                rows.append([f"{system}, {NAMES[where]}", *cells])
    if not rows:
        return ""
    title = (
        "What ciuic says that its commits cost (`Snapshot.cost`), medians in seconds; encode and check are CPU-seconds:"
    )
    return f"{title}\n\n{table(['commit', *COSTS], rows)}"


def restores(results: Results, where: str) -> str:
    rows = []
    for system in results.systems("restore", where):
        figures = results.of("restore", where, system)
        row = [
            system,
            spread([f.seconds for f in figures], seconds),
            spread(results.ratios(figures), times),
            seconds(median_of(figures, "cpu")),
            mib(max(f.peak for f in figures)),
        ]
        rows.append([*row, mib(median_of(figures, "read"))] if where == DISK else row)
    if not rows:
        return ""
    count = max(rounds(results.of("restore", where, system)) for system in results.systems("restore", where))
    title = f"**Verified restore, {RESTORED[where]}** ({results.media[where]}), rounds: {count}, times in seconds:"
    header = ["system", "median (range)", "of torch.load's", "CPU-seconds", "peak beyond the state"]
    after = ""
    if where == DISK:
        header.append("read from the disk")
        kept = max(f.resident for f in results.figures if (f.what, f.where) == ("restore", DISK))
        cold = "cold" if kept < 0.01 else "**not cold**"
        after = f"\n\nOf the files, {100 * kept:.1f} % at most were in the page cache when a restore began: {cold}."
    return f"{title}\n\n{table(header, rows)}{after}"


def floors(results: Results) -> str:
    shown = [f for f in results.figures if f.what == "floor"]
    rows = []
    for where, system in dict.fromkeys((f.where, f.system) for f in shown):
        figures = results.of("floor", where, system)
        took = median_of(figures, "seconds")
        name = f"{system}, {where}" if "write" in system or "read" in system else f"{system}, {results.cores} threads"
        rate = f"{figures[0].nbytes / took / 1e9:.2f} GB/s"
        rows.append([name, spread([f.seconds for f in figures], seconds), seconds(median_of(figures, "cpu")), rate])
    if not rows:
        return ""
    lines = []
    least = median_of(results.of("floor", MEMORY, "copy"), "seconds") + median_of(
        results.of("floor", MEMORY, "BLAKE3"), "seconds"
    )
    for what, names in (("save", "a commit"), ("restore", "a restore")):
        for system in results.systems(what, MEMORY):
            if system.startswith("ciuic"):
                ratio = median_of(results.of(what, MEMORY, system), "seconds") / least
                lines.append(f"{names} on tmpfs ({system}) {ratio:.1f} ×")
    told = f"Against one copy and one BLAKE3 of the same bytes: {', '.join(lines)}." if lines else ""
    title = "The least that the same bytes cost, in the same rounds, times in seconds:"
    return f"{title}\n\n{table(['floor', 'median (range)', 'CPU-seconds', 'rate'], rows)}\n\n{told}".rstrip()


def history(results: Results) -> str:
    made = results.history
    if made is None:
        return ""
    stored = ", ".join(f"{snapshot.added / snapshot.raw:.3f}" for snapshot in made.snapshots)
    depths = ", ".join(str(snapshot.depth) for snapshot in made.snapshots)
    deepest = made.deepest
    total = sum(deepest.depths.values())
    by_depth = ", ".join(f"{100 * nbytes / total:.0f} % at {depth}" for depth, nbytes in deepest.depths.items())
    text = (
        f"The history: {len(made.snapshots)} snapshots of {made.nbytes / 1e9:.2f} GB, {made.every} steps of AdamW "
        f"apart (learning rate {LEARNING_RATE:g}); {100 * made.changed:.2f} % of all elements changed in the last. "
        f"Stored, of raw: {stored}. Largest depth of a chunk in each: {depths}. "
        f"Of the bytes of the deepest, by depth: {by_depth}."
    )
    if results.shape == "1 GB" and deepest.depth != DEPTH:
        text += f" The policy of this version makes no chain of {DEPTH}: **depth {deepest.depth} was measured**."
    return text


def report(results: Results) -> str:
    parts = [
        aims(results),
        *(saves(results, where) for where in (MEMORY, DISK)),
        costs(results),
        *(restores(results, where) for where in (MEMORY, DISK)),
        floors(results),
        history(results),
        "Left out:\n\n" + "\n".join(f"* {line}" for line in results.left_out) if results.left_out else "",
        f"{results.surroundings}, {results.minutes:.0f} minutes.",
    ]
    return "\n\n".join(part for part in parts if part)
