"""The command stats: what is stored, what that saves and by which means, and what taking the snapshots cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned, folded
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import by_kind, shares, sizes_record, storage_record

if TYPE_CHECKING:
    from ciuic.history.statistics import Stats

NUMBER = Column(right=True)
SHARE = Column("dim", right=True)
NOTE = Column("dim")


@click.command("stats", cls=Command)
@pass_session
def stats_command(session: Session) -> None:
    """Show how much the snapshots hold, how little of it is stored, where the saving comes from, and what they took.

    First the chunks as the commits stored them, by part, and which share in which way: "identical" was there already,
    "derived" is the cast of another tensor, "predicted" follows from the parent by AdamW's rule but for a little,
    "delta" is a difference from the parent; "planes" and "zstd" are compressed alone, "raw" is as it was.
    A snapshot of which a component was pruned counts whole there.

    Then what the repository holds now, by codec, and the times of `ciuic show`, over the snapshots that have them.
    """
    stats = session.repo().stats()
    if session.as_json:
        session.emit(_record(stats))
        return
    counts = [
        humane.count(stats.snapshots, "snapshot") + (f" ({stats.pruned} pruned)" if stats.pruned else ""),
        humane.count(stats.branches, "branch", "branches"),
        humane.count(stats.tags, "tag"),
        humane.count(stats.chunks, "chunk"),
        humane.count(stats.packs, "pack"),
    ]
    session.line(", ".join(counts))
    if not stats.raw_bytes:
        return
    for lines in (_saving_lines(session, stats), _size_lines(session, stats), _cost_lines(session, stats)):
        for number, line in enumerate(lines):
            if number == 0:
                session.line()
            session.line(line)


def _record(stats: Stats) -> dict[str, Any]:
    return {
        **asdict(stats),
        "identical_bytes": stats.identical_bytes,
        "coded_bytes": stats.coded_bytes,
        "by_codec": sizes_record(stats.by_codec),
        "saving": storage_record(stats.saving),
    }


def _saving_lines(session: Session, stats: Stats) -> Iterator[str]:
    """A line a part, as the snapshots counted it when they were written."""
    rows = []
    for name, kinds in (*stats.saving.items(), ("total", by_kind(stats.saving))):
        raw, stored = (sum(pair[place] for pair in kinds.values()) for place in (0, 1))
        if raw:
            cells = [printable(name), humane.size(raw), humane.size(stored), humane.percent(stored / raw)]
            rows.append((cells, shares({kind: size for kind, (size, _) in kinds.items()})))
    columns = (Column(), NUMBER, NUMBER, SHARE, Column())
    if rows:
        yield from aligned(
            session.paint, columns, folded(columns, [(["as committed", "raw", "stored", "of raw"], ["as"]), *rows])
        )
    if stats.silent:
        verb = "does" if stats.silent == 1 else "do"
        yield session.paint(f"{humane.count(stats.silent, 'snapshot')} {verb} not say", "dim")


def _size_lines(session: Session, stats: Stats) -> Iterator[str]:
    """From what the snapshots hold to what the disk holds."""

    def row(title: str, size: int, *remarks: str) -> tuple[list[str], list[str]]:
        return [title, humane.size(size), humane.percent(size / stats.raw_bytes)], list(remarks)

    def saving(title: str, size: int, remark: str) -> tuple[list[str], list[str]]:
        sign = "-" if size > 0 else "+" if size < 0 else ""
        return [title, sign + humane.size(abs(size)), humane.percent(abs(size) / stats.raw_bytes)], [remark]

    rows = [
        row("raw", stats.raw_bytes, *shares(stats.raw_by_component)),
        saving("identical", stats.identical_bytes, "was stored already"),
        saving("coded", stats.coded_bytes, "compressed away"),
    ]
    for name, (raw, stored) in sorted(stats.by_codec.items(), key=lambda item: -item[1][0]):
        rows.append(saving(f"  {printable(name)}", raw - stored, f"{humane.size(raw)} as {humane.size(stored)}"))
    rows.append(row("stored", stats.stored_bytes))
    rows.append(row("on disk", stats.pack_bytes, "with trees, indexes, and what gc could free"))
    columns = (Column(), NUMBER, SHARE, NOTE)
    yield from aligned(session.paint, columns, folded(columns, rows))


def _cost_lines(session: Session, stats: Stats) -> Iterator[str]:
    """A column a cost."""
    if stats.costs:
        costs = stats.costs.values()
        rows = [
            ["cost", *map(printable, stats.costs)],
            ["  median", *(humane.seconds(cost.median) for cost in costs)],
            ["  worst", *(humane.seconds(cost.worst) for cost in costs)],
            ["  snapshots", *(str(cost.snapshots) for cost in costs)],
        ]
        yield from aligned(session.paint, (Column(), *[NUMBER] * len(costs)), rows)
