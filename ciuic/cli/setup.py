"""Commands that come first: init, demo, completion."""

from __future__ import annotations

import os
import sys

import click

from ciuic.cli.discovery import place_for_new_repository, repository_around, repository_from
from ciuic.cli.session import Command, Session, pass_session


@click.command("init", cls=Command)
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path())
@pass_session
def init_command(session: Session, directory: str | None) -> None:
    """Make an empty repository in DIR; without DIR in .ciuic, where every command finds it."""
    from ciuic.repo import Repo

    before = repository_from(os.getcwd())
    repo = Repo.init(place_for_new_repository(directory or session.repository, os.environ))
    if session.as_json:
        session.emit({"path": repo.path})
        return
    session.line(f"Empty repository in {repo.path}")
    session.remark(f"Snapshot into it with SnapshotManager({os.path.relpath(repo.path)!r}) or Repo.commit(…)")
    around = repository_around(repo.path)
    if around is not None:
        session.remark(f"It lies inside another one, {around}: remove it if that was not meant.")
    if before not in (None, repository_from(os.getcwd())):
        session.remark(f"Commands in this folder find it now, and no longer {before}.")


@click.command("demo", cls=Command)
@click.option("--directory", metavar="DIR", type=click.Path(), help="Work in DIR, new or empty, and leave it there.")
@click.option("--keep", is_flag=True, help="Leave the temporary folder to play with.")
@pass_session
def demo_command(session: Session, directory: str | None, keep: bool) -> None:
    """Train a small transformer, kill it half-way, resume, and show that nothing was lost."""
    import ciuic.demo

    def echo(text: str) -> None:
        session.line(text)
        sys.stdout.flush()

    ciuic.demo.run(echo, directory, keep=keep, color=session.color)


@click.command("completion", cls=Command)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that makes TAB complete commands and revisions: eval "$(ciuic completion bash)"."""
    from click.shell_completion import get_completion_class

    from ciuic.cli.root import COMPLETION_VARIABLE

    script = get_completion_class(shell)
    assert script is not None
    ctx.ensure_object(Session).write(script(ctx.find_root().command, {}, "ciuic", COMPLETION_VARIABLE).source() + "\n")
