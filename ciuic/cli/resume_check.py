"""The command verify-resume: the same bits, interrupted or not?"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ciuic.cli import humane
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.supervision import VERBATIM
from ciuic.errors import ResumeDiffers

if TYPE_CHECKING:
    from ciuic.supervisor.comparing import Difference
    from ciuic.supervisor.resume_check import Verdict
    from ciuic.supervisor.trial import Interruption

MOST_LISTED = 8


@click.command("verify-resume", cls=Command, context_settings=VERBATIM)
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--times", metavar="N", default=3, type=click.IntRange(min=1), help="Interrupt it so often. Default 3.")
@click.option("--interrupt-at", metavar="STEPS", help="After these steps, not random ones: 5,9,12.5.")
@click.option("--seed", metavar="N", type=int, help="Of the random moments.")
@click.option(
    "--every", metavar="N", default=1, type=click.IntRange(min=1), help="A snapshot every N steps. Default 1."
)
@click.option(
    "--keep", metavar="DIR", type=click.Path(), help="Keep the repositories and the output in DIR, new or empty."
)
@pass_session
def verify_resume_command(
    session: Session,
    command: tuple[str, ...],
    times: int,
    interrupt_at: str | None,
    seed: int | None,
    every: int,
    keep: str | None,
) -> None:
    """Run a script uninterrupted, and again with SIGKILL on the way, and compare all that their snapshots hold.

    Says whether the two agree bit for bit, and if not, from which step and which tensor on, and what it probably is.
    Give the script few steps: it runs two or three times, with a snapshot after each step.

    The snapshots go to temporary repositories in place of the script's own. Everything else is as by hand: it runs in
    the current folder, and what it writes there by itself, it writes again each time.
    """
    from ciuic.supervisor.resume_check import verify_resume
    from ciuic.supervisor.trial import Script

    logging.getLogger("ciuic").setLevel(logging.ERROR)  # that a killed run's writer is waited for is no news here
    script = Script(command, os.environ, os.getcwd(), every, quiet=session.verbose == 0 or session.as_json)
    with _folder(keep) as folder:
        verdict = verify_resume(script, folder, session.remark, times=times, at=_steps(interrupt_at), seed=seed)
    if session.as_json:
        session.emit({"same": verdict.same, **asdict(verdict)})
    else:
        for line in _lines(session, verdict):
            session.line(line)
    if not verdict.same:
        kept = f" Both repositories are in {keep} ." if keep else " `--keep DIR` keeps both repositories to look at."
        raise ResumeDiffers(f"Interrupted, the script does not end with the same bits.{kept}")


def _steps(text: str | None) -> list[float]:
    try:
        steps = [float(word) for word in text.split(",")] if text else []
    except ValueError:
        steps = [-1.0]
    if not all(0 <= step < 1e15 for step in steps):
        raise click.UsageError("--interrupt-at takes steps with commas between: 5,9,12.5.")
    return steps


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[str]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="ciuic-verify-") as folder:
            yield folder
        return
    os.makedirs(keep, exist_ok=True)
    if os.listdir(keep):
        raise click.UsageError(f"{keep} is not empty. Give --keep a new folder.")
    yield os.path.abspath(keep)


def _lines(session: Session, verdict: Verdict) -> Iterator[str]:
    comparison = verdict.comparison
    for each in verdict.interruptions:
        yield _interruption(each)
    held = printable(", ".join(comparison.components))
    yield f"compared     {humane.count(len(comparison.steps), 'step')}: {held}"
    if comparison.unseeded:
        names = printable(", ".join(comparison.unseeded))
        needless = ", and nothing depends on" if verdict.same else ""
        yield f"left out     generators that nobody has seeded{needless}: {names}"
    if verdict.same:
        yield session.paint("The same, bit for bit.", "green", "bold")
        return
    if comparison.difference is not None:
        yield from _difference(session, comparison.difference)
    yield f"probably     {printable(verdict.cause)}"


def _interruption(each: Interruption) -> str:
    after = "before its first step" if each.after is None else f"after step {each.after}"
    return f"interrupted  {after}, " + (
        "begun anew" if each.resumed is None else f"resumed from the snapshot of step {each.resumed}"
    )


def _difference(session: Session, difference: Difference) -> Iterator[str]:
    yield session.paint(f"Different from step {difference.step} on:", "red", "bold")
    for path in difference.paths[:MOST_LISTED]:
        yield f"  {printable(path)}"
    more = len(difference.paths) - MOST_LISTED
    if more > 0:
        yield session.paint(f"  … {more} more", "dim")
    if difference.tensor is not None:
        when = "" if difference.tensor_step == difference.step else f", after step {difference.tensor_step}"
        yield f"first tensor {printable(difference.tensor)}{when}"
