"""The engine behind ``commit(wait=False)``: slots, the copying thread, the writer process, policy and counts."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ciuic.capture import cuda, fence
from ciuic.capture.arena import Arena, Slot
from ciuic.capture.copier import Copier
from ciuic.capture.copying import Copy, Layout
from ciuic.capture.pacing import Mode, Pacer
from ciuic.commit.pipeline import Details
from ciuic.daemon_thread import DaemonThread
from ciuic.errors import BackgroundError, CiuicError, SnapshotSkipped, TornSnapshot
from ciuic.history.following import Following, Position
from ciuic.objects.state_tree import StateNode
from ciuic.writer.pending import PendingSnapshot
from ciuic.writer.process import Job, Writer

WhenBusy = Literal["wait", "skip"]
Priority = Literal["normal", "low"]

SLOTS = 2
WRITER_TIMEOUT_S = 30.0
EXIT_TIMEOUT_S = 600.0
GOODBYE_S, SHORT_GOODBYE_S = 75.0, 2.0
"""How long a writer may take to go, in which retention collects; and one whose trainer has no time."""
SERVING = ("ciuic-copier", "ciuic-writer")
"""The threads that bring snapshots about."""
COUNTED = ("published", "unchanged", "torn", "skipped", "failed", "retries", "writer_deaths", "writer_stalls")

logger = logging.getLogger("ciuic")


class NoRoom(Exception):
    """There is no shared memory for a slot: the snapshot has to be taken while training waits."""


class Background:
    """Stages snapshots of one repository object and hands them to its writer process, in call order.

    ``slots``: staged copies at a time. ``priority``: of the writer, for the CPU and the disk. ``timeout``: seconds
    without a sign of life after which the writer is killed and another one started (ten times that without progress).
    ``counts``: how many snapshots were published, unchanged (their tree is their parent's), torn, skipped, failed;
    and how often a write was retried, and a writer died or was stalled.
    """

    def __init__(
        self,
        path: str,
        following: Following,
        counts: Counter[str],
        *,
        slots: int = SLOTS,
        priority: Priority = "normal",
        timeout: float = WRITER_TIMEOUT_S,
        retention: Sequence[str] | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError("slots is a number of staged copies, at least 1")
        self.owner = os.getpid()
        self.counts = counts
        self._following = following
        self._arena = Arena(slots)
        self._pacer = Pacer()
        self._writer = Writer(
            path, priority=priority, timeout=timeout, moved=self._moved, count=self.count, retention=retention
        )
        self._copier: Copier[_Order] = Copier(self._stage, self._prepare_piece)
        self._unfinished: set[PendingSnapshot] = set()
        self._with_writer: set[PendingSnapshot] = set()
        self._changed = threading.Condition(threading.RLock())
        self._closing = threading.RLock()
        self._largest = 0
        self._torn: set[tuple[int, int]] = set()
        self._tracked: weakref.ref[Any] | None = None
        self._last_step: float | None = None
        self._waited = 0.0  # for slots, since the last step: no fault of the copy's
        self._copied_as: Mode | None = None
        self._unwatch = fence.watch(self._before_step)
        _engines.add(self)

    # Taking snapshots

    def prepare(self, components: Mapping[str, StateNode], more: int) -> None:
        """Allocate and fault in every slot for this state and ``more`` bytes, and start the writer. NoRoom."""
        layout = Layout(components)
        nbytes = layout.size + more
        self._writer.start()
        try:
            self._arena.prepare(nbytes)
        except MemoryError as error:
            raise NoRoom(str(error)) from error
        if layout.on_cuda:
            for mapping in self._arena.mappings:
                cuda.pin(mapping)
        self._largest = max(self._largest, nbytes)

    def _prepare_piece(self) -> bool:
        return self._largest > 0 and self._arena.prepare_piece(self._largest)

    def commit(
        self,
        components: Mapping[str, StateNode],
        ordered: set[int],
        details: Details,
        action: str,
        *,
        optimizer: Any = None,
        when_busy: WhenBusy = "wait",
        busy_timeout: float | None = None,
        began: float | None = None,
    ) -> PendingSnapshot:
        """Order a copy and return. What may change anywhere has been copied on return.

        Every slot in use: waits, up to ``busy_timeout`` seconds if given, or skips. A skipped one ends as
        SnapshotSkipped. ``began``: the ``perf_counter`` at which the call began. NoRoom.
        """
        began = time.perf_counter() if began is None else began
        layout = Layout(components)
        order = _Order(PendingSnapshot(details.step), details, action, self._pacer.mode, began)
        try:
            slot = self._take(layout.size, 0 if when_busy == "skip" else busy_timeout, order)
            if slot is None:
                return self._skipped(order.pending)
            if self._torn:
                ordered = ordered - {id(item.leaf) for item in layout.items if item.memory in self._torn}
            order.copy = Copy(layout, components, ordered, slot)
            fence.register(order.copy)
            self._largest = max(self._largest, layout.size)
            self._track(optimizer, order.mode)
            self._enqueue(order)
        except NoRoom:
            raise
        except BaseException:  # Ctrl-C among them: whoever carries out the order, once, takes it back
            order.cancelled = True
            self._copier.put(order)
            raise
        if order.mode == "wait":
            fence.wait()
        return order.pending

    def _take(self, nbytes: int, timeout: float | None, order: _Order) -> Slot | None:
        asked = time.perf_counter()
        try:
            return self._arena.take(nbytes, timeout, order.slots)
        except MemoryError as error:
            raise NoRoom(str(error)) from error
        finally:
            self._waited += time.perf_counter() - asked

    def _skipped(self, pending: PendingSnapshot) -> PendingSnapshot:
        self.count("skipped")
        number = self.counts["skipped"]
        if number & (number - 1) == 0:  # the first, the second, the fourth: who saves at every step would hear of each
            so_far = f" {number} were skipped so far." if number > 1 else ""
            logger.warning(
                "The snapshot of step %s was skipped: the writer is busy with earlier ones.%s", pending.step, so_far
            )
        text = f"Step {pending.step}: every slot was in use. Save less often, or give more slots."
        pending.set_exception(SnapshotSkipped(text))
        return pending

    def _enqueue(self, order: _Order) -> None:
        with self._changed:
            self._unfinished.add(order.pending)
        order.pending.add_done_callback(self._ended)
        with contextlib.suppress(CiuicError, OSError, RuntimeError, MemoryError):  # said when the copy is handed over
            self._writer.start()  # from the first call on: later, when memory is short, it may not start any more
        order.call_seconds = time.perf_counter() - order.began
        self._copier.put(order)

    def _stage(self, order: _Order) -> None:
        """Carry out an order, once; whatever goes wrong reaches the one who waits for this snapshot."""
        if order.taken:
            return
        order.taken = True
        copy, order.copy = order.copy, None
        try:
            if copy is None or order.cancelled:
                raise BackgroundError("The commit was interrupted while its copy was being ordered.")
            copy.run()
            self._pacer.copied(copy.copy_seconds)
            self._writer.submit(self._job(order, copy))  # it says when the snapshot is staged: survives this process
        except BaseException as error:
            if copy is not None:
                copy.give_up()
            for slot in order.slots:
                self._arena.give_back(slot)
            if copy is not None and copy.torn:
                self._torn |= {item.memory for item in copy.torn}
            error.__traceback__ = None  # whose frames hold the live tensors
            try:
                if not order.cancelled:
                    self.count("torn" if isinstance(error, TornSnapshot) else "failed")
                    logger.warning("No snapshot of step %s: %s", order.details.step, error)
            finally:
                order.pending.set_exception(error if isinstance(error, CiuicError) else BackgroundError(repr(error)))

    def _job(self, order: _Order, copy: Copy) -> Job:
        (slot,) = order.slots
        call = order.call_seconds if order.mode == "overlap" else time.perf_counter() - order.began
        cost = {"call": call, "fence": copy.fence_seconds, "copy": copy.copy_seconds}
        with self._changed:
            position = None if self._with_writer else self._following.position
            self._with_writer.add(order.pending)
        base = self._arena.follow(slot)
        if base is not None:
            order.slots.append(base)

        def released() -> None:
            for each in order.slots:
                self._arena.give_back(each)

        return Job(
            pending=order.pending,
            details=replace(order.details, cost=cost),
            action=order.action,
            components=copy.placed(),
            memory=slot.descriptor,
            memory_size=slot.size,
            memory_key=slot.key,
            base_key=0 if base is None else base.key,
            position=position,
            released=released,
        )

    def _ended(self, pending: PendingSnapshot) -> None:
        with self._changed:
            self._unfinished.discard(pending)
            self._with_writer.discard(pending)
            self._changed.notify_all()

    def _moved(self, position: Position) -> None:
        self._following.position = position

    def count(self, what: str) -> None:
        """One more of one of COUNTED."""
        with self._changed:
            self.counts[what] += 1

    @property
    def free(self) -> bool:
        """Whether a snapshot would find a slot now."""
        return self._arena.has_free

    # Waiting

    def wait(self, timeout: float | None = None) -> bool:
        """Until every snapshot ordered so far has ended, well or badly; False when it took longer than ``timeout``."""
        if threading.current_thread().name in SERVING:
            raise BackgroundError("A snapshot's callback must not wait for snapshots: it is what they wait for.")
        with self._changed:
            return self._changed.wait_for(lambda: not self._unfinished, timeout)

    def close(self, timeout: float | None = EXIT_TIMEOUT_S) -> bool:
        """Wait for what was ordered, let the writer go, free the slots. False: the writer is still at work.

        It then finishes by itself what was staged.
        """
        if self.owner != os.getpid():
            return True
        end = time.monotonic() + (EXIT_TIMEOUT_S if timeout is None else timeout)
        with self._closing:
            if self in _engines:
                try:
                    self.wait(timeout)
                finally:
                    _engines.discard(self)
                    self._unwatch()
                    self._copier.close()
                    goodbye = min(GOODBYE_S, max(SHORT_GOODBYE_S, end - time.monotonic()))
                    self._writer.close(0 if self._unfinished else goodbye)
                    self._arena.close()
        return not self._unfinished

    def close_later(self) -> None:
        """``close`` without making the caller wait; the end of the program does."""
        if self in _engines and self.owner == os.getpid():
            with contextlib.suppress(RuntimeError):
                DaemonThread(self.close, name="ciuic-close").start()

    # How long steps take

    def _track(self, optimizer: Any, mode: Mode) -> None:
        tracked = self._tracked() if self._tracked is not None else None
        if optimizer is not None and tracked is not optimizer:
            self._tracked = weakref.ref(optimizer)
            self._last_step = None
        self._copied_as = mode

    def _before_step(self, optimizer: Any) -> None:
        if self._tracked is None or self._tracked() is not optimizer:
            return
        now = time.perf_counter()
        if self._last_step is not None:
            self._pacer.step(now - self._last_step - self._waited, self._copied_as)
        self._last_step, self._copied_as, self._waited = now, None, 0.0


class _Order:
    """A copy to be made, and what it is for."""

    def __init__(self, pending: PendingSnapshot, details: Details, action: str, mode: Mode, began: float) -> None:
        self.pending = pending
        self.details = details
        self.action = action
        self.mode = mode
        self.began = began
        self.call_seconds = 0.0
        self.slots: list[Slot] = []  # the one that it has, once it has one; then that of the copy before, if untouched
        self.copy: Copy | None = None
        self.cancelled = False
        self.taken = False


_engines: set[Background] = set()


@atexit.register
def _finish() -> None:
    """A program that ends without ``close()`` still waits for its snapshots; Ctrl-C leaves them to the writer."""
    for engine in list(_engines):
        engine.close()


def _forget_in_child() -> None:
    """The engines of the parent are not the child's: it shares neither their threads nor their writers."""
    for engine in list(_engines):
        engine._writer.forget()
        engine._arena.forget()
    _engines.clear()


os.register_at_fork(after_in_child=_forget_in_child)
