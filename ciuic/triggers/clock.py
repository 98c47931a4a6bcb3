"""Snapshots by the clock."""

from __future__ import annotations

from ciuic.triggers.engine import Moment


class EverySeconds:
    """At the first boundary that is ``interval_s`` seconds or more after the newest snapshot, whatever that was for;
    before there is one, after the first boundary."""

    def __init__(self, interval_s: float) -> None:
        if not interval_s > 0:
            raise ValueError("interval_s is a number of seconds, above 0")
        self.interval_s = interval_s
        self._since_s: float | None = None

    def at_step(self, moment: Moment) -> str | None:
        if self._since_s is None:
            self._since_s = moment.time_s
        since_s = self._since_s if moment.last_time_s is None else max(self._since_s, moment.last_time_s)
        return f"every {self.interval_s:g} seconds" if moment.time_s - since_s >= self.interval_s else None
