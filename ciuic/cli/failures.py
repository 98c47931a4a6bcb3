"""How a command ends when it cannot do what it was asked: a line or two on stderr, and an exit code.

The codes are in docs/exit-codes.md; each kind of error has its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from ciuic.cli.json_lines import json_line
from ciuic.cli.paint import Paint, printable, wants_color
from ciuic.errors import CiuicError, ReadOnlyStorage, StorageError, StorageFull

if TYPE_CHECKING:
    from ciuic.cli.session import Session

UNEXPECTED = 1
USAGE = 2
INTERRUPTED = 130
CLOSED_PIPE = 141

_STORAGE = {errno.ENOSPC: StorageFull, errno.EDQUOT: StorageFull, errno.EROFS: ReadOnlyStorage}


def report(error: BaseException, session: Session | None, *, as_json: bool) -> int:
    """Say on stderr what went wrong and what to do next; returns the exit code of the process."""
    _abandon_stdout_if_broken()
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    code, kind, message = describe(error)
    verbose = session.verbose if session is not None else 0
    with contextlib.suppress(OSError):
        if verbose >= 2:
            import traceback

            traceback.print_exception(error)
        if as_json or (session is not None and session.as_json):
            sys.stderr.write(json_line({"kind": kind, "message": message, "exit_code": code, **_details(error)}))
        else:
            paint = Paint(wants_color("auto", sys.stderr, os.environ))
            sys.stderr.write(f"{paint('error:', 'red', 'bold')} {printable(message, keep=chr(10))}\n")
        sys.stderr.flush()
    return code


def describe(error: BaseException) -> tuple[int, str, str]:
    """Exit code, kind and message."""
    if isinstance(error, CiuicError):
        return error.exit_code, error.kind, str(error)
    if isinstance(error, click.UsageError):
        hint = f"\nTry `{error.ctx.command_path} --help`." if error.ctx is not None else ""
        return USAGE, "usage", _sentence(error.format_message()) + hint
    if isinstance(error, click.ClickException):
        return error.exit_code, "usage", error.format_message()
    if isinstance(error, OSError):
        storage = _STORAGE.get(error.errno or 0, StorageError)
        what = error.strerror or str(error)
        where = f": {error.filename}" if error.filename else ""
        return storage.exit_code, storage.kind, f"{what}{where}"
    name = f"{type(error).__name__}: {error}"
    return UNEXPECTED, "unexpected", f"{name}\nThis is a bug in ciuic; -v -v before the command shows where."


def _details(error: BaseException) -> dict[str, Any]:
    return {name: list(getattr(error, name)) for name in ("candidates", "problems") if getattr(error, name, ())}


def _sentence(message: str) -> str:
    """As a sentence of ours: click lists choices below each other, and says valid integer range and x>=0."""
    message = message.replace(":\n\t", ": ").replace(",\n\t", ", ")
    message = message.replace("is not a valid integer range", "is not a whole number")
    message = re.sub(r"is not in the range x>=(\d+)", r"is less than \1", message)
    return message if message.endswith((".", "?", "!")) else message + "."


def _abandon_stdout_if_broken() -> None:
    """Point a stdout that cannot be flushed at nothing: the interpreter flushes again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)
