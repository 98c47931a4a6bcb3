"""Snapshots at a spike of the loss."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from ciuic.triggers.engine import Moment

DEVIATIONS_PER_MAD = 1.4826
"""Of normally distributed values the standard deviation is so many times the median absolute deviation."""
LEAST_SCALE = 1e-3
"""Of the median: what a loss that hardly moves is taken to scatter by."""


class LossSpike:
    """When ``metric`` is more than ``factor`` deviations above the median of its last ``window`` values.

    A deviation is 1.4826 times the median absolute deviation of these values, and at least a thousandth of the median:
    neither is moved by the spikes themselves. One snapshot a spike, however many steps it lasts. Nothing is judged
    before ``window`` values were seen, after a resume neither. NaN and infinity are not counted (see ``NonFinite``).
    """

    def __init__(self, window: int = 64, factor: float = 8.0, *, metric: str = "loss") -> None:
        if window < 8:
            raise ValueError("window is a number of values, at least 8")
        if not 0 < factor < math.inf:
            raise ValueError("factor is a number of deviations, above 0")
        self.window = window
        self.factor = factor
        self.metric = metric
        self._values: deque[float] = deque(maxlen=window)
        self._high = False

    def at_step(self, moment: Moment) -> str | None:
        value = moment.metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return None
        full, was_high = len(self._values) == self.window, self._high
        usual = median(self._values) if full else value
        self._high = full and value > usual + self.factor * self._scale(usual)
        self._values.append(value)
        if self._high and not was_high:
            return f"{self.metric} spiked: {value:.6g}, where {usual:.6g} was usual"
        return None

    def _scale(self, usual: float) -> float:
        deviation = median(abs(value - usual) for value in self._values)
        return max(DEVIATIONS_PER_MAD * deviation, LEAST_SCALE * abs(usual))
