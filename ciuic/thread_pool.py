"""Work in a few threads, whatever state the process is in."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ciuic.daemon_thread import DaemonThread

Result = TypeVar("Result")
Task = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class ThreadPool:
    """Up to ``threads`` threads, or as many as can be had; without any, whoever submits does the work.

    The standard library's pool waits for ever for a thread that finds no memory, and takes no work once the program is
    ending; a snapshot may be asked for in both cases. One thread at a time submits. As a context manager it is closed.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._threads: list[DaemonThread] = []
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """``work(*arguments)``, soon."""
        future: Future[Result] = Future()
        if self._has_threads():
            self._tasks.put((future, work, arguments))
        else:
            _carry_out(future, work, arguments)
        return future

    def close(self) -> None:
        """Nothing runs any more on return; what had not begun is cancelled."""
        with contextlib.suppress(queue.Empty):
            while (task := self._tasks.get_nowait()) is not None:
                task[0].cancel()
        threads, self._threads, self._most = self._threads, [], 0
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    def _has_threads(self) -> bool:
        if len(self._threads) < self._most:
            thread = DaemonThread(self._run, name=f"{self._name}_{len(self._threads)}")
            try:
                thread.start()
                self._threads.append(thread)
            except RuntimeError:  # nor will the next one find a place
                self._most = len(self._threads)
        return bool(self._threads)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            _carry_out(*task)
            del task  # it holds what it works on


def _carry_out(future: Future[Any], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work(*arguments)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
