"""Whether a copy should overlap with the step or be waited for, judged by what each has cost."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Literal

Mode = Literal["overlap", "wait"]

REMEMBERED = 32
TRIALS = 3
PROBE_EVERY = 64
CLEARLY = 1.1


class Pacer:
    """Chooses how the next snapshot is copied. Knows no clock: it is told how long steps took.

    It starts with overlapping. When steps with a copy beside them take clearly longer than the plain ones and a
    waited-for copy together, it tries waiting, and stays with what made steps shorter; now and then it tries again.
    """

    def __init__(self) -> None:
        self._plain: deque[float] = deque(maxlen=REMEMBERED)
        self._steps: dict[Mode, deque[float]] = {"overlap": deque(maxlen=TRIALS), "wait": deque(maxlen=TRIALS)}
        self._copy_seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._mode: Mode = "overlap"
        self._since_probe = 0

    @property
    def mode(self) -> Mode:
        """How the next copy should be made."""
        return self._mode

    def copied(self, seconds: float) -> None:
        """A copy took this long."""
        self._copy_seconds.append(seconds)

    def step(self, seconds: float, mode: Mode | None) -> None:
        """From one optimizer step to the next took this long; a snapshot was copied that way in between."""
        if mode is None:
            self._plain.append(seconds)
            return
        self._steps[mode].append(seconds)
        self._since_probe += 1
        self._choose()

    def _choose(self) -> None:
        overlap, wait = self._steps["overlap"], self._steps["wait"]
        if self._mode == "overlap":
            if len(overlap) < TRIALS:
                return
            if len(wait) < TRIALS:
                self._mode = "wait" if self._waiting_looks_better() else "overlap"
            elif median(wait) * CLEARLY < median(overlap):
                self._mode = "wait"
            elif self._since_probe >= PROBE_EVERY:
                self._since_probe = 0
                wait.clear()
        elif len(wait) >= TRIALS:
            if median(overlap) <= median(wait) * CLEARLY:
                self._mode = "overlap"
            elif self._since_probe >= PROBE_EVERY:
                self._since_probe = 0
                overlap.clear()
                self._mode = "overlap"

    def _waiting_looks_better(self) -> bool:
        """Whether a step with a copy beside it costs clearly more than a plain one and the quickest copy."""
        if not self._plain or not self._copy_seconds:
            return False
        return median(self._steps["overlap"]) > CLEARLY * (median(self._plain) + min(self._copy_seconds))
