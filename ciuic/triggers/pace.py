"""How a run goes: when its steps end, how long they take, and what its snapshots cost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from statistics import median

from ciuic.objects.snapshot import Snapshot
from ciuic.triggers.engine import Moment

STEPS_REMEMBERED = 16


class Pace:
    """Of one run, as its triggers are told."""

    def __init__(self) -> None:
        self._step_seconds: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._last: tuple[int, float] | None = None  # the newest boundary, or the end of the snapshot taken at it
        self._last_taken: tuple[int, float] | None = None
        self._cost_s: float | None = None

    @property
    def last_step(self) -> int | None:
        """The newest step that ended; None before the first."""
        return None if self._last is None else self._last[0]

    @property
    def step_s(self) -> float | None:
        """How long a step takes lately, beside the saving itself; None before there were two."""
        return median(self._step_seconds) if self._step_seconds else None

    def ended(self, step: int) -> None:
        """A step has come to its boundary."""
        now = time.monotonic()
        if self._last is not None and step > self._last[0]:
            self._step_seconds.append((now - self._last[1]) / (step - self._last[0]))
        self._last = step, now

    def taken(self, step: int) -> None:
        """A snapshot was ordered at this boundary; the next step begins now."""
        self._last = self._last_taken = step, time.monotonic()

    def published(self, snapshot: Snapshot) -> None:
        """It has cost the training thread its call and its wait at the fence."""
        self._cost_s = snapshot.cost.get("call", 0.0) + snapshot.cost.get("fence", 0.0)

    def moment(self, step: int, epoch: int | None, metrics: Mapping[str, float]) -> Moment:
        """What triggers see at a boundary now."""
        last_step, last_time_s = self._last_taken or (None, None)
        return Moment(
            step=step,
            time_s=time.monotonic(),
            epoch=epoch,
            metrics=metrics,
            step_s=self.step_s,
            cost_s=self._cost_s,
            last_step=last_step,
            last_time_s=last_time_s,
        )
