"""The history as lines: which snapshot came from which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ciuic.objects.snapshot import Snapshot


def children_first(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Children before their parents, whatever the clocks said; each branch in one piece, the newest first."""
    known = {snapshot.id: snapshot for snapshot in snapshots}
    waiting = dict.fromkeys(known, 0)
    for snapshot in known.values():
        for parent in snapshot.parents:
            if parent in waiting:
                waiting[parent] += 1
    tips = [known[name] for name, children in waiting.items() if children == 0]
    stack = sorted(tips, key=lambda snapshot: snapshot.timestamp)
    ordered = []
    while stack:
        snapshot = stack.pop()
        ordered.append(snapshot)
        for parent in reversed(snapshot.parents):
            if parent in waiting:
                waiting[parent] -= 1
                if waiting[parent] == 0:
                    stack.append(known[parent])
    return ordered


def draw(snapshots: Sequence[Snapshot]) -> Iterator[tuple[str, Snapshot | None]]:
    """Rows of a graph with the snapshot that each one shows, or None; ``snapshots`` come children first.

    A lane waits for the snapshot that it names. One that has ended stays as a gap until a new tip takes it.
    """
    lanes: list[str | None] = []
    for snapshot in snapshots:
        own = _lane_of(lanes, snapshot.id)
        while lanes[-1] is None:
            lanes.pop()
        yield _row(lanes, own), snapshot
        lanes[own] = None
        yield from ((row, None) for row in _lead_to_parents(lanes, own, snapshot.parents))


def _lead_to_parents(lanes: list[str | None], own: int, parents: Sequence[str]) -> Iterator[str]:
    """Let the lane ``own`` wait for the first parent, and others for the rest; the rows that this takes."""
    for position, parent in enumerate(parents):
        if parent not in lanes:
            if position == 0:
                lanes[own] = parent
                continue
            lanes.append(None)
            yield _row(lanes, (own, len(lanes) - 1, "\\"))
            lanes[-1] = parent
            continue
        first, second = sorted((own, lanes.index(parent)))
        if position == 0:
            lanes[first], lanes[second] = parent, None
        yield _row(lanes, (first, second, "/" if position == 0 or second == own else "\\"))


def _lane_of(lanes: list[str | None], name: str) -> int:
    """The first lane that waits for ``name``; for a tip a new one, in a gap if there is one."""
    if name in lanes:
        return lanes.index(name)
    if None not in lanes:
        lanes.append(None)
    lane = lanes.index(None)
    lanes[lane] = name
    return lane


def _row(lanes: Sequence[str | None], mark: int | tuple[int, int, str]) -> str:
    """Lanes as bars, with a snapshot in one of them or a stroke from the first of two lanes to the second."""
    row = [" "] * (2 * len(lanes))
    for lane, name in enumerate(lanes):
        if name is not None:
            row[2 * lane] = "|"
    if isinstance(mark, int):
        row[2 * mark] = "*"
    else:
        first, second, stroke = mark
        for position in range(2 * first + 1, 2 * second - 1):
            row[position] = "_" if row[position] == " " else row[position]
        row[2 * second - 1] = stroke
    return "".join(row).rstrip()
