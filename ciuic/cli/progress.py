"""Progress bars: on stderr, only where a person looks on, and only for what takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

PATIENCE_S = 0.5
"""Work that is done before this shows no bar."""


@contextmanager
def bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar until the block ends, then remove it. The callback takes what is done and the whole."""
    start = time.monotonic()
    draw: Callable[[int, int], None] | None = None
    with ExitStack() as stack:

        def advance(done: int, total: int) -> None:
            nonlocal draw
            if draw is None and time.monotonic() - start >= PATIENCE_S:
                draw = stack.enter_context(_drawn_bar(title, unit))
            if draw is not None:
                draw(done, total)

        yield advance


@contextmanager
def _drawn_bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

    amount: ProgressColumn = DownloadColumn(binary_units=True) if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
