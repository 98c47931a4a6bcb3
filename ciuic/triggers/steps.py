"""Snapshots by the number of steps."""

from __future__ import annotations

from ciuic.triggers.engine import Moment


class EverySteps:
    """After every ``interval``-th step: 99, 199, … for 100; where not every batch ends a step, at the next end."""

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ValueError("interval is a number of steps, at least 1")
        self.interval = interval

    def at_step(self, moment: Moment) -> str | None:
        ended, last = moment.step + 1, moment.last_step
        if last is None or last >= moment.step:  # none in this process yet, or gone back before it
            due = ended % self.interval == 0
        else:
            due = ended // self.interval > (last + 1) // self.interval
        return f"every {self.interval} steps" if due else None
