"""The command line: the only room that reads the terminal, the environment and the command's arguments.

Nothing is imported here but the standard library, so that an early Ctrl-C is caught too.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the process's own arguments; returns its exit code (docs/exit-codes.md)."""
    gc.set_threshold(100_000)  # a long history is a mass of live objects, which need not be walked again and again
    try:
        from ciuic.cli.root import run

        return run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return 130
