"""The command note: what people want to remember of a snapshot, written after the fact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.completion import REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import first_line, note_record, snapshot_text
from ciuic.errors import CiuicError
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.history.notes import Note
    from ciuic.objects.snapshot import Snapshot
    from ciuic.repo import Repo


@click.command("note", cls=Command)
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@click.argument("text", metavar="[TEXT]", required=False)
@click.option("-d", "--delete", "number", metavar="N", type=click.IntRange(min=1), help="Take back note N of REV.")
@pass_session
def note_command(session: Session, revision: str | None, text: str | None, number: int | None) -> None:
    """Write the note TEXT on REV; without TEXT list the notes on REV, without REV all notes.

    A snapshot may have several, each of at most 4096 bytes; `log` and `show` print them. The snapshot itself and its id
    stay as they are, and a note keeps no snapshot from gc.
    """
    repo = session.repo()
    if revision is None:
        if number is not None:
            raise click.UsageError("-d needs the REV whose note N to take back.")
        _list_all(session, repo)
        return
    snapshot = repo.resolve(revision)
    notes = repo.notes().get(snapshot.id, ())
    if number is not None:
        if text is not None:
            raise click.UsageError("-d takes a REV and N; the TEXT is one too many.")
        if number > len(notes):
            has = humane.count(len(notes), "note") if notes else "no note"
            raise click.UsageError(f"{short(snapshot.id)} has {has}. `ciuic note {short(snapshot.id)}` lists them.")
        repo.delete_note(snapshot, notes[number - 1].key)
        _say(session, snapshot, number, notes[number - 1], deleted=True)
    elif text is not None:
        _say(session, snapshot, len(notes) + 1, repo.note(snapshot, text), deleted=False)
    else:
        _list(session, snapshot, notes)


def _say(session: Session, snapshot: Snapshot, number: int, note: Note, *, deleted: bool) -> None:
    if session.as_json:
        session.emit({**note_record(number, note), "snapshot": snapshot.id, "step": snapshot.step, "deleted": deleted})
        return
    where = snapshot_text(session.paint, snapshot)
    session.line(f"note {number} on {where}" + (f" deleted; it said: {first_line(note.text)}" if deleted else ""))


def _list(session: Session, snapshot: Snapshot, notes: tuple[Note, ...]) -> None:
    if session.as_json:
        for number, note in enumerate(notes, 1):
            session.emit({**note_record(number, note), "snapshot": snapshot.id, "step": snapshot.step})
        return
    rows = [
        [str(number) if not line else "", humane.age(note.time, session.now) if not line else "", text]
        for number, note in enumerate(notes, 1)
        for line, text in enumerate(map(printable, note.text.strip("\n").split("\n")))
    ]
    for line in aligned(session.paint, (Column(right=True), Column("dim", right=True), Column()), rows):
        session.line(line)
    if not notes:
        session.remark(f"No notes on {snapshot_text(session.paint, snapshot)}.")


def _list_all(session: Session, repo: Repo) -> None:
    everything = [*_numbered(repo)]
    if session.as_json:
        for id, step, number, note in everything:
            session.emit({**note_record(number, note), "snapshot": id, "step": step})
        return
    rows = [
        [
            short(id),
            "" if step is None else f"step {step}",
            str(number),
            humane.age(note.time, session.now),
            first_line(note.text),
        ]
        for id, step, number, note in everything
    ]
    columns = (Column("yellow"), Column(right=True), Column(right=True), Column("dim", right=True), Column())
    for line in aligned(session.paint, columns, rows):
        session.line(line)
    if not rows:
        session.remark("No notes yet.")


def _numbered(repo: Repo) -> Iterator[tuple[str, int | None, int, Note]]:
    """Id, step, number and note; a snapshot that gc has collected has no step any more."""
    for id, notes in repo.notes().items():
        try:
            step = repo.resolve(id).step
        except CiuicError:
            step = None
        for number, note in enumerate(notes, 1):
            yield id, step, number, note
