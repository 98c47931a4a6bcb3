"""Snapshots before the machine is taken away, and leaving as the signal asked."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from ciuic.triggers.children import forget_in_children, keep_in_children
from ciuic.triggers.deadline import Deadline, end_by_default
from ciuic.triggers.engine import Leaving, Moment, Run

if TYPE_CHECKING:
    from ciuic.writer.pending import PendingSnapshot

GRACE_S = 25.0
"""Slurm's KillWait and Kubernetes' grace period are 30 s; a snapshot is staged long before it is durable."""
LONGEST_GRACE_S = 864_000
"""The system's clock for such a wait counts milliseconds in 32 bits."""
REMEMBERED = 8
"""Snapshots: more are not on their way at a time, by far."""

logger = logging.getLogger("ciuic")

Handler = Any  # what signal.getsignal says: a function, SIG_DFL, SIG_IGN, or None for one that is not Python's


class Signals:
    """At the next boundary after one of these signals.

    ``leave``: after the snapshot is durable, ``grace_s`` seconds after the signal at the latest, the run ends as the
    signal asked: by whatever handled it before (SIGINT raises KeyboardInterrupt), or else by the system's default, so
    that the exit status is the signal's. When no step ends within that time, it ends there all the same, with the
    newest staged snapshot. A second SIGINT, or one while the run is ending, ends it at once, without waiting for
    anything.
    ``go_on``: training goes on after the snapshot; a handler that was there before is called, too.

    Works from the main thread alone, where Python has its signals. A signal that is being ignored stays ignored, and
    one that something else than Python handles stays with that. ``close`` puts the handlers back; a forked child
    (a data loader's worker) never has them.
    """

    def __init__(
        self,
        leave: Sequence[str] = ("SIGTERM", "SIGINT"),
        go_on: Sequence[str] = ("SIGUSR1",),
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        if not 0 < grace_s <= LONGEST_GRACE_S:
            raise ValueError(f"grace_s is a number of seconds, above 0 and at most {LONGEST_GRACE_S}: ten days")
        self.grace_s = grace_s
        self._leave = tuple(_number(name) for name in leave)
        self._go_on = tuple(_number(name) for name in go_on)
        if set(self._leave) & set(self._go_on):
            raise ValueError("a signal either ends the run or lets it go on: name it in one of the two")
        self._previous: dict[int, Handler] = {}
        self._deadline: Deadline | None = None
        self._asked: list[int] = []  # since the last boundary, to go on
        self._leaving: tuple[int, float] | None = None  # the first signal that asked to leave, and when
        self._at_boundary = False  # where it is on its way out
        self._interrupts = 0
        self._haste = False
        self._ending = False
        self._taken: deque[PendingSnapshot] = deque(maxlen=REMEMBERED)

    # The training thread's side

    def start(self, _run: Run) -> None:
        self._ending = False
        if threading.current_thread() is not threading.main_thread():
            logger.warning("Signals are not heard: the run has begun in another thread than the main one.")
            return
        self._deadline = Deadline(self._leave, self.grace_s, self._overdue)
        for number in (*self._leave, *self._go_on):
            previous = signal.getsignal(number)
            if previous is not None and previous != signal.SIG_IGN:
                self._previous[number] = previous
                signal.signal(number, self._handle)
        forget_in_children(self)

    def at_step(self, _moment: Moment) -> str | None:
        self._haste = False  # whatever was to end the run has not
        if not self._asked and self._leaving is None:
            return None
        asked, self._asked = self._asked, []
        self._at_boundary = self._leaving is not None
        numbers = dict.fromkeys([*asked, *([self._leaving[0]] if self._leaving else [])])
        return ", ".join(signal.Signals(number).name for number in numbers)

    def taken(self, _moment: Moment, pending: PendingSnapshot) -> None:
        self._taken.append(pending)

    def leaving(self) -> Leaving | None:
        if self._leaving is None:
            return None
        number, since_s = self._leaving
        return Leaving(number, max(0.0, since_s + self.grace_s - time.monotonic()))

    def leave(self) -> None:
        """End the run as the signal asked. On return somebody else has heard it, and the run goes on."""
        if self._leaving is not None:
            number, _ = self._leaving
            self._hand_on(number, None)

    def ending(self) -> None:
        self._ending = True

    def in_haste(self) -> bool:
        return self._haste

    def close(self) -> None:
        """Put back every handler that is still ours; in another thread than the main one, hand on from now on.

        A signal that no boundary has come for, since the run was ending, is heard by whoever had it before.
        """
        keep_in_children(self)
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.close()
        if threading.current_thread() is threading.main_thread():
            self._put_back()
            leaving, self._leaving = self._leaving, None
            if leaving is not None:
                logger.warning("Leaving by %s: the run is closed.", signal.Signals(leaving[0]).name)
                signal.raise_signal(leaving[0])

    def _put_back(self) -> None:
        previous, self._previous = self._previous, {}
        for number, handler in previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)

    def forget(self) -> None:
        """In a forked child: signals mean there what they meant before, but that one to go on does not end it."""
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.forget()
        self._put_back()
        for number in self._go_on:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, lambda *_: None)

    # Inside a signal: in the main thread, between two of its instructions

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deadline is None:  # closed
            self._hand_on(number, frame)
        elif number in self._go_on:
            self._asked.append(number)
            previous = self._previous.get(number)
            if callable(previous):
                previous(number, frame)
        elif self._deadline.over:
            self._haste = True
            logger.warning("%s", self._too_late(number))
            self._hand_on(number, frame)
        else:
            self._interrupts += number == signal.SIGINT
            if self._interrupts > 1 or (self._ending and number == signal.SIGINT):  # no boundary comes
                self._haste = True
                self._hand_on(number, frame)
            elif self._leaving is None:
                self._leaving = number, time.monotonic()
                self._deadline.begin(number)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        """The signal as it would have been without us. Once that has returned, the next one is heard anew."""
        previous = self._previous.get(number, signal.SIG_DFL)
        self._leaving, self._at_boundary, self._interrupts = None, False, 0
        if self._deadline is not None:
            self._deadline.stop()
        if callable(previous):
            previous(number, frame)
            return
        signal.signal(number, signal.SIG_DFL)
        end_by_default(number)
        signal.signal(number, self._handle)  # it was one that does nothing by default

    # In the thread that keeps the time, when the main thread runs no Python any more

    def _overdue(self, number: int) -> None:
        logger.warning("%s", self._too_late(number))
        end_by_default(number)

    def _too_late(self, number: int) -> str:
        staged = [each.step for each in self._taken if each.is_staged]
        late = "No snapshot became durable" if self._at_boundary else "No step ended"
        stands = f"the newest staged snapshot, of step {staged[-1]}" if staged else "no new snapshot"
        return f"{late} within {self.grace_s:g} s of {signal.Signals(number).name}: leaving with {stands}."


def _number(name: str) -> int:
    """ "SIGTERM" or "TERM" → 15."""
    full = name if name.startswith("SIG") else f"SIG{name}"
    number: int | None = getattr(signal, full, None) if full.startswith("SIG") and "_" not in full else None
    if number is None or number in (signal.SIGKILL, signal.SIGSTOP):
        raise ValueError(f"{name!r} is no signal that a program can hear. Name one as SIGTERM or SIGUSR1.")
    return int(number)
