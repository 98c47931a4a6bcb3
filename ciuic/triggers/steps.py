"""Snapshots by the number of steps."""

from __future__ import annotations

from ciuic.triggers.engine import Moment


class EverySteps:
    """After every ``interval``-th step: 99, 199, … for 100."""

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ValueError("interval is a number of steps, at least 1")
        self.interval = interval

    def at_step(self, moment: Moment) -> str | None:
        return f"every {self.interval} steps" if (moment.step + 1) % self.interval == 0 else None
