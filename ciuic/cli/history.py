"""Commands that look back: log, show, reflog."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from ciuic.cli import graph, humane
from ciuic.cli.columns import SCREEN, Column, aligned, wrapped
from ciuic.cli.completion import REF, REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import (
    Labels,
    Notes,
    Prunes,
    cost_text,
    first_line,
    labels_by_snapshot,
    metrics_text,
    notes_text,
    painted_labels,
    pruned_text,
    snapshot_record,
    step_text,
    storage_record,
    storage_text,
)
from ciuic.errors import CiuicError
from ciuic.objects.ids import SHORT, short

if TYPE_CHECKING:
    from ciuic.history.notes import Note
    from ciuic.objects.snapshot import Snapshot
    from ciuic.repo import Repo


@click.command("log", cls=Command)
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@click.option("-n", "--limit", metavar="N", type=click.IntRange(min=0), help="The newest N only.")
@click.option("--all", "everything", is_flag=True, help="The snapshots of every branch and tag.")
@click.option(
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    help="Show this metric over the steps; -NAME where the highest is the best. May be given several times.",
)
@pass_session
def log_command(
    session: Session, revision: str | None, limit: int | None, everything: bool, metrics: tuple[str, ...]
) -> None:
    """List the snapshots behind REV (default HEAD) as a graph, newest first.

    A line shows id, step, age, metrics, the bytes that the snapshot added to the store, the refs that point
    to it, its message, and its notes. With --metric the metrics have columns of their own, with the best and the worst
    marked, and on a terminal bars and a line that shows the whole course; "!" in it is a NaN or an infinity.
    """
    if everything and revision is not None:
        raise click.UsageError("--all lists every branch: it takes no REV.")
    repo = session.repo()
    if everything:
        snapshots = graph.children_first(repo.log_all())[:limit]
    else:
        snapshots = graph.children_first(repo.log(revision, limit=limit))
    if not snapshots:
        if limit != 0 and not session.as_json:
            session.remark("No snapshots yet.")
        return
    labels, prunes, notes = labels_by_snapshot(repo), repo.prunes(), session.notes(repo)
    if metrics:
        from ciuic.cli import trend

        trend.write(session, snapshots, metrics, labels, notes)
    elif session.as_json:
        for snapshot in snapshots:
            session.emit(snapshot_record(snapshot, labels, prunes, notes))
    else:
        session.write(_graph_lines(session, snapshots, labels, prunes, notes))


def _graph_lines(session: Session, snapshots: list[Snapshot], labels: Labels, prunes: Prunes, notes: Notes) -> str:
    paint = session.paint
    rows = list(graph.draw(snapshots))
    columns = (
        Column(gap=1),
        Column("yellow"),
        Column(right=True),
        Column("dim", right=True),
        Column(),
        Column("dim", right=True),
    )
    cells = [_log_cells(session, row, snapshot, prunes) for row, snapshot in rows]
    lines = []
    for (_, snapshot), line in zip(rows, aligned(paint, columns, cells), strict=True):
        if snapshot is not None:
            said = paint(notes_text(notes.get(snapshot.id, ())), "magenta")
            tail = (painted_labels(paint, labels.get(snapshot.id, [])), first_line(snapshot.message), said)
            line = "  ".join([line, *filter(None, tail)])
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def _log_cells(session: Session, row: str, snapshot: Snapshot | None, prunes: Prunes) -> list[str]:
    if snapshot is None:
        return [row]
    pruned = pruned_text(prunes.get(snapshot.id, frozenset()))
    return [
        row,
        snapshot.id if session.verbose else short(snapshot.id),
        step_text(snapshot),
        humane.age(snapshot.timestamp, session.now),
        metrics_text(snapshot.metrics),
        pruned or f"+{humane.size(snapshot.added_bytes)}",
    ]


@click.command("show", cls=Command)
@click.argument("revision", metavar="[REV]", default="HEAD", type=REVISION)
@pass_session
def show_command(session: Session, revision: str) -> None:
    """Print one snapshot (default HEAD): where it stands, what it holds and cost, its metrics and configuration.

    "stored" says how the commit stored it, as in `ciuic stats`; the shares are those of what it holds.

    The costs are times: "call" is what the training loop spent in the call, "fence" what an optimizer step waited for
    the copy; "copy", "encode" and "check" (processor time) and "write" went on beside it, unless the call waited for
    them.
    """
    repo = session.repo()
    snapshot = repo.resolve(revision)
    labels, prunes, notes = labels_by_snapshot(repo), repo.prunes(), session.notes(repo)
    if session.as_json:
        record = snapshot_record(snapshot, labels, prunes, notes)
        session.emit({**record, "storage": storage_record(snapshot.storage), "versions": snapshot.versions})
        return
    paint = session.paint
    session.line(f"snapshot {paint(snapshot.id, 'yellow')}  {painted_labels(paint, labels.get(snapshot.id, []))}")
    pruned = prunes.get(snapshot.id, frozenset())
    facts = _facts(session, snapshot, pruned, _as_its_parent(repo, snapshot))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        first, *others = value.split("\n")
        session.line(f"{paint(name.ljust(width), 'dim')}  {first}")
        for line in others:
            session.line(" " * (width + 2) + line)
    for title, values in (("metrics", snapshot.metrics), ("config", snapshot.config)):
        _print_mapping(session, title, {str(key): _value_text(value) for key, value in values.items()})
    _print_components(session, snapshot, pruned)
    if snapshot.message:
        session.line()
        for line in snapshot.message.splitlines():
            session.line(f"    {printable(line)}")
    _print_notes(session, notes.get(snapshot.id, ()))


def _print_notes(session: Session, notes: tuple[Note, ...]) -> None:
    for note in notes:
        session.line()
        about = f"{humane.age(note.time, session.now)}, {printable(note.actor)}"
        session.line(f"{session.paint('note', 'bold')}  {session.paint(about, 'dim')}")
        for line in note.text.strip("\n").split("\n"):
            session.line(f"    {printable(line)}")


def _as_its_parent(repo: Repo, snapshot: Snapshot) -> bool:
    """Every component is the parent's; false where that cannot be read."""
    with contextlib.suppress(CiuicError):
        return bool(snapshot.tree and snapshot.parents) and repo.resolve(snapshot.parents[0]).tree == snapshot.tree
    return False


def _facts(session: Session, snapshot: Snapshot, pruned: frozenset[str], unchanged: bool) -> list[tuple[str, str]]:
    time = snapshot.timestamp.strftime("%Y-%m-%d %H:%M:%S UTC")
    parents = " ".join(session.paint(short(parent), "yellow") for parent in snapshot.parents)
    facts = [
        ("step", "" if snapshot.step is None else str(snapshot.step)),
        ("epoch", "" if snapshot.epoch is None else str(snapshot.epoch)),
        ("time", f"{time}, {humane.age(snapshot.timestamp, session.now)}"),
        ("parent" if len(snapshot.parents) < 2 else "parents", parents or "none"),
        ("contains", printable(", ".join(snapshot.contains))),
        (
            "size",
            f"{humane.size(sum(snapshot.raw_bytes.values()))}; "
            f"the snapshot added {humane.size(snapshot.added_bytes)} to the store"
            + (": the same state as its parent" if unchanged else ""),
        ),
        ("stored", _wrapped(storage_text(snapshot.storage))),
        ("cost", _wrapped(cost_text(snapshot.cost))),
        ("pruned", "all of it" if "*" in pruned else printable(", ".join(sorted(pruned)))),
        ("written by", printable(", ".join(f"{name} {version}" for name, version in snapshot.versions.items()))),
    ]
    return [(name, value) for name, value in facts if value]


def _wrapped(items: list[str]) -> str:
    return "\n".join(wrapped(items, SCREEN - len("written by  ")))


def _print_mapping(session: Session, title: str, values: dict[str, str]) -> None:
    if not values:
        return
    session.line()
    session.line(session.paint(title, "bold"))
    for line in aligned(
        session.paint,
        (Column(), Column()),
        [[f"  {printable(name)}", value] for name, value in values.items()],
    ):
        session.line(line)


def _print_components(session: Session, snapshot: Snapshot, pruned: frozenset[str]) -> None:
    if not snapshot.tree:
        return
    session.line()
    session.line(session.paint("components", "bold"))
    rows = []
    for name, tree in snapshot.tree.items():
        gone = "pruned" if pruned & {name, "*"} else ""
        rows.append([f"  {printable(name)}", humane.size(snapshot.raw_bytes.get(name, 0)), short(tree), gone])
    for line in aligned(session.paint, (Column(), Column(right=True), Column("dim"), Column("red")), rows):
        session.line(line)


def _value_text(value: object) -> str:
    return humane.number(value) if isinstance(value, float) else printable(str(value))


@click.command("reflog", cls=Command)
@click.argument("ref", metavar="[REF]", default="HEAD", type=REF)
@pass_session
def reflog_command(session: Session, ref: str) -> None:
    """List where REF (a branch or tag; default HEAD) has pointed, newest first: the way back from a reset."""
    entries = session.repo().reflog(ref)
    if session.as_json:
        for entry in entries:
            session.emit(
                {
                    "ref": ref,
                    "index": entry.index,
                    "time": entry.time,
                    "old": entry.old,
                    "new": entry.new,
                    "actor": entry.actor,
                    "action": entry.action,
                }
            )
        return
    rows = [
        [
            _reflog_value(entry.new),
            f"{printable(ref)}@{{{entry.index}}}",
            humane.age(entry.time, session.now),
            printable(entry.action),
            printable(entry.actor),
        ]
        for entry in entries
    ]
    columns = (Column("yellow"), Column(), Column("dim", right=True), Column(), Column("dim"))
    for line in aligned(session.paint, columns, rows):
        session.line(line)


def _reflog_value(value: str | None) -> str:
    """A short id; a branch that HEAD was attached to by its name; dashes for a deleted ref."""
    if value is None:
        return "-" * SHORT
    return printable(value.removeprefix("ref:refs/heads/")) if value.startswith("ref:") else short(value)
