"""The command repair: what can be saved of a damaged repository, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ciuic.cli import humane
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.errors import DamageError
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.store.losses import Loss
    from ciuic.store.repair import Found, LogRepair, LostSnapshot, PackRepair, RepairReport

MOST_LISTED = 12
"""Tensors of one snapshot, unless -v asks for all."""


@click.command("repair", cls=Command)
@click.option("--yes", is_flag=True, help="Do it. Without it nothing is changed, and only said.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, as without --yes.")
@pass_session
def repair_command(session: Session, yes: bool, dry_run: bool) -> None:
    """Save what can be saved of a damaged repository, and say exactly what is lost. With --yes; without, only say it.

    Reads every byte. Intact records of damaged packs go into new packs, intact records of damaged logs into new logs;
    the damaged files are kept in quarantine/, for you to delete. The index is built anew. Where the newest record of a
    log is lost, what it named gets a branch. No snapshot is given up: those that lost something stay in the log.

    Ends with exit code 40 while something is damaged or lost. Killed or out of space, it can be run again.
    """
    if yes and dry_run:
        raise click.UsageError("--yes does it, --dry-run only says it: give one of the two.")
    with session.progress("reading", unit="packs") as progress:
        report = session.repo().repair(dry_run=not yes, progress=progress)
    if session.as_json:
        session.emit({**asdict(report), "needed": report.needed, "whole": report.whole})
    else:
        for line in _lines(session, report):
            session.line(line)
    if not report.whole or (report.needed and not yes):
        click.get_current_context().exit(DamageError.exit_code)


def _lines(session: Session, report: RepairReport) -> Iterator[str]:
    if not report.needed and report.whole:
        done = "" if report.dry_run else "; the index is built anew"
        yield session.paint("Nothing to repair", "bold") + f": every byte was read, and every snapshot is whole{done}"
        return
    yield from _mended(session, report)
    yield from _lost(session, report)
    if report.dry_run and report.needed:
        yield "Nothing was changed. `ciuic repair --yes` does it; damaged files are kept in quarantine/."
    elif report.lost:
        yield "Damaged snapshots stay in the log. gc runs again once `ciuic prune ID` has given each of them up."


def _mended(session: Session, report: RepairReport) -> Iterator[str]:
    def did(done: str, would: str) -> str:
        return session.paint(would if report.dry_run else done, "bold")

    if report.packs:
        packs = humane.count(len(report.packs), "damaged pack")
        saved = humane.count(sum(pack.saved for pack in report.packs), "intact record")
        yield did("Saved", "Would save") + f" {saved} of {packs}, and set {_them(report.packs)} aside"
        for pack in report.packs:
            yield f"  {short(pack.name)}  {printable(_pack_text(pack))}"
    if report.logs:
        logs = humane.count(len(report.logs), "damaged log")
        yield did("Wrote", "Would write") + f" {logs} anew, with the old {_them(report.logs, 'file')} kept"
        for log in report.logs:
            yield f"  {printable(_name(log.name))}  {printable(_log_text(log))}"
    for file in report.aside:
        yield did("Moved", "Would move") + f" {printable(file)} away, which is no log"
    for folder in report.made:
        yield did("Made", "Would make") + f" the folder {folder}, which is missing"
    for found in report.found:
        if found.branch is not None:
            which = _snapshot(session, found)
            yield did("Made", "Would make") + f" the branch {found.branch} for {which}, which no log names any more"
    if report.needed:
        yield did("Built", "Would build") + " the index anew"
    for name, problem in report.unreadable.items():
        yield session.paint("Cannot be opened: ", "red") + f"{short(name)}  {printable(problem)}"


def _lost(session: Session, report: RepairReport) -> Iterator[str]:
    for found in report.found:
        if found.losses:
            yield f"{session.paint('Not whole', 'red')}, and no log names it any more: {_snapshot(session, found)}"
            yield from (f"    {line}" for line in _loss_lines(session, found))
    if not report.lost:
        if not report.unreadable:
            then = " then" if report.dry_run else ""
            yield session.paint("Nothing is lost", "bold") + f": every snapshot of the log is whole{then}"
        return
    yield session.paint(f"Lost for {humane.count(len(report.lost), 'snapshot')}", "red", "bold") + ":"
    for snapshot in report.lost:
        yield f"  {_snapshot(session, snapshot)}"
        yield from (f"    {line}" for line in _loss_lines(session, snapshot))
    for branch in report.branches:
        name = printable(branch.name)
        if branch.intact is None:
            yield f"{session.paint('No intact snapshot', 'red')} on {name}"
        elif branch.intact != branch.tip:
            step = "" if branch.step is None else f" (step {branch.step})"
            where = "" if branch.name == "HEAD" else f" --branch {name}"
            yield (
                f"Newest intact snapshot of {name}: {session.paint(short(branch.intact), 'yellow')}{step}; "
                f"`ciuic reset {short(branch.intact)}{where}` goes back to it"
            )


def _snapshot(session: Session, snapshot: LostSnapshot | Found) -> str:
    step = "" if snapshot.step is None else f" (step {snapshot.step})"
    return session.paint(short(snapshot.id), "yellow") + step


def _loss_lines(session: Session, snapshot: LostSnapshot | Found) -> Iterator[str]:
    if snapshot.losses is None:
        yield "all of it: the snapshot itself cannot be read"
        return
    listed = snapshot.losses if session.verbose else snapshot.losses[:MOST_LISTED]
    for loss in listed:
        yield printable(f"{loss.path}: {_chunks_text(loss)}")
    if len(listed) < len(snapshot.losses):
        yield f"and {len(snapshot.losses) - len(listed)} more; -v before the command lists them"


def _chunks_text(loss: Loss) -> str:
    """ "chunk 3", "chunks 1-4, 7", "all below it"."""
    if not loss.chunks:
        return "all below it"
    runs: list[list[int]] = []
    for number in loss.chunks:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    text = ", ".join("-".join(map(str, run)) for run in runs)
    return f"{'chunk' if len(loss.chunks) == 1 else 'chunks'} {text}"


def _pack_text(pack: PackRepair) -> str:
    problem = pack.problem.split(".pack: ", 1)[-1].removesuffix(" Run `ciuic fsck`.").rstrip(".")
    lost = "" if not pack.lost else f", {pack.lost} lost"
    return f"{problem}: {humane.count(pack.saved, 'record')} saved{lost}"


def _log_text(log: LogRepair) -> str:
    parts = [humane.count(log.kept, "record") + " kept"]
    if log.corrected:
        parts.append(f"{log.corrected} with a wrong bit, which is corrected")
    if log.lost:
        parts.append(f"{log.lost} lost")
    if log.end_lost:
        back = "nothing" if log.value is None else short(log.value.rpartition("/")[2])
        parts.append(f"the newest among them, so it points to {back}")
    return ", ".join(parts)


def _name(log: str) -> str:
    return log.removeprefix("refs/heads/").removeprefix("refs/tags/")


def _them(things: tuple[object, ...], noun: str = "") -> str:
    """ "it", "them", "file", "files"."""
    if noun:
        return noun if len(things) == 1 else f"{noun}s"
    return "it" if len(things) == 1 else "them"
