"""Signals that the training hears, and its workers do not.

A terminal's Ctrl-C, Slurm, systemd and ``kill -- -PGID`` send a signal to every process of a training. A worker that
died of it would end the training with an error before the boundary at which the signal is answered.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

NOT_FROM_OUTSIDE = {signal.SIGCHLD}
ENDS: int = getattr(signal, "SIGRTMAX", signal.SIGUSR2)  # macOS has no real-time signals
"""What tells a worker to end, in the place of SIGTERM."""
PATIENCE_S = 1.0
"""For a worker that has been told: native code may keep it from hearing anything."""

Batches = TypeVar("Batches")


def heard_here() -> tuple[int, ...]:
    """The signals for which this process has handlers of Python's."""
    return tuple(number for number in signal.valid_signals() - NOT_FROM_OUTSIDE if callable(signal.getsignal(number)))


class PassingOver:
    """What a worker begins with: it passes over the signals that the training hears, and calls ``own``."""

    def __init__(self, own: Callable[[int], None] | None) -> None:
        self.own = own
        self._heard_by_training = heard_here()

    def __call__(self, worker: int) -> None:
        pass_over(self._heard_by_training)
        if self.own is not None:
            self.own(worker)


def pass_over(numbers: Sequence[int]) -> None:
    """In a worker: nothing happens at these signals. What it runs itself hears them as ever."""
    for number in numbers:
        signal.signal(number, lambda *_: None)  # to ignore it would be inherited by what it runs
        signal.siginterrupt(number, False)
    signal.signal(ENDS, lambda *_: os._exit(0))


def end_otherwise(batches: Batches) -> Batches:
    """``batches`` of torch's: its workers, which may pass over SIGTERM, are ended otherwise where it would be sent."""
    for worker in getattr(batches, "_workers", ()):
        worker.terminate = worker._popen.terminate = partial(_end, worker._popen)
    return batches


def _end(process: Any) -> None:
    """As ``terminate`` does, when torch or multiprocessing is at its wits' end."""
    process._send_signal(ENDS)
    if process.wait(PATIENCE_S) is None:
        process.kill()
