"""The thread that carries out ordered copies, one after the other, each exactly once."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ciuic.daemon_thread import DaemonThread

Order = TypeVar("Order")

logger = logging.getLogger("ciuic")


class Copier(Generic[Order]):
    """``carry_out`` each order, in order; between them ``prepare``, as long as it returns True.

    Where no thread can be started, and after ``close``, an order is carried out by whoever gives it: nothing that
    waits for a copy waits for ever.
    """

    def __init__(self, carry_out: Callable[[Order], None], prepare: Callable[[], bool]) -> None:
        self._carry_out = carry_out
        self._prepare = prepare
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._guard = threading.RLock()  # a signal handler may close it in the middle of an order
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, order: Order) -> None:
        with self._guard:
            if not self._closed and self._started():
                self._orders.put(order)
                return
        self._safely(order)

    def close(self) -> None:
        """Everything that was put is carried out on return."""
        with self._guard:
            self._closed = True
            thread = self._thread
            self._orders.put(None)
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join()
        self._drain()

    def _started(self) -> bool:
        if self._thread is None or not self._thread.is_alive():
            self._thread = DaemonThread(self._run, name="ciuic-copier")
            try:
                self._thread.start()
            except RuntimeError:  # no more threads for this process, at the moment
                return False
        return True

    def _run(self) -> None:
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                if self._prepared_piece():
                    continue
                order = self._orders.get()
            if order is None:
                return
            self._safely(order)
            del order  # it holds live tensors

    def _drain(self) -> None:
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            if order is not None:
                self._safely(order)

    def _prepared_piece(self) -> bool:
        try:
            return self._prepare()
        except Exception:
            return False

    def _safely(self, order: Order) -> None:
        try:
            self._carry_out(order)
        except Exception:
            try:
                logger.exception("A copy could not be carried out.")
            except Exception:  # a handler or filter of the user's
                return
