"""Snapshots of the boundary before an exception that ends the run."""

from __future__ import annotations

import sys
from typing import Any

from ciuic.triggers.engine import Moment
from ciuic.triggers.one_line import one_line

NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory")
"""In the text of a RuntimeError of torch's: of its allocator for the CPU, and of those of other devices."""
LONGEST_TEXT = 120


class OnException:
    """When the run ends with an exception, Ctrl-C among them.

    The snapshot is of the last boundary, as if it had been taken there. ``kinds``: which exceptions count.
    """

    def __init__(self, *kinds: type[BaseException]) -> None:
        self.kinds = kinds or (Exception, KeyboardInterrupt)

    def at_step(self, _moment: Moment) -> None:
        return None

    def at_exception(self, error: BaseException) -> str | None:
        return f"before {said(error)}" if isinstance(error, self.kinds) else None


class OutOfMemory:
    """When the run ends because memory was refused, the host's or an accelerator's.

    That is a ``MemoryError``, torch's ``OutOfMemoryError``, or its RuntimeError of the CPU's allocator. A process that
    the kernel kills for its memory gets no exception; what was staged is published all the same.
    """

    def at_step(self, _moment: Moment) -> None:
        return None

    def at_exception(self, error: BaseException) -> str | None:
        return f"out of memory: {said(error)}" if is_out_of_memory(error) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: of itself, or as what an error of a data loader's worker tells."""
    torch: Any = sys.modules.get("torch")
    kinds = (MemoryError, *(() if torch is None else (torch.cuda.OutOfMemoryError,)))  # of every device, from 2.5 on
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, kinds) or any(words in text for words in NO_MEMORY) or "\nMemoryError" in str(error)


def said(error: BaseException) -> str:
    """An exception's kind, and the first line of what it says."""
    text = one_line(str(error), LONGEST_TEXT)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
