"""Tables on stdout, drawn by rich."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.table import Table
from rich.text import Text

from ciuic.cli.session import Session


def print_table(
    session: Session,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    fold: str | None = None,
    indent: int = 2,
) -> None:
    """Print rows below their headings; the columns in ``right`` to the right. ``fold`` may wrap."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading != fold,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = session.console()
    with console.capture() as capture:
        console.print(table, width=max(20, console.width - indent))
    for line in capture.get().splitlines():
        session.line(" " * indent + line)
