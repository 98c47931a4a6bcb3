"""The engine: asks every trigger at each boundary of a step, and makes one decision of what they say."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ciuic.writer.pending import PendingSnapshot

logger = logging.getLogger("ciuic")


@dataclass(frozen=True)
class Moment:
    """What a trigger sees at the boundary after ``step``.

    ``metrics`` are plain numbers ("loss"). ``time_s``: ``time.monotonic()``. ``step_s``: how long a step takes lately,
    beside snapshots; None before there were two. ``cost_s``: what the newest snapshot has cost the training thread
    (call, wait at the fence); None before one. ``last_step``, ``last_time_s``: of the newest snapshot taken.
    """

    step: int
    time_s: float
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    step_s: float | None = None
    cost_s: float | None = None
    last_step: int | None = None
    last_time_s: float | None = None


@dataclass(frozen=True)
class Leaving:
    """``signal`` asked the run to end, ``grace_s`` seconds from now at the latest."""

    signal: int
    grace_s: float


@dataclass(frozen=True)
class Decision:
    """``reasons`` for one snapshot now; none: no snapshot. ``leave``: the signal that asked the run to end after it is
    durable. ``grace_s``: how long that may take at most."""

    reasons: tuple[str, ...] = ()
    leave: int | None = None
    grace_s: float | None = None

    @property
    def due(self) -> bool:
        return bool(self.reasons)

    @property
    def message(self) -> str:
        """The reasons, as a snapshot's message lists them."""
        return "; ".join(self.reasons)


def _no_metrics() -> Iterable[Mapping[str, float]]:
    return ()


@dataclass(frozen=True)
class Run:
    """What a trigger may know of the run that it watches. ``path``: of the repository. ``metrics``: called at a
    boundary, gives those of the snapshots that the run comes from, newest first."""

    path: str
    metrics: Callable[[], Iterable[Mapping[str, float]]] = _no_metrics


class Trigger(Protocol):
    """One policy. Only ``at_step`` is needed; the engine looks for the other methods by name.

    ``start(run: Run)``: before the first boundary.
    ``taken(moment: Moment, pending: PendingSnapshot)``: a snapshot was ordered at this boundary, for whatever reason.
    ``at_exception(error: BaseException) -> str | None``: the run is ending with this; a reason to save it. A trigger
    that has this method makes each boundary set its small state aside.
    ``leaving() -> Leaving | None``: whether the run was asked to end; asked after ``at_step``.
    ``leave()``: end the run now, as it was asked to. It may return, when whoever else is asked does not end it.
    ``ending()``: no boundary comes any more; the run is being closed, or has raised.
    ``in_haste() -> bool``: the run ends without waiting for anything.
    ``close()``: the run is over.

    All but ``close`` are called by the training thread, and none may wait for something outside the process: a trigger
    that does so has a thread of its own, which sets a flag. Whatever one raises is logged and counted, and the trigger
    is left out from then on.
    """

    def at_step(self, moment: Moment) -> str | None: ...


class Engine:
    """Asks triggers, in their order. ``failures``: how often one has raised, by its class's name.

    No method raises what a trigger has raised, but for Ctrl-C and the like; ``leave`` raises what ends the run.
    """

    def __init__(self, triggers: Sequence[Trigger]) -> None:
        self.triggers = list(triggers)
        self.failures: dict[str, int] = {}
        self._started: list[Trigger] = []

    def start(self, run: Run) -> None:
        """Have every trigger begin. A second call does nothing more."""
        for trigger in [each for each in self.triggers if each not in self._started]:
            self._started.append(trigger)
            self._ask(trigger, "start", run)

    def at_step(self, moment: Moment) -> Decision:
        """One decision for this boundary, whatever the number of reasons."""
        reasons: list[str] = []
        leaving: Leaving | None = None
        for trigger in tuple(self.triggers):
            reason = self._ask(trigger, "at_step", moment)
            if reason is not None and not isinstance(reason, str):
                self._failed(trigger, TypeError(f"at_step returns a text or None, not {reason!r}"))
            elif reason is not None and reason not in reasons:
                reasons.append(reason)
            leaving = leaving or self._ask(trigger, "leaving")
        if leaving is None:
            return Decision(tuple(reasons))
        return Decision(tuple(reasons), leaving.signal, leaving.grace_s)

    def taken(self, moment: Moment, pending: PendingSnapshot) -> None:
        """A snapshot was ordered at this boundary."""
        for trigger in tuple(self.triggers):
            self._ask(trigger, "taken", moment, pending)

    @property
    def sets_aside(self) -> bool:
        """Whether a trigger wants a snapshot of the boundary before an exception."""
        return any(hasattr(trigger, "at_exception") for trigger in self.triggers)

    def at_exception(self, error: BaseException) -> tuple[str, ...]:
        """The reasons to save the boundary before this exception; none when the run is to end without waiting."""
        if self.in_haste:
            return ()
        reasons = [self._ask(trigger, "at_exception", error) for trigger in tuple(self.triggers)]
        return tuple(dict.fromkeys(reason for reason in reasons if isinstance(reason, str)))

    def ending(self) -> None:
        """No boundary comes any more. What is left to do may take its time."""
        for trigger in tuple(self.triggers):
            self._ask(trigger, "ending")

    @property
    def in_haste(self) -> bool:
        """Whether the run ends without waiting for anything: a second Ctrl-C."""
        return any(self._ask(trigger, "in_haste") for trigger in tuple(self.triggers))

    def leave(self) -> None:
        """Leave as the signal asked; returns when whoever the signal was for before does not end the run, and raises
        what that raises."""
        for trigger in tuple(self.triggers):
            if self._ask(trigger, "leaving") is not None:
                leave: Callable[[], None] = getattr(trigger, "leave", lambda: None)
                leave()

    def close(self) -> None:
        """End every trigger's threads and hooks. A second call does nothing more."""
        started, self._started = self._started, []
        for trigger in reversed(started):
            if trigger in self.triggers:  # one that failed has been closed
                self._ask(trigger, "close")

    def _ask(self, trigger: Trigger, name: str, *arguments: object) -> Any:
        """What the trigger's method says; None when it has none, or fails."""
        method = getattr(trigger, name, None)
        if method is None:
            return None
        try:
            return method(*arguments)
        except Exception as error:  # somebody else's code, and training must go on
            self._failed(trigger, error)
            return None

    def _failed(self, trigger: Trigger, error: Exception) -> None:
        name = type(trigger).__name__
        self.failures[name] = self.failures.get(name, 0) + 1
        if trigger not in self.triggers:
            return
        self.triggers.remove(trigger)
        logger.error("The trigger %s failed and is left out from now on: %r.", name, error, exc_info=error)
        with contextlib.suppress(Exception):  # it has failed already
            getattr(trigger, "close", lambda: None)()
