"""Commands around a run: run, which starts it again until it is done, and runs, which tells what came of it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.discovery import USUAL, is_repository
from ciuic.cli.durations import SECONDS
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.errors import NotARepository

if TYPE_CHECKING:
    from ciuic.supervisor.runs import Attempt, Run

PATIENT_S = 1200.0
TAIL = 20
COLORS = {"done": "green", "running": "cyan", "failed": "red", "lost": "red", "stopped": "yellow"}
VERBATIM = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""For a command that takes a command line: what follows the first word is not ours."""


@click.command("run", cls=Command, context_settings=VERBATIM)
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--repo", "repository", metavar="DIR", type=click.Path(), help="The repository of the run.")
@click.option(
    "--max-restarts",
    metavar="N",
    default=10,
    type=click.IntRange(min=0),
    help="Give up after N restarts without a new snapshot. Default 10.",
)
@click.option("--backoff", metavar="T", default="1s", type=SECONDS, help="The first pause, then doubled. Default 1s.")
@click.option("--backoff-limit", metavar="T", default="5m", type=SECONDS, help="The longest pause. Default 5m.")
@click.option("--hang", metavar="T", type=SECONDS, help="No step for so long is a hang. Without it nothing is.")
@click.option(
    "--hang-outside",
    metavar="T",
    type=SECONDS,
    help="The same before the first step and after the last. Default 20m, or --hang where that is longer.",
)
@click.option(
    "--grace",
    metavar="T",
    default="60s",
    type=SECONDS,
    help="After SIGTERM, SIGINT or SIGHUP, so long until SIGKILL. Default 60s.",
)
@pass_session
def run_command(
    session: Session,
    command: tuple[str, ...],
    repository: str | None,
    max_restarts: int,
    backoff: float,
    backoff_limit: float,
    hang: float | None,
    hang_outside: float | None,
    grace: float,
) -> None:
    """Run a training, and start it again after a crash, a hang or a lack of memory, until it is done.

    The script resumes by itself, as it does by hand: this command only starts it. Restarts are counted anew when a
    further snapshot was published. Dying twice at one step moves HEAD back by one snapshot; the branch stays as it is.
    It is not started again after exit code 0, after SIGTERM, SIGINT or SIGHUP (which are passed on), or when it fails
    three times in the same way before its first step. Ends with the exit code of the command, 128 + a signal.

    The repository is --repo, or else the one that every command finds; without any, snapshots is made in the current
    folder. What is said, and how each attempt ended, is kept there: see `ciuic runs`.
    """
    from ciuic.supervisor.attempt import Start
    from ciuic.supervisor.policy import Policy
    from ciuic.supervisor.pulse import Patience
    from ciuic.supervisor.supervising import Supervisor

    patience = Patience()
    if 0 in (hang, hang_outside):
        raise click.UsageError("A hang takes some time. Without --hang nothing is one.")
    if hang is not None:
        patience = Patience(hang, max(hang, PATIENT_S) if hang_outside is None else hang_outside)
    elif hang_outside is not None:
        raise click.UsageError("--hang-outside goes with --hang T.")
    start = Start(
        command=command,
        environment=os.environ,
        folder=os.getcwd(),
        terminals=(os.isatty(1), os.isatty(2)),
        quiet_input=os.isatty(0),
        patience=patience,
        grace_s=grace,
    )
    where = os.path.abspath(repository) if repository else _repository(session)

    def say(text: str) -> None:
        try:
            sys.stderr.write(f"ciuic: {printable(text)}\n")
            sys.stderr.flush()
        except OSError:  # whoever read it has gone; the run goes on
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)
            os.close(nothing)

    policy = Policy(max_restarts, backoff, backoff_limit)
    shown_by = f"ciuic --repo {shlex.quote(repository)} runs" if repository else "ciuic runs"
    click.get_current_context().exit(Supervisor(where, start, policy, say, shown_by).run())


def _repository(session: Session) -> str:
    """Where a run's history goes: the repository that its script is most likely to use."""
    try:
        return session.repository_path()
    except NotARepository:
        return os.path.abspath(USUAL)


@click.command("runs", cls=Command)
@click.argument("name", metavar="[ID]", required=False)
@click.option(
    "-n", "--lines", metavar="N", default=TAIL, type=click.IntRange(min=0), help="Of each attempt. Default 20."
)
@pass_session
def runs_command(session: Session, name: str | None, lines: int) -> None:
    """List what `ciuic run` has run here, newest last; or show one, by its id or the end of it, with each attempt and
    the last lines that it said.
    """
    from ciuic.supervisor.output_log import last_lines
    from ciuic.supervisor.runs import find_run, list_runs

    repository = _repository(session)
    if not is_repository(repository):
        repository = session.repository_path()
    if name is None:
        _list(session, list_runs(repository))
        return
    run = find_run(repository, name)
    tails = {attempt.number: last_lines(run.log(attempt.number), lines) if lines else [] for attempt in run.attempts}
    if session.as_json:
        attempts = [{**asdict(attempt), "tail": tails[attempt.number]} for attempt in run.attempts]
        session.emit({**_record(run), "attempts": attempts})
        return
    for line in _shown(session, run, tails):
        session.line(line)


def _record(run: Run) -> dict[str, Any]:
    return {**asdict(run), "step": run.step, "attempts": len(run.attempts)}


def _list(session: Session, runs: list[Run]) -> None:
    if session.as_json:
        for run in runs:
            session.emit(_record(run))
        return
    if not runs:
        session.remark("No runs yet. `ciuic run -- python train.py` makes the first.")
    rows = [
        [
            run.id,
            run.state,
            humane.count(len(run.attempts), "attempt"),
            "" if run.step is None else f"step {run.step}",
            "" if run.began is None else humane.age(run.began, session.now),
            _command(run),
        ]
        for run in runs
    ]
    columns = (Column("yellow"), Column(), Column(right=True), Column(right=True), Column("dim", right=True), Column())
    for line in aligned(session.paint, columns, rows):
        session.line(line)


def _shown(session: Session, run: Run, tails: dict[int, list[str]]) -> Iterator[str]:
    paint = session.paint
    yield f"run {paint(run.id, 'yellow')}  {paint(run.state, COLORS[run.state])}"
    yield f"command  {_command(run)}"
    yield f"in       {printable(run.folder)}"
    if run.began is not None:
        yield f"began    {run.began:%Y-%m-%d %H:%M:%S} UTC, {humane.age(run.began, session.now)}"
    if run.ended is not None:
        code = "" if run.exit_code is None else f", exit code {run.exit_code}"
        yield f"ended    {run.ended:%Y-%m-%d %H:%M:%S} UTC{code}: {printable(run.why)}"
    elif run.state == "lost":
        yield "ended    when its supervisor was killed"
    for attempt in run.attempts:
        yield ""
        yield paint(f"attempt {attempt.number}", "bold") + f"  {_outcome(attempt, run)}"
        for text in tails[attempt.number]:
            yield "  " + paint("| ", "dim") + printable(text, keep="\t")
        if attempt.walked_back:
            yield f"  then {printable(attempt.walked_back)}"


def _outcome(attempt: Attempt, run: Run) -> str:
    """ "resumed after step 49, ended after step 61: hung: no step for 60 s"."""
    began = "" if attempt.resumed is None else f"resumed after step {attempt.resumed}, "
    where = "" if attempt.step is None else f" after step {attempt.step}"
    if attempt.kind is None:
        return f"{began}{'running' if run.state == 'running' else 'not seen to end'}{where}"
    return f"{began}ended{where}: {printable(attempt.words)}"


def _command(run: Run) -> str:
    return printable(shlex.join(run.command))
