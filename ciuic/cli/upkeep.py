"""Commands that keep a repository small and sound: gc, repack, fsck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from ciuic.cli import humane
from ciuic.cli.amounts import AMOUNT
from ciuic.cli.completion import REVISION
from ciuic.cli.durations import DURATION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import snapshot_text, verification_text
from ciuic.errors import CiuicError, DamageError
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.repo import Repo
    from ciuic.store.fsck import FsckReport
    from ciuic.store.gc import GcReport
    from ciuic.store.verification import Budget


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
    kept = "Would keep" if report.dry_run else "Kept"
    yield f"{kept} {humane.size(report.kept_bytes)} for {humane.count(report.snapshots, 'snapshot')}"
    if report.snapshots:
        yield f"  {report.held_by_refs} behind branches, tags and HEAD"
    if report.held_by_reflog:
        size = humane.size(report.reflog_bytes)
        yield f"  {report.held_by_reflog} in reflogs alone, {size}; --expire AGE lets go of it sooner"
    if report.pruned:
        yield f"  {report.pruned} of them pruned, whole or in part"
    if report.resting_bytes:
        yield f"  {humane.size(report.resting_bytes)} only because other chunks rest on it"
    if report.rebased:
        chunks = humane.count(report.rebased, "chunk")
        yield f"Stored {chunks} anew, in {humane.size(report.rebased_bytes)}: they rested on what was pruned"
    forgot = "Would forget" if report.dry_run else "Forgot"
    for log, records in sorted(report.expired_records.items()):
        name = log.removeprefix("refs/heads/").removeprefix("refs/tags/")
        yield f"{forgot} {humane.count(records, 'reflog entry', 'reflog entries')} of {printable(name)}"
    for pack in report.quarantined:
        yield session.paint(f"Quarantined the damaged pack {pack}", "red")


@click.command("repack", cls=Command)
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@click.option("--flatten", metavar="REV", type=REVISION, help="Make this snapshot self-contained instead.")
@pass_session
def repack_command(session: Session, dry_run: bool, flatten: str | None) -> None:
    """Store anew what rests on chunks that no snapshot needs, and rewrite packs without what is dead.

    gc does the same when there is enough to gain. With --flatten each chunk of the snapshot gets a copy that rests on
    no other: it is restored faster, and takes more room.
    """
    if flatten is not None and dry_run:
        raise click.UsageError("--dry-run says nothing about --flatten: give one of the two.")
    report = session.repo().repack(flatten, dry_run=dry_run)
    if session.as_json:
        session.emit(asdict(report))
        return
    if report.gc is None:
        chunks = humane.count(report.chunks, "chunk")
        session.line(session.paint(f"Stored {chunks} anew", "bold") + f": {humane.size(report.added_bytes)}")
        session.line(f"{short(report.flattened or '')} rests on no other snapshot now")
        session.remark("`ciuic gc` frees what only it rested on.")
        return
    for line in _gc_lines(session, report.gc):
        session.line(line)


@click.command("fsck", cls=Command)
@click.option(
    "--read-data",
    metavar="[=AMOUNT]",
    type=AMOUNT,
    is_flag=False,
    flag_value="100%",
    help="Read every stored byte too; with 5%, 10GiB or 10m (minutes) so much of it, what was read longest ago first.",
)
@pass_session
def fsck_command(session: Session, read_data: Budget | None) -> None:
    """Check the repository. Ends with exit code 40 when something is damaged.

    A share a day, `ciuic fsck --read-data=5%`, reads everything within weeks: when each pack was read is remembered.
    """
    repo = session.repo()
    with session.progress("checking", unit="packs") as progress:
        report = repo.fsck(read_data=read_data or False, progress=progress)
    if session.as_json:
        session.emit({"ok": report.ok, **asdict(report)})
    else:
        for line in _fsck_lines(session, repo, report):
            session.line(line)
    if not report.ok:
        click.get_current_context().exit(DamageError.exit_code)


def _fsck_lines(session: Session, repo: Repo, report: FsckReport) -> Iterator[str]:
    for problem in report.problems:
        yield f"{session.paint('damaged:', 'red')} {printable(problem, keep=chr(10))}"
    for snapshot in report.damaged_snapshots:
        yield f"{session.paint('cannot be restored whole:', 'red')} snapshot {_named(session, repo, snapshot)}"
    counts = ", ".join(
        [
            humane.count(report.snapshots, "snapshot"),
            humane.count(report.trees, "tree"),
            humane.count(report.chunks, "chunk"),
            humane.count(report.packs, "pack"),
        ]
    )
    verdict = "No damage" if report.ok else humane.count(len(report.problems), "problem")
    yield f"{session.paint(verdict, 'bold')}: {counts} ({_depth_text(report)})"
    if report.packs:
        yield session.paint(
            verification_text(report.never_verified, report.packs, report.oldest_verification, session.now), "dim"
        )
    if not report.ok:
        session.remark("`ciuic repair` says what can be saved, and how.")


def _named(session: Session, repo: Repo, snapshot: str) -> str:
    """With its step, where that much can be read."""
    try:
        return snapshot_text(session.paint, repo.resolve(snapshot))
    except CiuicError:
        return short(snapshot)


def _depth_text(report: FsckReport) -> str:
    if report.read_data:
        return "every byte read"
    if not report.verified_bytes:
        return "data not read; --read-data reads it"
    share = humane.share(report.verified_bytes / max(report.pack_bytes, 1))
    return f"{share} of the data read: {humane.size(report.verified_bytes)} of {humane.size(report.pack_bytes)}"
