"""The engine: asks every trigger at each boundary of a step, and makes one decision of what they say."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
class Decision:
    """``reasons`` for one snapshot now; none: no snapshot. ``leave``: the signal that asked the run to end after it is
    durable. ``grace_s``: how long that may take at most."""

    reasons: tuple[str, ...] = ()
    leave: int | None = None
    grace_s: float | None = None

    @property
    def due(self) -> bool:
        return bool(self.reasons)


@dataclass(frozen=True)
class Run:
    """What a trigger may know of the run that it watches. ``path``: of the repository."""

    path: str


class Trigger(Protocol):
    """One policy. Only ``at_step`` is needed; the engine looks for the other methods by name.

    ``start(run: Run)``: before the first boundary. ``taken(moment: Moment)``: a snapshot was taken at this boundary,
    for whatever reason. ``at_exception(error: BaseException) -> str | None``: the run is ending with this.
    ``close()``: the run is over. Whatever one raises is logged and counted, and harms nothing.
    """

    def at_step(self, moment: Moment) -> str | None: ...


class Engine:
    """Asks triggers, in their order. ``failures``: how often one has raised, by its class's name."""

    def __init__(self, triggers: Sequence[Trigger]) -> None:
        self.triggers = list(triggers)
        self.failures: dict[str, int] = {}

    def at_step(self, moment: Moment) -> Decision:
        reasons = [reason for trigger in self.triggers if (reason := trigger.at_step(moment)) is not None]
        return Decision(tuple(reasons))
