"""Commands that keep a repository small and sound: prune, gc, fsck, stats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.completion import REVISION
from ciuic.cli.durations import DURATION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import short, snapshot_text
from ciuic.errors import DamageError

if TYPE_CHECKING:
    from ciuic.history.statistics import Stats
    from ciuic.store.fsck import FsckReport
    from ciuic.store.gc import GcReport


@click.command("prune", cls=Command)
@click.argument("revision", metavar="REV", type=REVISION)
@click.option("--component", metavar="C", help="Give up this component only: optimizer, gradients, …")
@pass_session
def prune_command(session: Session, revision: str, component: str | None) -> None:
    """Give up the state of a snapshot, or one component of it, for good. The next gc frees its space.

    The snapshot keeps its place in the log, with step, metrics and configuration.
    """
    repo = session.repo()
    snapshot = repo.resolve(revision)
    repo.prune(snapshot.id, component)
    if session.as_json:
        session.emit({"snapshot": snapshot.id, "component": component, "pruned": repo.prune_state(snapshot.id)})
        return
    what = f"The {component} of " if component else ""
    session.line(f"{what}{snapshot_text(session.paint, snapshot)} is pruned")
    session.remark("`ciuic gc` frees the space.")


@click.command("gc", cls=Command)
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@click.option("--expire", metavar="AGE", type=DURATION, help="Forget reflog entries older than AGE: now, 12h, 30d.")
@click.option("--trust-clock", is_flag=True, help="Judge ages even when the clock and the logs disagree.")
@pass_session
def gc_command(session: Session, dry_run: bool, expire: timedelta | None, trust_clock: bool) -> None:
    """Free what no branch, tag, HEAD or reflog entry needs, and what was pruned. Says why the rest stays."""
    report = session.repo().gc(dry_run=dry_run, expire=expire, trust_clock=trust_clock)
    if session.as_json:
        session.emit(asdict(report))
        return
    for line in _gc_lines(session, report):
        session.line(line)


def _gc_lines(session: Session, report: GcReport) -> Iterator[str]:
    would = "Would free" if report.dry_run else "Freed"
    packs = [(report.freed_packs, "removed"), (report.repacked_packs, "rewritten without what is dead")]
    details = ", ".join(f"{humane.count(number, 'pack')} {what}" for number, what in packs if number)
    yield session.paint(f"{would} {humane.size(max(report.freed_bytes, 0))}", "bold") + (
        f": {details}" if details else ""
    )
    yield f"Kept {humane.size(report.kept_bytes)} for {humane.count(report.snapshots, 'snapshot')}"
    if report.snapshots:
        yield f"  {report.held_by_refs} behind branches, tags and HEAD"
    if report.held_by_reflog:
        size = humane.size(report.reflog_bytes)
        yield f"  {report.held_by_reflog} in reflogs alone, {size}; --expire AGE lets go of it sooner"
    if report.pruned:
        yield f"  {report.pruned} of them pruned, whole or in part"
    forgot = "Would forget" if report.dry_run else "Forgot"
    for log, records in sorted(report.expired_records.items()):
        name = log.removeprefix("refs/heads/").removeprefix("refs/tags/")
        yield f"{forgot} {humane.count(records, 'reflog entry', 'reflog entries')} of {printable(name)}"
    for pack in report.quarantined:
        yield session.paint(f"Quarantined the damaged pack {pack}", "red")


@click.command("fsck", cls=Command)
@click.option("--read-data", is_flag=True, help="Read and decode every stored byte, not the structure only.")
@pass_session
def fsck_command(session: Session, read_data: bool) -> None:
    """Check the repository. Ends with exit code 40 when something is damaged."""
    with session.progress("checking", unit="packs") as progress:
        report = session.repo().fsck(read_data=read_data, progress=progress)
    if session.as_json:
        session.emit({"ok": report.ok, **asdict(report)})
    else:
        for line in _fsck_lines(session, report):
            session.line(line)
    if not report.ok:
        click.get_current_context().exit(DamageError.exit_code)


def _fsck_lines(session: Session, report: FsckReport) -> Iterator[str]:
    for problem in report.problems:
        yield f"{session.paint('damaged:', 'red')} {printable(problem, keep=chr(10))}"
    for snapshot in report.damaged_snapshots:
        yield f"{session.paint('cannot be restored whole:', 'red')} snapshot {short(snapshot)}"
    counts = ", ".join(
        [
            humane.count(report.snapshots, "snapshot"),
            humane.count(report.trees, "tree"),
            humane.count(report.chunks, "chunk"),
            humane.count(report.packs, "pack"),
        ]
    )
    depth = "every byte read" if report.read_data else "data not read; --read-data reads it"
    verdict = "No damage" if report.ok else humane.count(len(report.problems), "problem")
    yield f"{session.paint(verdict, 'bold')}: {counts} ({depth})"


@click.command("stats", cls=Command)
@pass_session
def stats_command(session: Session) -> None:
    """Show how much the snapshots hold, how little of it is stored, where the saving comes from, and what they took.

    The times are those of `ciuic show`, over the snapshots that have them.
    """
    stats = session.repo().stats()
    if session.as_json:
        by_codec = {name: {"raw_bytes": raw, "stored_bytes": stored} for name, (raw, stored) in stats.by_codec.items()}
        savings = {"identical_bytes": stats.identical_bytes, "coded_bytes": stats.coded_bytes}
        session.emit({**asdict(stats), **savings, "by_codec": by_codec})
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
    session.line()
    columns = (Column(), Column(right=True), Column("dim", right=True), Column("dim"))
    for line in aligned(session.paint, columns, list(_stats_rows(stats))):
        session.line(line)
    if stats.costs:
        session.line()
        for line in aligned(session.paint, columns, list(_cost_rows(stats))):
            session.line(line)


def _stats_rows(stats: Stats) -> Iterator[list[str]]:
    """From what the snapshots hold to what the disk holds."""

    def row(title: str, size: int, remark: str = "") -> list[str]:
        return [title, humane.size(size), humane.percent(size / stats.raw_bytes), remark]

    def saving(title: str, size: int, remark: str) -> list[str]:
        sign = "-" if size > 0 else "+" if size < 0 else ""
        return [title, sign + humane.size(abs(size)), humane.percent(abs(size) / stats.raw_bytes), remark]

    yield row("raw", stats.raw_bytes, "every snapshot as files of its own")
    for name, size in sorted(stats.raw_by_component.items(), key=lambda item: -item[1]):
        yield row(f"  {printable(name)}", size)
    yield saving("identical", stats.identical_bytes, "was stored already")
    yield saving("coded", stats.coded_bytes, "compressed away")
    for name, (raw, stored) in sorted(stats.by_codec.items(), key=lambda item: -item[1][0]):
        yield saving(f"  {printable(name)}", raw - stored, f"{humane.size(raw)} as {humane.size(stored)}")
    yield row("stored", stats.stored_bytes)
    yield row("on disk", stats.pack_bytes, "with trees, indexes, and what gc could free")


def _cost_rows(stats: Stats) -> Iterator[list[str]]:
    yield ["cost", "median", "worst", ""]
    for name, cost in stats.costs.items():
        yield [
            f"  {printable(name)}",
            humane.seconds(cost.median),
            humane.seconds(cost.worst),
            humane.count(cost.snapshots, "snapshot"),
        ]
