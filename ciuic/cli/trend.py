"""`ciuic log --metric`: metrics as columns over the steps, with bars, and a line each that shows the whole course."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import graph, humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.paint import printable
from ciuic.cli.session import Session
from ciuic.cli.words import Labels, Notes, first_line, notes_text, painted_labels, step_text
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.objects.snapshot import Snapshot

BAR = " ▏▎▍▌▋▊▉█"
SPARK = "▁▂▃▄▅▆▇█"
NOT_FINITE = "!"
MISSING = "-"
SPARK_WIDTH = 48
LOGARITHMIC_FROM = 100
"""From this ratio of the highest to the lowest value on, lengths follow the logarithm."""


@dataclass(frozen=True)
class Series:
    """One metric over the listed snapshots, newest first: None where a snapshot lacks it.

    ``best`` and ``worst``: where they stand, among the finite ones; of equal ones the newest, as in ``best:loss``.
    """

    name: str
    values: tuple[float | None, ...]
    low: float
    high: float
    best: int | None
    worst: int | None

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high >= LOGARITHMIC_FROM * self.low

    def height(self, value: float) -> float:
        """From 0 for the lowest to 1 for the highest."""
        if self.logarithmic:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        span = self.high - self.low
        if math.isinf(span):
            return (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return (value - self.low) / span if span else 0.5

    def bar(self, value: float | None, width: int) -> str:
        """A length for a value; the lowest has the shortest. Nothing for none."""
        if value is None or not math.isfinite(value):
            return ""
        eighths = max(1, round(8 * width * self.height(value)))
        return BAR[8] * (eighths // 8) + BAR[eighths % 8].strip()

    def spark(self, width: int = SPARK_WIDTH) -> str:
        """The course of the values that are there, oldest first, in at most ``width`` characters. Of several values in
        one place the one farthest from the usual shows, so that no spike is lost; a NaN or an infinity shows as "!"."""
        there = [value for value in self.values[::-1] if value is not None]
        usual = median([value for value in there if math.isfinite(value)] or [0.0])
        count = min(width, len(there))
        edges = [place * len(there) // count for place in range(count + 1)]
        return "".join(self._level(there[start:end], usual) for start, end in pairwise(edges))

    def _level(self, values: Sequence[float], usual: float) -> str:
        if not all(map(math.isfinite, values)):
            return NOT_FINITE
        value = max(values, key=lambda each: abs(each - usual))
        return SPARK[min(7, int(8 * self.height(value)))]


def series(snapshots: Sequence[Snapshot], metric: str) -> Series:
    """The metric ``loss``, or ``-accuracy`` where the highest is the best, over snapshots that come newest first.

    A usage error, which lists those that there are, when no snapshot has it.
    """
    name = metric.removeprefix("-")
    values = tuple(snapshot.metrics.get(name) for snapshot in snapshots)
    if all(value is None for value in values):
        known = sorted({each for snapshot in snapshots for each in snapshot.metrics})
        from ciuic.history.revisions import there

        raise click.UsageError(f"No snapshot listed has the metric {name!r}; {there([*map(printable, known)])}.")
    finite = [(value, -place) for place, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not finite:
        return Series(name, values, 0.0, 0.0, None, None)
    low, high = min(value for value, _ in finite), max(value for value, _ in finite)
    lowest, highest = (max(place for value, place in finite if value == end) for end in (low, high))
    best, worst = (highest, lowest) if metric.startswith("-") else (lowest, highest)
    return Series(name, values, low, high, -best, None if low == high else -worst)


def write(
    session: Session, snapshots: Sequence[Snapshot], metrics: Sequence[str], labels: Labels, notes: Notes
) -> None:
    """Print the snapshots, one at least, children first, with one column a metric."""
    courses = [series(snapshots, metric) for metric in dict.fromkeys(metrics)]
    if session.as_json:
        for place, snapshot in enumerate(snapshots):
            session.emit(_record(place, snapshot, courses, labels))
        return
    if session.draws:
        for line in _courses(session, snapshots, courses):
            session.line(line)
        session.line()
    session.write("\n".join(_rows(session, snapshots, courses, labels, notes)) + "\n")


def _record(place: int, snapshot: Snapshot, courses: Sequence[Series], labels: Labels) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "step": snapshot.step,
        "epoch": snapshot.epoch,
        "timestamp": snapshot.timestamp,
        "metrics": {each.name: each.values[place] for each in courses},
        "best": [each.name for each in courses if each.best == place],
        "worst": [each.name for each in courses if each.worst == place],
        "refs": labels.get(snapshot.id, []),
    }


def _courses(session: Session, snapshots: Sequence[Snapshot], courses: Sequence[Series]) -> Iterator[str]:
    """A line a metric: its course, where it came from and got to, the best and the worst."""

    def at(place: int) -> str:
        return step_text(snapshots[place]) or short(snapshots[place].id)

    rows = []
    for each in courses:
        there = [value for value in each.values if value is not None]
        odd = sum(not math.isfinite(value) for value in there)
        rows.append([
            printable(each.name),
            each.spark(),
            f"{humane.number(there[-1])} → {humane.number(there[0])}",
            "" if each.best is None else f"best {humane.number(each.values[each.best] or 0.0)} at {at(each.best)}",
            "" if each.worst is None else f"worst {humane.number(each.values[each.worst] or 0.0)} at {at(each.worst)}",
            f"{odd} not finite" if odd else "",
            "(log scale)" if each.logarithmic else "",
        ])  # fmt: skip
    columns = ("bold", "cyan", "", "green", "red", "red", "dim")
    yield from aligned(session.paint, [Column(style) for style in columns], rows)


def _rows(
    session: Session, snapshots: Sequence[Snapshot], courses: Sequence[Series], labels: Labels, notes: Notes
) -> Iterator[str]:
    paint = session.paint
    width = {1: 20, 2: 12}.get(len(courses), 8) if session.draws else 0
    columns = [Column(gap=1), Column("yellow"), Column(right=True)]
    titles = ["", "", ""]
    for each in courses:
        columns += [Column(right=True), Column("cyan"), Column()]
        titles += [printable(each.name), "", ""]
    styles = {(0, 3 + 3 * number): "bold" for number in range(len(courses))}
    rows, drawn = [titles], list(graph.draw(snapshots))
    place = 0
    for row, snapshot in drawn:
        cells = [row]
        if snapshot is not None:
            cells += [snapshot.id if session.verbose else short(snapshot.id), step_text(snapshot)]
            for number, each in enumerate(courses):
                value = each.values[place]
                mark = "best" if each.best == place else "worst" if each.worst == place else ""
                cells += [
                    MISSING if value is None else humane.number(value),
                    each.bar(value, width) if width else "",
                    mark,
                ]
                if value is None:
                    styles[len(rows), 3 + 3 * number] = "dim"
                elif not math.isfinite(value):
                    styles[len(rows), 3 + 3 * number] = "red"
                if mark:
                    styles[len(rows), 5 + 3 * number] = "green" if mark == "best" else "red"
            place += 1
        rows.append(cells)
    lines = aligned(paint, columns, rows, styles)
    yield next(lines)
    for (_, snapshot), line in zip(drawn, lines, strict=True):
        if snapshot is None:
            yield line
            continue
        said = paint(notes_text(notes.get(snapshot.id, ())), "magenta")
        tail = (painted_labels(paint, labels.get(snapshot.id, [])), first_line(snapshot.message), said)
        yield "  ".join([line, *filter(None, tail)]).rstrip()
