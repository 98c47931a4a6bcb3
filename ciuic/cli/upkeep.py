"""Commands that keep a repository small and sound: prune, gc, fsck, stats."""

from __future__ import annotations

from datetime import timedelta

import click

from ciuic.cli.completion import REVISION
from ciuic.cli.durations import DURATION
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import snapshot_text


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
        session.emit(
            {"snapshot": snapshot.id, "component": component, "pruned": repo.prune_state(snapshot.id)}
        )
        return
    what = f"The {component} of " if component else ""
    session.line(f"{what}{snapshot_text(session.paint, snapshot)} {'is' if component else 'are'} pruned")
    session.remark("`ciuic gc` frees the space.")


@click.command("gc", cls=Command)
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@click.option(
    "--expire", metavar="AGE", type=DURATION, help="Forget reflog entries older than AGE: now, 12h, 30d."
)
@click.option("--trust-clock", is_flag=True, help="Judge ages even when the clock and the logs disagree.")
@pass_session
def gc_command(session: Session, dry_run: bool, expire: timedelta | None, trust_clock: bool) -> None:
    """Free what no branch, tag, HEAD or reflog entry needs, and what was pruned. Says why the rest stays."""
    report = session.repo().gc(dry_run=dry_run, expire=expire, trust_clock=trust_clock)
    print(report)


@click.command("fsck", cls=Command)
@click.option("--read-data", is_flag=True, help="Read and decode every stored byte, not the structure only.")
@pass_session
def fsck_command(session: Session, read_data: bool) -> None:
    """Check the repository. Ends with exit code 40 when something is damaged."""
    with session.progress("checking") as progress:
        report = session.repo().fsck(read_data=read_data, progress=progress)
    print(report)


@click.command("stats", cls=Command)
@pass_session
def stats_command(session: Session) -> None:
    """Show how much the snapshots hold, how little of it is stored, and where the saving comes from."""
    print(session.repo().stats())
