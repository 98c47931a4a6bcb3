"""The command doctor: what a run depends on, on one page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import humane
from ciuic.cli.paint import pad, printable
from ciuic.cli.session import Command, Session, pass_session

if TYPE_CHECKING:
    from ciuic.doctor import Finding

COLORS = {"ok": "green", "note": "yellow", "problem": "red"}
LEVEL, SUBJECT, WIDTH = 9, 13, 100


@click.command("doctor", cls=Command)
@pass_session
def doctor_command(session: Session) -> None:
    """Look at what a run depends on here: disk, locks, memory, the repository, and what would end the writer with it.

    Run it where the training runs: in the same container, job or service. Each line is ok, a note or a problem, with
    what to do about it. No data is read; `ciuic fsck` does that. Ends with exit code 1 when there is a problem.
    """
    findings = session.repo().doctor()
    for finding in findings:
        if session.as_json:
            session.emit(_record(session, finding))
        else:
            for line in _lines(session, finding):
                session.line(line)
    if any(finding.level == "problem" for finding in findings):
        click.get_current_context().exit(1)


def _record(session: Session, finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level,
        "subject": finding.subject,
        "text": _worded(session, finding, finding.text),
        "advice": _worded(session, finding, finding.advice),
        "facts": finding.facts,
    }


def _lines(session: Session, finding: Finding) -> Iterator[str]:
    """The level, the subject, and the text; the advice below it."""
    blank = " " * (LEVEL + SUBJECT)
    start = session.paint(pad(finding.level, LEVEL), COLORS[finding.level]) + pad(finding.subject, SUBJECT)
    for part in (finding.text, finding.advice):
        for line in textwrap.wrap(
            printable(_worded(session, finding, part)), WIDTH - len(blank), break_on_hyphens=False
        ):
            yield start + (session.paint(line, "dim") if part is finding.advice and part else line)
            start = blank


def _worded(session: Session, finding: Finding, text: str) -> str:
    """With the facts in it, as people read them."""
    return text.format(**{name: _fact(session, name, value) for name, value in finding.facts.items()}) if text else ""


def _fact(session: Session, name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return humane.size(value)
    if isinstance(value, datetime):
        return humane.age(value, session.now)
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)
