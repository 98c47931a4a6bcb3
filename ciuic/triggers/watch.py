"""A run under the eyes of its triggers: from its first step to its end, by whatever it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ciuic.errors import CiuicError
from ciuic.objects.snapshot import Snapshot
from ciuic.triggers.ending import LastBoundary
from ciuic.triggers.engine import Decision, Engine, Moment, Run

if TYPE_CHECKING:
    from ciuic.writer.pending import PendingSnapshot

logger = logging.getLogger("ciuic")


class Watch:
    """The engine of one run, with the boundary to save when it dies. ``commit``: ``Repo.commit_components``.
    ``abandon()`` leaves what is being written to the writer alone.

    Between ``begin`` and ``close`` an uncaught exception of the program ends in ``end_with``. An object that is
    forgotten without ``close`` has its triggers closed all the same.
    """

    def __init__(
        self, engine: Engine, run: Run, commit: Callable[..., Snapshot], abandon: Callable[[], object]
    ) -> None:
        self.engine = engine
        self._abandon = abandon
        self._run = run
        self._boundary = LastBoundary(commit)
        self._hook: _ExceptHook | None = None
        self._owner = os.getpid()

    def begin(self) -> None:
        """The run begins, if it has not: the triggers start."""
        if self._hook is None and self._owner == os.getpid():
            self._hook = _ExceptHook(weakref.WeakMethod(self.end_with))
            self._closing = weakref.finalize(self, _close, self.engine, self._hook, self._boundary, self._owner)
            self.engine.start(self._run)

    def at_step(self, moment: Moment) -> Decision:
        self.begin()
        return self.engine.at_step(moment)

    def passed(self, step: int, given: Callable[[], Mapping[str, Any]]) -> None:
        """No snapshot was taken at this boundary. ``given()``: the keywords that ``Repo.commit`` would have had."""
        if self.engine.sets_aside:
            self._boundary.set_aside(step, given())

    def taken(self, moment: Moment, pending: PendingSnapshot) -> None:
        """A snapshot was ordered at this boundary."""
        self._boundary.saved()
        self.engine.taken(moment, pending)

    def leave(self, number: int, pending: PendingSnapshot, *, durable: bool) -> None:
        """Leave as the signal asked, after the last snapshot; ``durable``: whether that has ended within the grace
        time. Returns when whoever the signal was for before does not end the run."""
        if not durable:
            state = "still being written" if pending.is_staged else "not complete, and an earlier one stands"
        else:
            error = pending.exception()
            state = "durable" if error is None else f"not saved, and an earlier one stands: {error}"
        name = signal.Signals(number).name
        logger.warning("Leaving by %s: the snapshot of step %s is %s.", name, pending.step, state)
        self.engine.leave()

    def end_with(self, error: BaseException) -> None:
        """The run ends with this exception: save the boundary before it if a trigger wants it. Raises no ``Exception``
        of its own."""
        self.engine.ending()
        try:
            reasons = self.engine.at_exception(error)
            if reasons:
                self._boundary.save("; ".join(reasons))
        finally:  # Ctrl-C may come in between
            if self.engine.in_haste:
                with contextlib.suppress(CiuicError):
                    self._abandon()

    def ending(self) -> None:
        """No boundary comes any more; ``close`` follows."""
        self.engine.ending()

    def close(self) -> None:
        """The run is over: hooks and handlers are put back, threads end."""
        self._boundary.close()
        if self._hook is not None:
            self._hook = None
            self._closing()


class _ExceptHook:
    """``sys.excepthook``, with ``call`` before whoever has it now."""

    def __init__(self, call: weakref.WeakMethod[Callable[[BaseException], None]]) -> None:
        self._call: weakref.WeakMethod[Callable[[BaseException], None]] | None = call
        self._owner = os.getpid()
        self._previous = sys.excepthook
        sys.excepthook = self._uncaught

    def _uncaught(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        try:
            call = None if self._call is None or self._owner != os.getpid() else self._call()
            if call is not None:
                call(error)
        finally:
            self._previous(kind, error, traceback)

    def close(self) -> None:
        """Put the hook back; where somebody has put another one on top, do nothing from now on."""
        self._call = None
        if sys.excepthook == self._uncaught:
            sys.excepthook = self._previous


def _close(engine: Engine, hook: _ExceptHook, boundary: LastBoundary, owner: int) -> None:
    """By the one who began it, and not by a child that was forked meanwhile."""
    hook.close()
    boundary.close()
    if owner == os.getpid():
        engine.close()
