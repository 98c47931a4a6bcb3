"""Aligned columns without a table library: for the commands that must start fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ciuic.cli.paint import Paint, display_width, pad


@dataclass(frozen=True)
class Column:
    """How the cells of one column look."""

    style: str = ""
    right: bool = False
    gap: int = 2
    """Blanks before the next column."""


def aligned(paint: Paint, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line for each row. A column that is empty in every row takes no room; a row may be shorter."""
    widths = [
        max((display_width(row[index]) for row in rows if index < len(row)), default=0) for index in range(len(columns))
    ]
    for row in rows:
        line = ""
        for cell, column, width in zip(row, columns, widths, strict=False):
            if width:
                padded = pad(cell, width, right=column.right)
                line += (paint(padded, column.style) if column.style else padded) + " " * column.gap
        yield line.rstrip()
