"""Snapshots as often as a share of the training time allows."""

from __future__ import annotations

import math

from ciuic.triggers.engine import Moment


class Budget:
    """As often as snapshots cost at most ``share`` of the time, and not more often than every ``least_s`` seconds.

    Each snapshot is paid for by the time after it: one that has cost the training thread c seconds is followed by at
    least c / ``share`` seconds without another one of this trigger's, so that over any time that ends with them the
    sum of the costs is at most ``share`` of it. Those that other triggers have taken are paid for likewise, one after
    the other. The interval follows the cost: from 2 ms to 20 ms, and at 1 %, it grows from 0.2 s to 2 s.
    The cost is what the engine measures: the call, and the wait at the fence before the next optimizer step.
    The first snapshot is taken after two boundaries, to learn what one costs.
    """

    def __init__(self, share: float = 0.01, *, least_s: float = 10.0) -> None:
        if not 0 < share < 1:
            raise ValueError("share is a part of the training time, above 0 and below 1: 0.01 for 1 %")
        if not 0 <= least_s < math.inf:
            raise ValueError("least_s is a number of seconds, at least 0")
        self.share = share
        self.least_s = least_s
        self._newest: int | None = None  # the step of the newest snapshot
        self._before_s = self._paid_at_s = float("-inf")  # when what was taken before it is paid for, and all of it

    def at_step(self, moment: Moment) -> str | None:
        if moment.last_step is None or moment.last_time_s is None:
            return self._reason if moment.step_s is not None else None
        if moment.last_step != self._newest:
            self._newest, self._before_s = moment.last_step, self._paid_at_s
        if moment.cost_s is None:
            return None
        # Its cost is known for certain only when it is published; until then it is taken to cost what the last one did.
        self._paid_at_s = max(self._before_s, moment.last_time_s) + moment.cost_s / self.share
        return self._reason if moment.time_s >= max(self._paid_at_s, moment.last_time_s + self.least_s) else None

    @property
    def _reason(self) -> str:
        return f"a budget of {self.share:.3g} of the time"
