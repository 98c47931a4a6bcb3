"""Commands that read and write the files of others: export, import."""

from __future__ import annotations

from dataclasses import asdict

import click

from ciuic.cli import humane
from ciuic.cli.completion import REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import snapshot_text

FORMATS = ("safetensors", "torch")


@click.command("export", cls=Command)
@click.argument("revision", metavar="REV", type=REVISION)
@click.argument("file", metavar="FILE", type=click.Path())
@click.option("--component", metavar="C", default="model", help="model (the default), optimizer, …, or all.")
@click.option(
    "--format",
    "file_format",
    metavar="|".join(FORMATS),
    type=click.Choice(FORMATS),
    help="What FILE becomes, whatever its suffix.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@pass_session
def export_command(
    session: Session, revision: str, file: str, component: str, file_format: str | None, force: bool
) -> None:
    """Write one component of a snapshot to FILE, for others to read.

    A .safetensors file holds the tensors of one component, tied ones as safetensors.torch.save_model writes
    them. A .pt file holds what torch.load(FILE, weights_only=True) gives: a state_dict, or with --component all
    one for each component.
    """
    from ciuic.interchange.transfer import export

    with session.progress("writing") as progress:
        report = export(
            session.repo(),
            revision,
            file,
            component=component,
            format=file_format,
            force=force,
            progress=progress,
        )
    if session.as_json:
        session.emit(asdict(report))
        return
    tied = f", {humane.count(len(report.tied), 'tied name')}" if report.tied else ""
    tensors = humane.count(report.tensors, "tensor")
    session.line(f"{printable(report.file)}: {tensors}{tied}, {humane.size(report.size)} ({report.format})")


@click.command("import", cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--to", metavar="C", default="model", help="What FILE becomes: model (the default), optimizer, …, all.")
@click.option("--step", metavar="N", type=int, help="The step of the new snapshot.")
@click.option("-m", "--message", metavar="TEXT", default="", help="The message of the new snapshot.")
@click.option("--dry-run", is_flag=True, help="Read and check FILE, and store nothing.")
@pass_session
def import_command(session: Session, file: str, to: str, step: int | None, message: str, dry_run: bool) -> None:
    """Make a snapshot of FILE on the current branch. It holds what the file holds and nothing else.

    FILE is a .safetensors file, the .safetensors.index.json of a sharded one, or a .pt file that torch.load
    reads with weights_only=True. No code of FILE is ever run.
    """
    from ciuic.interchange.transfer import import_file

    repo = session.repo()
    report = import_file(repo, file, to=to, message=message, step=step, dry_run=dry_run)
    snapshot = report.snapshot
    if session.as_json:
        facts = {name: value for name, value in vars(report).items() if name != "snapshot"}
        session.emit({**facts, "snapshot": None if snapshot is None else snapshot.id, "dry_run": dry_run})
        return
    size, names = humane.size(report.nbytes), ", ".join(report.components)
    what = f"{humane.count(report.tensors, 'tensor')}, {size}, as {names}"
    if snapshot is None:
        session.line(f"Would import {what}")
    else:
        branch = printable(repo.head().branch or "")
        session.line(f"{snapshot_text(session.paint, snapshot)} on {branch}: {what}")
