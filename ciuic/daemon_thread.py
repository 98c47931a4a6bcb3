"""Threads that serve a training: started where memory may be short, and never in its way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

STARTING_S = 10.0


class DaemonThread(threading.Thread):
    """Runs ``target(*arguments)``; the program's end does not wait for it.

    ``start`` raises RuntimeError when the thread cannot be started, and when it does not come up within STARTING_S.
    CPython's own waits for ever for one that dies before its first line for lack of memory (python/cpython#140746).
    """

    def __init__(self, target: Callable[..., object], *arguments: Any, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._task: tuple[Callable[..., object], tuple[Any, ...]] | None = (target, arguments)
        self._started = _Started()

    def start(self) -> None:
        try:
            super().start()
        except (RuntimeError, MemoryError) as error:
            self._task = None  # whoever was told that it does not run is not to meet it later
            raise RuntimeError(f"The thread {self.name} cannot be started: {error or 'no memory'}") from error

    def run(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            target, arguments = task
            target(*arguments)


class _Started(threading.Event):
    """What ``Thread.start`` waits for."""

    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(STARTING_S if timeout is None else timeout):
            raise RuntimeError("it did not come up, probably for lack of memory")
        return True
