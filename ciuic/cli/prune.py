"""``ciuic prune``: giving up one snapshot, or what retention policies let go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ciuic.cli import humane
from ciuic.cli.columns import Column, aligned
from ciuic.cli.completion import REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import snapshot_text, step_text
from ciuic.errors import StillNamed
from ciuic.objects.ids import short
from ciuic.store.prunes import NEEDED_TO_RESUME

if TYPE_CHECKING:
    from ciuic.objects.snapshot import Snapshot
    from ciuic.repo import Repo
    from ciuic.retention.review import Review

MOST_LISTED = 20


@click.command("prune", cls=Command)
@click.argument("revision", metavar="[REV]", required=False, type=REVISION)
@click.option("--component", metavar="C", help="With REV: give up this component only: optimizer, gradients, …")
@click.option(
    "--policy",
    "policies",
    metavar="P",
    multiple=True,
    help="Instead of those of config.toml; may be repeated: keep-last=20, keep-every=1000 (steps), keep-hourly=24, "
    "keep-daily=14, keep-best=loss:3, keep-best=accuracy:3:max, keep-tagged, size-budget=200GiB, drop=optimizer:20, "
    "drop=optimizer:10000steps, drop=optimizer+gradients:7d.",
)
@click.option("--force", is_flag=True, help="With REV: also what HEAD, a branch or a tag points to.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, why the rest stays, and what that would free.")
@pass_session
def prune_command(
    session: Session,
    revision: str | None,
    component: str | None,
    policies: tuple[str, ...],
    force: bool,
    dry_run: bool,
) -> None:
    """Give up, for good, the state of the snapshots that the retention policies let go. The next gc frees its space.

    A pruned snapshot keeps its place in the log, with step, metrics and configuration. A snapshot stays if any policy
    keeps it; tags, the tips of branches, HEAD and the newest intact snapshot of each branch always stay. Ages are
    judged against the newest snapshot, not now. With REV: of that snapshot, or one component of it.
    """
    if revision is not None and (policies or dry_run):
        raise click.UsageError("REV names one snapshot, and --policy and --dry-run are for many: give one of the two.")
    if revision is not None:
        _prune_one(session, revision, component, force)
        return
    if component is not None:
        raise click.UsageError("--component belongs to REV. For many snapshots: --policy drop=optimizer:20.")
    if force:
        raise click.UsageError("--force belongs to REV.")
    repo = session.repo()
    try:
        report = repo.prune_by(policies or None, dry_run=dry_run)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if session.as_json:
        session.emit(_record(report))
        return
    for line in _lines(session, report):
        session.line(line)


def _prune_one(session: Session, revision: str, component: str | None, force: bool) -> None:
    repo = session.repo()
    snapshot = repo.resolve(revision)
    names = [] if force or component not in (None, *NEEDED_TO_RESUME) else _names_of(repo, snapshot.id)
    if names:
        those = f"{' and '.join(map(printable, names))} {'points' if len(names) == 1 else 'point'}"
        raise StillNamed(
            f"{those} to {snapshot.named}, and nobody could resume there any more. "
            "Move what points there first (`ciuic reset`, `ciuic checkout`, `ciuic tag -d`), or give --force."
        )
    repo.prune(snapshot.id, component)
    if session.as_json:
        session.emit({"snapshot": snapshot.id, "component": component, "pruned": repo.prune_state(snapshot.id)})
        return
    what = f"The {component} of " if component else ""
    session.line(f"{what}{snapshot_text(session.paint, snapshot)} is pruned")
    session.remark("`ciuic gc` frees the space.")


def _names_of(repo: Repo, id: str) -> list[str]:
    """HEAD, branches and tags that point to a snapshot."""
    named = [name for name, tip in (repo.branches() | repo.tags()).items() if tip == id]
    return [*(["HEAD"] if repo.head().snapshot == id else []), *named]


def _record(report: Review) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "pruned": [{"snapshot": each.id, "step": each.step, "components": gone} for each, gone in report.pruned],
        "kept": [{"snapshot": each.id, "step": each.step, "reasons": why} for each, why in report.kept],
        "freed_bytes": report.freed_bytes,
        "kept_bytes": report.kept_bytes,
    }


def _lines(session: Session, report: Review) -> Iterator[str]:
    verb = "Would prune" if report.dry_run else "Pruned"
    rows = [
        (each, "all of it" if "*" in gone else ", ".join(map(printable, sorted(gone)))) for each, gone in report.pruned
    ]
    whole = sum("*" in gone for _, gone in report.pruned)
    parts = [humane.count(whole, "snapshot")] if whole else []
    parts += [f"components of {len(rows) - whole}"] if len(rows) > whole else []
    title = f"{verb} {', and '.join(parts)}" if rows else "There is nothing to prune"
    yield from _listed(session, title, rows)
    stay = "Would keep" if report.dry_run else "Kept"
    kept = [(each, ", ".join(map(printable, why))) for each, why in report.kept]
    yield from _listed(session, f"{stay} {humane.count(len(kept), 'snapshot')}", kept)
    size, left = humane.size(report.freed_bytes), humane.size(report.kept_bytes)
    if report.dry_run:
        yield f"`ciuic gc` would free at least {size} then, and leave at most {left}"
    else:
        yield f"`ciuic gc` frees at least {size}, and leaves at most {left}"


def _listed(session: Session, title: str, rows: list[tuple[Snapshot, str]]) -> Iterator[str]:
    """The newest of them; all with -v."""
    yield session.paint(title, "bold")
    shown = rows if session.verbose else rows[:MOST_LISTED]
    cells = [
        [f"  {short(each.id)}", step_text(each), humane.age(each.timestamp, session.now), text] for each, text in shown
    ]
    columns = (Column("yellow"), Column(right=True), Column("dim", right=True), Column())
    yield from aligned(session.paint, columns, cells)
    if len(rows) > len(shown):
        yield session.paint(f"  and {len(rows) - len(shown)} older ones; -v lists them", "dim")
