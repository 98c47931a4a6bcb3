"""Commands that read and write the files of others: export, import."""

from __future__ import annotations

import click

from ciuic.cli import humane
from ciuic.cli.completion import REVISION
from ciuic.cli.paint import printable
from ciuic.cli.session import Command, Session, pass_session
from ciuic.cli.words import snapshot_text

FORMATS = ("safetensors", "torch")


@click.command("export", cls=Command)
@click.argument("revision", metavar="REV", type=REVISION)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@click.option(
    "--component", metavar="C", default="model", help="What to write: model (default), optimizer, …, or all."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    metavar="|".join(FORMATS),
    help="Default: by FILE's suffix.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@pass_session
def export_command(
    session: Session, revision: str, file: str, component: str, format_: str | None, force: bool
) -> None:
    """Write one component of a snapshot to a .safetensors file, or to a .pt file for torch.load."""


@click.command("import", cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@pass_session
def import_command(session: Session, file: str) -> None:
    """Make a snapshot of a .safetensors file (also a sharded one, by its index) or of a torch.save file."""
