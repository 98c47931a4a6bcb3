"""The graph that ``log`` draws. A history is given as "child: parents", oldest first."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from ciuic.cli.graph import children_first, draw
from ciuic.objects.snapshot import Snapshot

START = datetime(2025, 4, 5, 14, 23, 12, tzinfo=timezone.utc)


def history(*lines: str, clock: int = 1) -> list[Snapshot]:
    snapshots = []
    for position, line in enumerate(lines):
        name, _, parents = line.partition(":")
        snapshots.append(
            Snapshot(
                id=name,
                step=position,
                epoch=None,
                timestamp=START + timedelta(seconds=position * clock),
                message="",
                metrics={},
                config={},
                parents=tuple(parents.split()),
                tree={},
                contains=(),
                raw_bytes={},
                added_bytes=0,
            )
        )
    return snapshots


def drawn(*lines: str) -> list[str]:
    rows = draw(children_first(history(*lines)))
    return [f"{row} {snapshot.id}" if snapshot else row for row, snapshot in rows]


def test_one_branch_is_a_column() -> None:
    assert drawn("a", "b: a", "c: b") == ["* c", "* b", "* a"]


def test_nothing_is_drawn_for_an_empty_history() -> None:
    assert drawn() == []


def test_a_branch_leads_back_to_where_it_left() -> None:
    assert drawn("a", "b: a", "c: b", "d: b", "e: d") == ["* e", "* d", "| * c", "|/", "* b", "* a"]


def test_three_branches_from_one_snapshot() -> None:
    assert drawn("a", "b: a", "c: a", "d: a") == ["* d", "| * c", "|/", "| * b", "|/", "* a"]


def test_a_branch_crosses_another_on_its_way_back() -> None:
    history = ("a", "b: a", "c: b", "d: b", "e: a", "f: c", "g: a")
    crossing = ["* g", "| * f", "| * c", "| | * e", "|_|/", "| | * d", "| |/", "| * b", "|/", "* a"]
    assert drawn(*history) == crossing


def test_branches_from_different_snapshots() -> None:
    assert drawn("a", "b: a", "c: a", "d: b", "e: b") == ["* e", "| * d", "|/", "* b", "| * c", "|/", "* a"]


def test_histories_without_a_common_snapshot() -> None:
    assert drawn("a", "b: a", "x", "y: x") == ["* y", "* x", "* b", "* a"]


def test_a_snapshot_with_two_parents() -> None:
    assert drawn("a", "b: a", "c: a", "d: b c") == ["* d", "|\\", "* | b", "| * c", "|/", "* a"]


def test_a_parent_outside_the_list_leaves_its_lane_open() -> None:
    assert drawn("b: a", "c: b", "d: z") == ["* d", "| * c", "| * b"]


@pytest.mark.parametrize("clock", [0, -1])
def test_children_come_first_whatever_the_clock_said(clock: int) -> None:
    snapshots = history("a", "b: a", "c: b", clock=clock)
    assert [snapshot.id for snapshot in children_first(snapshots)] == ["c", "b", "a"]


def test_a_long_history_does_not_recurse() -> None:
    lines = ["0", *(f"{number}: {number - 1}" for number in range(1, 3000))]
    assert len(drawn(*lines)) == 3000
