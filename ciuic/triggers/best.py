"""Snapshots by a metric that is better than ever."""

from __future__ import annotations

import math
from typing import Literal

from ciuic.triggers.engine import Moment, Run


class BestMetric:
    """When ``metric`` is better than in every snapshot that this run comes from, by more than ``margin``.

    ``mode``: "min" when lower is better, "max" when higher is. After a resume the best so far is that of the history.
    A boundary without the metric (it is often given after an evaluation alone) is passed over, and so are NaN and
    infinity.
    """

    def __init__(self, metric: str = "loss", mode: Literal["min", "max"] = "min", *, margin: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise ValueError('mode is "min" or "max"')
        if not 0 <= margin < math.inf:
            raise ValueError("margin is how much better a value has to be, at least 0")
        self.metric = metric
        self.mode = mode
        self.margin = margin
        self.best: float | None = None
        self._run: Run | None = None

    def start(self, run: Run) -> None:
        self._run = run

    def at_step(self, moment: Moment) -> str | None:
        value = moment.metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return None
        self._learn()
        if self.best is not None and not self._gain(value) > self.margin:
            return None
        return f"best {self.metric}: {value:.6g}"

    def taken(self, moment: Moment, _pending: object) -> None:
        """What was not saved is not the best so far."""
        value = moment.metrics.get(self.metric)
        if value is not None and math.isfinite(value):
            self._learn()
            self.best = value if self.best is None or self._gain(value) > 0 else self.best

    def _learn(self) -> None:
        """The best of the history, once."""
        run, self._run = self._run, None
        values = [] if run is None else [metrics.get(self.metric) for metrics in run.metrics()]
        found = [value for value in values if value is not None and math.isfinite(value)]
        if found:
            self.best = min(found) if self.mode == "min" else max(found)

    def _gain(self, value: float) -> float:
        assert self.best is not None
        return self.best - value if self.mode == "min" else value - self.best
