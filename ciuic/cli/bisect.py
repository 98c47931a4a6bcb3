"""The command bisect and its own commands: the first bad snapshot, found by hand or by a command's exit codes."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.completion import REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import metrics_text, snapshot_text, step_text
from ciuic.errors import BisectError
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.history.bisect import Bisection, Standing
    from ciuic.history.bisect_state import Verdict
    from ciuic.objects.snapshot import Snapshot
    from ciuic.repo import Repo

FORMATS = ("safetensors", "torch")


@click.group("bisect")
def bisect_command() -> None:
    """Find the first bad snapshot between a good one and a bad one, in as few tries as it takes.

    `run` asks a command about each. By hand: `start`, look at the snapshot that it names, say `good`, `bad` or `skip`,
    and so on. The answers are kept in the repository until `reset`, so a search survives a crash. HEAD is never moved.
    """


def _ends(function: Any) -> Any:
    good = click.option(
        "--good", "good", metavar="REV", multiple=True, type=REVISION, help="A snapshot that is known to be good."
    )
    bad = click.option("--bad", metavar="REV", type=REVISION, help="One that comes from it and is known to be bad.")
    return good(bad(function))


@bisect_command.command("start", cls=Command)
@_ends
@pass_session
def start_command(session: Session, good: tuple[str, ...], bad: str | None) -> None:
    """Begin a search by hand. The ends can also be told afterwards, with `good` and `bad`."""
    repo = session.repo()
    bisection = repo.bisection()
    _begin(repo, bisection, good, bad)
    _say_standing(session, repo, bisection.standing())


def _begin(
    repo: Repo, bisection: Bisection, good: tuple[str, ...], bad: str | None, command: tuple[str, ...] = ()
) -> None:
    """Ends that do not fit together leave no search behind."""
    ends: list[tuple[Verdict, str]] = [*(("good", repo.resolve(each).id) for each in good)]
    if bad is not None:
        snapshot = repo.resolve(bad)
        if ("good", snapshot.id) in ends:
            raise BisectError(f"{snapshot.named} is said to be good and bad. Name two different snapshots.")
        ends.append(("bad", snapshot.id))
    bisection.start(command)
    try:
        for verdict, id in ends:
            bisection.mark(verdict, id)
    except BaseException:
        bisection.reset()
        raise


def _mark(session: Session, verdict: Verdict, revision: str | None) -> None:
    repo = session.repo()
    bisection = repo.bisection()
    snapshot = bisection.mark(verdict, revision)
    if not session.as_json:
        session.line(f"{snapshot_text(session.paint, snapshot)} is {'skipped' if verdict == 'skip' else verdict}")
    _say_standing(session, repo, bisection.standing())


@bisect_command.command("good", cls=Command, short_help="Say that REV, and all that it comes from, is good.")
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@pass_session
def good_command(session: Session, revision: str | None) -> None:
    """Say that REV (default: the one to try next) is good, and with it all that it comes from."""
    _mark(session, "good", revision)


@bisect_command.command("bad", cls=Command)
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@pass_session
def bad_command(session: Session, revision: str | None) -> None:
    """Say that REV (default: the one to try next) is bad."""
    _mark(session, "bad", revision)


@bisect_command.command("skip", cls=Command)
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@pass_session
def skip_command(session: Session, revision: str | None) -> None:
    """Say that REV (default: the one to try next) cannot be tried."""
    _mark(session, "skip", revision)


@bisect_command.command("reset", cls=Command)
@pass_session
def reset_command(session: Session) -> None:
    """Forget the search and its answers."""
    was = session.repo().bisection().reset()
    if session.as_json:
        session.emit({"reset": was})
    else:
        session.line("The bisection is forgotten" if was else "There was no bisection")


@bisect_command.command("log", cls=Command)
@pass_session
def log_command(session: Session) -> None:
    """List the answers so far, and what to try next."""
    repo = session.repo()
    bisection = repo.bisection()
    standing, progress = bisection.standing(), bisection.progress
    answers = [] if progress is None else [(repo.resolve(each.snapshot), each.verdict) for each in progress.answers]
    if session.as_json:
        for snapshot, verdict in answers:
            session.emit({"event": "answer", "verdict": verdict, **_record(snapshot)})
    else:
        if progress is not None and progress.command:
            session.line(f"asks {printable(shlex.join(progress.command))}")
        rows = [
            [verdict, short(snapshot.id), step_text(snapshot), metrics_text(snapshot.metrics)]
            for snapshot, verdict in answers
        ]
        for line in aligned(session.paint, (Column("bold"), Column("yellow"), Column(right=True), Column()), rows):
            session.line(line)
    _say_standing(session, repo, standing)


@bisect_command.command(
    "run",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    short_help="Ask COMMAND about one after another.",
)
@_ends
@click.option("--verify", is_flag=True, help="Ask the command about both ends first.")
@click.option(
    "--export",
    "export_format",
    metavar="|".join(FORMATS),
    type=click.Choice(FORMATS),
    help="Write each snapshot to a file for the command: its name is {file}, and CIUIC_EXPORT.",
)
@click.option("--component", metavar="C", default="model", help="What --export writes: model (the default), …, all.")
@click.argument("command", metavar="-- COMMAND…", nargs=-1, type=click.UNPROCESSED)
@pass_session
def run_command(
    session: Session,
    good: tuple[str, ...],
    bad: str | None,
    verify: bool,
    export_format: str | None,
    component: str,
    command: tuple[str, ...],
) -> None:
    """Ask COMMAND about one snapshot after another, until the first bad one is found.

    It finds the snapshot's id in CIUIC_REVISION, the repository in CIUIC_REPO and the step in CIUIC_STEP; an argument
    {} (or --name={}) becomes the id. Its exit code is its answer: 0 good, 125 cannot be tried, 1 to 127 otherwise bad.
    Anything above, or a signal, stops the search; the same command line goes on from there.

    Snapshots whose model was pruned are passed over. Ends with exit code 24 when they, or those that could not be
    tried, leave open which one was the first.
    """
    from ciuic.cli.bisect_run import Asking

    if not command:
        raise click.UsageError("Give the command to ask, after --: ciuic bisect run --good REV --bad REV -- COMMAND.")
    repo = session.repo()
    bisection = repo.bisection()
    asking = Asking(repo, command, export_format, component, quiet_stdout=session.as_json)
    answers = _go_on_or_begin(session, repo, bisection, good, bad, command)
    standing = bisection.standing()
    if standing.bad is None or not standing.good:
        raise BisectError("Both ends must be known. Tell them with --good REV and --bad REV.")
    if verify:
        with _forgotten(bisection, unless=answers > 0):
            _verify(session, asking, standing)
    while standing.next is not None:
        session.remark(f"Trying {_words(session, standing.next)}; {_left(standing)}")
        with _forgotten(bisection, unless=answers > 0):
            outcome = asking.ask(standing.next)
        answers += 1
        bisection.mark(outcome.verdict, standing.next.id)
        if session.as_json:
            session.emit({"event": "tried", **_record(standing.next), **outcome.record()})
        else:
            session.line(f"{snapshot_text(session.paint, standing.next)} is {outcome.text()}")
        standing = bisection.standing()
    _say_standing(session, repo, standing)
    bisection.reset()
    if standing.found is None:
        click.get_current_context().exit(BisectError.exit_code)


@contextlib.contextmanager
def _forgotten(bisection: Bisection, *, unless: bool) -> Iterator[None]:
    """A command that fails before its first answer leaves no search behind: the next one may be another."""
    try:
        yield
    except BaseException:
        if not unless:
            bisection.reset()
        raise


def _go_on_or_begin(
    session: Session, repo: Repo, bisection: Bisection, good: tuple[str, ...], bad: str | None, command: tuple[str, ...]
) -> int:
    """How many answers there are already; 0 where a search has begun."""
    progress = bisection.progress
    if progress is None:
        if not good or bad is None:
            raise click.UsageError("Both ends must be known: give --good REV and --bad REV.")
        _begin(repo, bisection, good, bad, command)
        return 0
    if progress.command and progress.command != command:
        raise BisectError(
            f"The answers so far are those of `{printable(shlex.join(progress.command))}`. Go on with it, or forget "
            "them: `ciuic bisect reset`."
        )
    told = {(each.snapshot, each.verdict) for each in progress.answers}
    ends = {(repo.resolve(each).id, "good") for each in good} | ({(repo.resolve(bad).id, "bad")} if bad else set())
    if not ends <= told:
        raise BisectError("A bisection between other ends is under way. Forget it first: `ciuic bisect reset`.")
    session.remark(f"Going on with {humane.count(len(told), 'answer')} from before; `ciuic bisect reset` forgets them.")
    return len(told)


def _verify(session: Session, asking: Any, standing: Standing) -> None:
    """BisectError when the command does not call the good ones good and the bad one bad."""
    assert standing.bad is not None
    for snapshot, expected in [*((each, "good") for each in standing.good), (standing.bad, "bad")]:
        session.remark(f"Checking that {_words(session, snapshot)} is {expected}")
        outcome = asking.ask(snapshot)
        if session.as_json:
            session.emit({"event": "checked", **_record(snapshot), **outcome.record()})
        if outcome.verdict != expected:
            raise BisectError(
                f"{short(snapshot.id)} should be {expected}, and the command says {outcome.text()}. Look at the "
                "command, or choose other ends."
            )


def _say_standing(session: Session, repo: Repo, standing: Standing) -> None:
    if session.as_json:
        session.emit(_standing_record(standing))
    elif standing.found is not None:
        _say_found(session, standing, standing.found)
    elif standing.suspects:
        session.line("The first bad one is one of these: those that are not bad could not be tried")
        for each in standing.suspects:
            why = "bad" if standing.bad == each else "pruned" if each in standing.pruned else "skipped"
            session.line(f"  {_words(session, each)}  {why}")
    elif standing.next is not None:
        session.line(f"Try {_words(session, standing.next)}; {_left(standing)}")
        session.remark("`ciuic bisect good`, `ciuic bisect bad` or `ciuic bisect skip` says what came of it.")
    else:
        lacks = [
            f"`ciuic bisect {word} REV`"
            for word, known in (("good", standing.good), ("bad", standing.bad))
            if not known
        ]
        session.line(f"Still to be told: {' and '.join(lacks)}")
    if standing.pruned and standing.next is not None:
        count = humane.count(len(standing.pruned), "snapshot")
        session.remark(f"{count} passed over: pruned.")


def _say_found(session: Session, standing: Standing, found: Snapshot) -> None:
    session.line(f"{_words(session, found)} is the first bad one")
    before = standing.last_good
    if before is None:
        session.remark(f"`ciuic show {short(found.id)}` prints it.")
        return
    session.line(f"{_words(session, before)}, before it, is good")
    session.remark(
        f"`ciuic diff {short(before.id)} {short(found.id)}` shows what changed, `ciuic branch NAME {short(before.id)}` "
        "makes a branch of the good one."
    )


def _words(session: Session, snapshot: Snapshot) -> str:
    """ "3f2a91c0 (step 499) loss=2.31"."""
    return f"{snapshot_text(session.paint, snapshot)} {metrics_text(snapshot.metrics)}".rstrip()


def _left(standing: Standing) -> str:
    return f"{standing.left} to choose from, about {humane.count(standing.tries, 'try', 'tries')}"


def _record(snapshot: Snapshot) -> dict[str, Any]:
    return {"snapshot": snapshot.id, "step": snapshot.step, "metrics": snapshot.metrics}


def _standing_record(standing: Standing) -> dict[str, Any]:
    last_good = standing.last_good
    return {
        "event": "found" if standing.found else "open" if standing.suspects else "next" if standing.next else "begun",
        "good": [each.id for each in standing.good],
        "bad": standing.bad.id if standing.bad else None,
        "next": _record(standing.next) if standing.next else None,
        "left": standing.left,
        "tries": standing.tries,
        "found": _record(standing.found) if standing.found else None,
        "last_good": last_good.id if last_good else None,
        "suspects": [each.id for each in standing.suspects],
        "pruned": [each.id for each in standing.pruned],
    }
