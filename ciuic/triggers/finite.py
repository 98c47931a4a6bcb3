"""Snapshots at a metric that is no number any more."""

from __future__ import annotations

import math

from ciuic.triggers.engine import Moment


class NonFinite:
    """When one of ``metrics`` ("loss" without any) becomes NaN or infinite; not again while it stays so.

    The snapshot holds the state that the bad step has left; the one to go back to is an earlier one.
    """

    def __init__(self, *metrics: str) -> None:
        self.metrics = metrics or ("loss",)
        self._bad: set[str] = set()

    def at_step(self, moment: Moment) -> str | None:
        given = {name: moment.metrics[name] for name in self.metrics if name in moment.metrics}
        bad = {name for name, value in given.items() if not math.isfinite(value)}
        new = bad - self._bad
        self._bad = (self._bad - given.keys()) | bad
        return ", ".join(f"{name} is {given[name]:g}" for name in self.metrics if name in new) or None
