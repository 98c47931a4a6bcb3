"""The tables of `make bench-size`, and the aims that they are held against."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from report import table
from size_peers import PEERS

FLOOR_FACTOR = 1.05
EVERY_STEP_OF_RAW = 0.32
HALF_EVERY_STEP_OF_RAW = 0.07
CAST_OF_RAW = 0.01
OVER_CHANGED = 1.01
KIND_ORDER = ("identical", "derived", "predicted", "delta", "planes", "zstd", "raw")


@dataclass
class Record:
    """One series. All in bytes and cumulative: a value after each snapshot."""

    key: str
    name: str
    raw: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)  # raw, of the tensors that differ from the snapshot before
    stored: dict[str, list[float]] = field(default_factory=dict)  # system → the same
    kinds: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # part → kind → raw and stored
    folder: int = 0  # ciuic's whole, with the index

    @property
    def snapshots(self) -> int:
        return len(self.raw)

    def add(self, raw: float, floor: float, changed: float, stored: dict[str, float]) -> None:
        for values, value in ((self.raw, raw), (self.floor, floor), (self.changed, changed)):
            values.append(value + (values[-1] if values else 0))
        for system, value in stored.items():
            self.stored.setdefault(system, []).append(value)

    def count(self, part: str, kind: str, raw: int, stored: int) -> None:
        pair = self.kinds.setdefault(part, {}).setdefault(kind, [0, 0])
        pair[0] += raw
        pair[1] += stored

    def of_raw(self, system: str) -> float:
        return self.stored[system][-1] / self.raw[-1]

    @property
    def peers(self) -> list[str]:
        return [name for name in PEERS if name in self.stored]

    @property
    def chunks(self) -> int:
        """Stored bytes of ciuic's chunks, as its snapshots say."""
        return sum(stored for kinds in self.kinds.values() for _, stored in kinds.values())

    def smallest_peer(self) -> str:
        return min(self.peers, key=self.of_raw)

    def progress(self) -> str:
        shares = ", ".join(f"{name} {self.of_raw(name):.3f}" for name in self.stored)
        return f"{self.key} {self.snapshots}: floor {self.floor[-1] / self.raw[-1]:.3f}, {shares}"


@dataclass
class Results:
    records: list[Record] = field(default_factory=list)
    parameters: int = 0
    missing: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    minutes: float = 0.0
    surroundings: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Results":
        return Results(**{**value, "records": [Record(**record) for record in value["records"]]})

    def of(self, key: str) -> Record | None:
        """The series with this key, if there was one and it has come to a second snapshot."""
        return next((record for record in self.records if record.key == key and record.snapshots > 1), None)


def verdict(reached: bool) -> str:
    return "reached" if reached else "**not reached**"


def share(value: float) -> str:
    return f"{value:.3f}"


def aims(results: Results) -> str:
    return table(["aim", "at most", "measured", "which is"], [*own_aims(results), *peer_aims(results)])


def own_aims(results: Results) -> Iterator[list[str]]:
    if record := results.of("a"):
        factor = record.stored["ciuic"][-1] / record.floor[-1]
        aim = f"{FLOOR_FACTOR} × the floor"
        yield [f"{record.name}: bytes in packs", aim, f"{factor:.3f} ×", verdict(factor <= FLOOR_FACTOR)]
    for key, limit in (("b", EVERY_STEP_OF_RAW), ("d1", HALF_EVERY_STEP_OF_RAW)):
        if record := results.of(key):
            measured = record.of_raw("ciuic")
            yield [f"{record.name}: bytes in packs", f"{limit} of raw", share(measured), verdict(measured <= limit)]
    both, masters = results.of("e"), results.of("e0")
    if both and masters and both.snapshots == masters.snapshots:
        weights = both.raw[-1] - masters.raw[-1]
        cost = (both.stored["ciuic"][-1] - masters.stored["ciuic"][-1]) / weights
        what = f"{both.name}: what the bf16 weights add"
        yield [what, f"{CAST_OF_RAW} of their bytes", f"{cost:.4f}", verdict(cost <= CAST_OF_RAW)]
    for key in ("f1", "f2"):
        if record := results.of(key):
            added = record.stored["ciuic"][-1] - record.stored["ciuic"][0]
            factor = added / (record.changed[-1] - record.changed[0])
            what = f"{record.name}: bytes in packs after the first snapshot"
            aim = f"{OVER_CHANGED} × those that changed"
            yield [what, aim, f"{factor:.3f} ×", verdict(factor <= OVER_CHANGED)]


def peer_aims(results: Results) -> Iterator[list[str]]:
    for record in results.records:
        if record.peers and record.snapshots > 1:
            peer = record.smallest_peer()
            least, own = record.of_raw(peer), record.of_raw("ciuic")
            aim = f"below the smallest peer's, {share(least)} ({peer})"
            yield [f"{record.name}: of raw", aim, share(own), verdict(own < least)]


def sizes(results: Results) -> str:
    measured = [name for name in PEERS if any(name in record.stored for record in results.records)]
    rows = []
    for record in results.records:
        if not record.snapshots:
            continue
        cells = [record.name, str(record.snapshots), f"{record.raw[-1] / 1e6:,.0f} MB".replace(",", " ")]
        cells += [share(record.floor[-1] / record.raw[-1]), f"**{share(record.of_raw('ciuic'))}**"]
        cells += [share(record.of_raw(name)) if name in record.stored else "" for name in measured]
        rows.append(cells + ["not installed"] * len(results.missing))
    header = ["series", "snapshots", "raw", "floor", "ciuic", *measured, *results.missing]
    return f"Stored bytes as fractions of raw:\n\n{table(header, rows)}"


def beyond_the_first(results: Results) -> str:
    """The first snapshot has nothing to build on. What each later one costs is what a longer history comes to."""
    rows = []
    for record in results.records:
        if record.snapshots > 1:
            raw = record.raw[-1] - record.raw[0]
            later = {name: (values[-1] - values[0]) / raw for name, values in record.stored.items()}
            first, floor = record.stored["ciuic"][0] / record.raw[0], (record.floor[-1] - record.floor[0]) / raw
            peer = min(record.peers, key=later.__getitem__, default=None)
            rows.append(
                [
                    record.name,
                    share(first),
                    share(floor),
                    share(later["ciuic"]),
                    f"{share(later[peer])} ({peer})" if peer else "",
                    f"{(record.stored['ciuic'][-1] - record.chunks) / record.raw[-1]:.4f}" if record.chunks else "",
                    f"{record.folder / record.raw[-1]:.4f}" if record.folder else "",
                ]
            )
    header = ["series", "ciuic, first", "floor, later ones", "ciuic, later ones", "smallest peer, later ones"]
    title = (
        "The first snapshot and the later ones, as fractions of their raw bytes. Of all of them: what ciuic's packs "
        "hold beside the chunks' stored bytes (headers, footers, trees, padding), and its folder with the index."
    )
    return f"{title}\n\n{table([*header, 'beside chunks, all', 'folder, all'], rows)}" if rows else ""


def breakdown(results: Results) -> str:
    """What ciuic says itself of how it stored each part."""
    rows = []
    for record in results.records:
        for part, kinds in record.kinds.items():
            whole = sum(raw for raw, _ in kinds.values())
            cells = [f"{record.name}: {part}", f"{whole / record.raw[-1]:.3f}"]
            for kind in KIND_ORDER:
                raw, stored = kinds.get(kind, (0, 0))
                cells.append(f"{raw / whole:.1%} → {stored / raw:.3f}" if raw else "")
            rows.append([*cells, share(sum(stored for _, stored in kinds.values()) / whole)] if whole else cells)
    if not rows:
        return ""
    title = "How ciuic stored each part: what share of its raw bytes went which way, and what was left of that share:"
    return f"{title}\n\n{table(['part', 'of all', *KIND_ORDER, 'together'], rows)}"


def report(results: Results) -> str:
    versions = f" Peers: {', '.join(results.versions)}." if results.versions else ""
    missing = f" Not installed: {', '.join(results.missing)}." if results.missing else ""
    parts = [
        aims(results),
        sizes(results),
        beyond_the_first(results),
        breakdown(results),
        "Left out:\n\n" + "\n".join(f"* {line}" for line in results.left_out) if results.left_out else "",
        f"A model of {results.parameters / 1e6:.1f} million parameters.{versions}{missing}",
        f"{results.surroundings}, {results.minutes:.0f} minutes.",
    ]
    return "\n\n".join(part for part in parts if part)
