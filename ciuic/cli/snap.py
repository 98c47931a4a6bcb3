"""The command snap: asks a running training for a snapshot now."""

from __future__ import annotations

from dataclasses import asdict

import click

from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import snapshot_text
from ciuic.errors import BackgroundError


@click.command("snap", cls=Command)
@click.option("-m", "--message", metavar="TEXT", default="", help="Why: the snapshot's message will say it.")
@click.option("--wait", is_flag=True, help="Wait until the snapshot is durable, and print it.")
@pass_session
def snap_command(session: Session, message: str, wait: bool) -> None:
    """Ask a running training for a snapshot at the end of its current step.

    Each training that runs on the repository takes one, on its own branch. Ends with exit code 105 when none runs.
    """
    from ciuic.triggers.requests import ask

    repository = session.repository_path()
    failures = []
    for answer in ask(repository, message, wait=wait):
        if answer.error is not None:
            failures.append(printable(answer.error))
        if session.as_json:
            session.emit(asdict(answer))
        elif answer.snapshot is not None:
            session.line(snapshot_text(session.paint, session.repo().resolve(answer.snapshot)))
        elif answer.error is None:
            session.line(f"Process {answer.pid} takes a snapshot at the end of its step")
    if failures:
        raise BackgroundError("\n".join(failures))
