"""Aligned columns without a table library: for the commands that must start fast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ciuic.cli.paint import Paint, display_width, pad

SCREEN = 80
NARROWEST = 20


@dataclass(frozen=True)
class Column:
    """How the cells of one column look."""

    style: str = ""
    right: bool = False
    gap: int = 2
    """Blanks before the next column."""


def aligned(
    paint: Paint,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Mapping[tuple[int, int], str] | None = None,
) -> Iterator[str]:
    """A line for each row. A column that is empty in every row takes no room; a row may be shorter.

    ``styles``: (row, column) → the style of a cell that looks other than its column.
    """
    styles = styles or {}
    widths = [
        max((display_width(row[index]) for row in rows if index < len(row)), default=0) for index in range(len(columns))
    ]
    for number, row in enumerate(rows):
        line = ""
        for index, (cell, column, width) in enumerate(zip(row, columns, widths, strict=False)):
            if width:
                padded = pad(cell, width, right=column.right)
                style = styles.get((number, index), column.style)
                line += (paint(padded, style) if style else padded) + " " * column.gap
        yield line.rstrip()


def folded(
    columns: Sequence[Column], rows: Sequence[tuple[Sequence[str], Sequence[str]]], width: int = SCREEN
) -> list[list[str]]:
    """Rows for ``aligned`` out of (cells, items): the last cell lists the items, on more lines when they do not fit."""
    left = sum(
        column.gap + max((display_width(cells[index]) for cells, _ in rows), default=0)
        for index, column in enumerate(columns[:-1])
    )
    lines = []
    for cells, items in rows:
        first, *others = wrapped(items, width - left)
        lines += [[*cells, first], *([*[""] * len(cells), other] for other in others)]
    return lines


def wrapped(items: Sequence[str], width: int) -> list[str]:
    """Items with commas between, in as few lines as it takes; one line for no items."""
    lines = [""]
    for number, item in enumerate(items):
        text = item + ("," if number + 1 < len(items) else "")
        if lines[-1] and display_width(lines[-1]) + 1 + display_width(text) > max(width, NARROWEST):
            lines.append(text)
        else:
            lines[-1] = f"{lines[-1]} {text}".lstrip()
    return lines
