"""Commands that move what names snapshots: checkout, branch, tag, reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.completion import BRANCH, REVISION, TAG
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import first_line, pruned_text, snapshot_text, step_text
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.objects.snapshot import Snapshot
    from ciuic.repo import Repo
    from ciuic.store.refs import Head


@click.command("checkout", cls=Command)
@click.argument("revision", metavar="REV", required=False, type=REVISION)
@click.option("-b", "name", metavar="NAME", help="Make branch NAME at REV (default HEAD) first, and check it out.")
@pass_session
def checkout_command(session: Session, revision: str | None, name: str | None) -> None:
    """Point HEAD at REV: that is where the next run resumes.

    A branch attaches HEAD: new snapshots extend the branch. Anything else detaches it: the first new snapshot
    starts a branch of its own. No tensor is read, and a run under way follows its own branch.
    """
    if revision is None and name is None:
        raise click.UsageError("Say where HEAD is to go: a branch, a tag or another revision.")
    repo = session.repo()
    if name is not None:
        repo.branch(name, at=revision or "HEAD")
    snapshot = repo.switch(name or revision or "HEAD")
    branch = repo.head().branch
    if session.as_json:
        session.emit(
            {
                "branch": branch,
                "snapshot": snapshot.id if snapshot else None,
                "step": snapshot.step if snapshot else None,
            }
        )
        return
    where = f" at {snapshot_text(session.paint, snapshot)}" if snapshot else ", which has no snapshot yet"
    if branch is not None:
        session.line(f"HEAD is on branch {session.paint(printable(branch), 'green')}{where}")
        session.remark("The next run resumes there and extends the branch.")
    else:
        session.line(f"HEAD is detached{where}")
        session.remark("The next run resumes there; its first snapshot starts a new branch.")


@click.command("branch", cls=Command)
@click.argument("name", metavar="[NAME]", required=False, type=BRANCH)
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@click.option("-d", "--delete", is_flag=True, help="Delete NAME. Its snapshots stay while its reflog remembers them.")
@pass_session
def branch_command(session: Session, name: str | None, revision: str | None, delete: bool) -> None:
    """List the branches, or make branch NAME at REV (default HEAD). HEAD stays where it is."""
    repo = session.repo()
    if name is None:
        _refuse_delete_without_name(delete)
        _list(session, repo, repo.branches(), "branch", repo.head())
    elif delete:
        _refuse_revision(revision)
        was = repo.branches().get(name)
        repo.delete_branch(name)
        _deleted(session, "branch", name, was)
    else:
        repo.branch(name, at=revision or "HEAD")
        _made(session, repo, "branch", name, repo.branches()[name])
        session.remark(f"`ciuic checkout {name}` makes the next run resume there.")


@click.command("tag", cls=Command)
@click.argument("name", metavar="[NAME]", required=False, type=TAG)
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@click.option("-d", "--delete", is_flag=True, help="Delete NAME. Its snapshot stays while its reflog remembers it.")
@pass_session
def tag_command(session: Session, name: str | None, revision: str | None, delete: bool) -> None:
    """List the tags, or make tag NAME at REV (default HEAD)."""
    repo = session.repo()
    if name is None:
        _refuse_delete_without_name(delete)
        _list(session, repo, repo.tags(), "tag")
    elif delete:
        _refuse_revision(revision)
        was = repo.tags().get(name)
        repo.delete_tag(name)
        _deleted(session, "tag", name, was)
    else:
        repo.tag(name, at=revision or "HEAD")
        _made(session, repo, "tag", name, repo.tags()[name])


def _refuse_delete_without_name(delete: bool) -> None:
    if delete:
        raise click.UsageError("-d needs the NAME to delete.")


def _refuse_revision(revision: str | None) -> None:
    if revision is not None:
        raise click.UsageError(f"-d takes one NAME; {revision} is one too many.")


def _list(session: Session, repo: Repo, refs: Mapping[str, str], kind: str, head: Head | None = None) -> None:
    current = head.branch if head is not None else None
    snapshots = {name: repo.resolve(tip) for name, tip in sorted(refs.items())}
    if session.as_json:
        for name, snapshot in snapshots.items():
            record = {kind: name, "snapshot": snapshot.id, "step": snapshot.step, "timestamp": snapshot.timestamp}
            session.emit({**record, "current": name == current} if kind == "branch" else record)
        return
    unmarked = " " if kind == "branch" else ""
    rows = [_row(session, "*" if name == current else unmarked, name, each) for name, each in snapshots.items()]
    if head is not None and head.branch is None and head.snapshot is not None:
        rows.insert(0, _row(session, "*", "(HEAD is detached)", repo.resolve(head.snapshot)))
    color = "green" if kind == "branch" else "cyan"
    marks = (Column(color, gap=1), Column(color), Column("yellow"))
    facts = (Column(right=True), Column("dim", right=True), Column())
    for line in aligned(session.paint, marks + facts, rows):
        session.line(line)
    if not refs:
        session.remark("No branches yet." if kind == "branch" else "No tags yet.")


def _row(session: Session, mark: str, name: str, snapshot: Snapshot) -> list[str]:
    age, message = humane.age(snapshot.timestamp, session.now), first_line(snapshot.message)
    return [mark, printable(name), short(snapshot.id), step_text(snapshot), age, message]


def _made(session: Session, repo: Repo, kind: str, name: str, tip: str) -> None:
    if session.as_json:
        session.emit({kind: name, "snapshot": tip, "deleted": False})
    else:
        session.line(f"{kind} {printable(name)} is at {snapshot_text(session.paint, repo.resolve(tip))}")
        gone = pruned_text(repo.prune_state(tip))
        if gone:
            session.remark(f"It keeps what is left of that snapshot: {gone}.")


def _deleted(session: Session, kind: str, name: str, was: str | None) -> None:
    if session.as_json:
        session.emit({kind: name, "snapshot": was, "deleted": True})
    else:
        session.line(f"{kind} {printable(name)} deleted; it was at {session.paint(short(was or ''), 'yellow')}")


@click.command("reset", cls=Command)
@click.argument("revision", metavar="REV", type=REVISION)
@click.option("--branch", "branch", metavar="B", type=BRANCH, help="Move branch B instead of the one HEAD is on.")
@click.option("--dry-run", is_flag=True, help="Only say what would move.")
@pass_session
def reset_command(session: Session, revision: str, branch: str | None, dry_run: bool) -> None:
    """Move a branch (default: the one HEAD is on) to REV. The next run on it resumes there.

    Nothing is deleted: the reflog keeps the old tip until it expires.
    """
    repo = session.repo()
    name = branch or repo.head().branch
    old, new = repo.reset(revision, branch=branch, dry_run=dry_run)
    if session.as_json:
        session.emit({"branch": name, "old": old, "new": new, "dry_run": dry_run})
        return
    name = printable(name or "HEAD")
    before = snapshot_text(session.paint, repo.resolve(old)) if old else "nothing"
    after = snapshot_text(session.paint, repo.resolve(new))
    if old == new:
        session.line(f"{name} is already at {after}")
        return
    session.line(f"{name} {'would move' if dry_run else 'moved'}: {before} -> {after}")
    if not dry_run and old:
        option = f"--branch {name} " if branch else ""
        back = f"`ciuic reset {option}{name}@{{1}}` takes it back."
        session.remark(back if name != "HEAD" else f"{short(old)} stays in `ciuic reflog`")
