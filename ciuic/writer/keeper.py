"""The thread that keeps a writer process alive: it alone talks to the process, and to the next one when it dies."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from ciuic.daemon_thread import DaemonThread
from ciuic.errors import SnapshotTimeout, StorageError, WriterFailed
from ciuic.history.following import Attempt, Position
from ciuic.objects.snapshot import decode_snapshot
from ciuic.store.fs import LOCAL
from ciuic.writer.channel import Message
from ciuic.writer.child import Child
from ciuic.writer.jobs import Jobs, Running, guarded, say
from ciuic.writer.link import select_ready
from ciuic.writer.wire import attempt_fields, attempt_of, error_of, position_fields, position_of

MOST_WRITERS = 3
START_PAUSES_S = (0.5, 1.0, 2.0)
STUCK_FACTOR = 10
TICK_S = 1.0
LONGEST_TICK_S = 2.0
"""More than this between two looks was not the writer's silence: the trainer itself was stopped."""
SILENT_S = 3.0
HAND_OVER_S = 2.0


class Keeper:
    """Runs from the first need of a process until ``close`` or ``give_up``."""

    def __init__(
        self,
        repository: str,
        jobs: Jobs,
        moved: Callable[[Position], None],
        *,
        low: bool,
        timeout: float,
        start_up: Sequence[str] | None,
        retention: Sequence[str] | None,
        guard: threading.Lock,
        after: Keeper | None = None,
    ) -> None:
        """``guard`` is held by whoever adds a job; ``after`` is one that failed, whose course this one goes on with."""
        self.repository = repository
        self.jobs = jobs
        self.child: Child | None = None
        self.closing = False
        self.giving_up = False
        self.failed = False
        self._moved = moved
        self._low = low
        self._timeout = timeout
        self._beat = min(TICK_S, timeout / 5)
        self._start_up = start_up
        self._retention = None if retention is None else list(retention)
        self._guard = guard
        self._wanted = True  # a process, though there is no job yet
        self._refused = 0  # starts, one after the other
        self._next_start = 0.0
        self._position: Position | None = None  # after the last job that ended
        self._loose: tuple[Attempt, Position | None] | None = None  # of a job that was given up
        self._leftovers: list[str] = []
        if after is not None:
            self._position, self._loose, self._leftovers = after._position, after._loose, after._leftovers
        self._alarm_guard = threading.Lock()
        self._awake, self._alarm = os.pipe()
        os.set_blocking(self._awake, False)
        os.set_blocking(self._alarm, False)
        self._thread = DaemonThread(self._run, name="ciuic-writer")
        try:
            self._thread.start()
        except BaseException:
            self._close_alarm()
            raise

    def wake(self) -> None:
        with self._alarm_guard, contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
            os.write(self._alarm, b"!")

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within ``timeout`` seconds."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def forget(self) -> None:
        """In a forked child, where the thread is not."""
        child, self.child = self.child, None
        if child is not None:
            child.forget()
        self._close_alarm()

    def _close_alarm(self) -> None:
        descriptors, self._awake, self._alarm = (self._awake, self._alarm), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    # The thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._fail(error)
        finally:
            child, self.child = self.child, None
            if child is not None:
                child.let_go()
            for name in self._leftovers:
                with contextlib.suppress(StorageError, OSError):
                    LOCAL.remove_if_there(os.path.join(self.repository, "tmp", os.path.basename(name)))
            self.closing = True
            with self._alarm_guard:
                self._close_alarm()

    def _fail(self, error: BaseException) -> None:
        """No process reads the slots any more, the jobs have failed, and the next one starts another thread."""
        say(logging.ERROR, "The thread that serves the writer process failed.", exc_info=True)
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            guarded(lambda: self._leftovers.extend(child.leftovers))
            guarded(child.let_go)
        with self._guard:
            self.failed = True
            lost = self.jobs.all()
        self._take_leftovers(lost)
        for each in lost:
            self._give_up(each, f"{type(error).__name__}: {error}")

    def _turn(self) -> bool:
        """One look at everything; False when there is nothing left to do, ever."""
        if self.giving_up:
            self._leave()
            return False
        running = self.jobs.all()
        if self.child is None:
            if self.closing and not running:
                return False
            if (running or self._wanted) and time.monotonic() >= self._next_start:
                self._start()
                return True
        elif not self.child.finishing:
            self._post(self.child, running)
            if self.closing and not running and not self.child.channel.waiting:
                self.child.channel.finish()
                self.child.finishing = True
        self._look(busy=bool(running))
        return True

    def _start(self) -> None:
        self._wanted = False
        hello: Message = {
            "repository": self.repository,
            "trainer": os.getpid(),
            "low": self._low,
            "beat": self._beat,
            "path": [entry for entry in sys.path if isinstance(entry, str) and os.path.isabs(entry)],
            "leftovers": self._leftovers,
            "retention": self._retention,
        }
        try:
            self.child = Child(self._start_up, hello)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            text = f"The writer process cannot be started: {type(error).__name__}: {error}"
            say(logging.WARNING, "%s", text)
            self._next_start = time.monotonic() + START_PAUSES_S[min(self._refused, len(START_PAUSES_S) - 1)]
            self._refused += 1
            self._charge(text)
        else:
            self._refused = 0

    def _post(self, child: Child, running: list[Running]) -> None:
        """Orders for the jobs that this process does not know yet."""
        for each in running:
            if each.posted:
                continue
            position = each.job.position
            attempt = each.attempt
            if child.orders == 0:
                position = position or self._position
                if attempt is None and self._loose is not None and self._loose[1] == position:
                    attempt = self._loose[0]
            descriptors: tuple[int, ...] = (each.order,)
            key = each.job.memory_key
            if not child.has_slot(key):
                descriptors = each.order, each.memory
            message: Message = {
                "job": each.number,
                "key": key,
                "size": each.job.memory_size,
                "base": each.job.base_key,
                "drop": child.give_slot(key, each.job.memory_size),
                "new": len(descriptors) > 1,
                "position": position_fields(position),
                "attempt": attempt_fields(attempt),
                "own": each.attempt is not None,
            }
            child.channel.post(message, descriptors, each.staged)
            child.orders += 1
            each.posted = True
            if child.orders == 1 or each is running[0]:
                child.silence = child.stuck = 0.0

    def _look(self, *, busy: bool) -> None:
        """Wait until something happens, or a tick is over, and take note of it."""
        child = self.child
        reading, writing = [self._awake], []
        timeout: float | None = None
        if child is not None:
            reading += [child.channel.fileno()] + ([child.exit] if child.exit is not None else [])
            writing += [child.channel.fileno()] if child.channel.waiting else []
            if busy or child.finishing:
                timeout = self._beat
        elif busy:
            timeout = max(0.0, self._next_start - time.monotonic())
        before = time.monotonic()
        ready = select_ready(reading, writing, timeout)
        elapsed = min(time.monotonic() - before, LONGEST_TICK_S)
        if self._awake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._awake, 4096)
        if child is None:
            return
        child.channel.flush()
        ended = child.dead()  # before the last look: what it said, it said before
        child.silence += elapsed
        child.stuck += elapsed
        self._listen(child)
        if ended or child.channel.ended:
            self._died(child)
        elif (busy or child.finishing) and (
            child.silence > self._timeout or child.stuck > STUCK_FACTOR * self._timeout
        ):
            self._stalled(child)

    # What the process says

    def _listen(self, child: Child) -> None:
        for message, _ in child.channel.receive():
            child.silence = 0.0
            self._hear(child, message)

    def _hear(self, child: Child, message: Message) -> None:
        if "beat" in message:
            if message["beat"] != child.progress:
                child.progress, child.stuck = message["beat"], 0.0
            return
        child.stuck = 0.0
        if "log" in message:
            say(message["log"], "%s", message["text"])
            return
        self._leftovers = []  # a process that is at a job has removed them
        running = self.jobs.get(message["job"])
        if running is None:
            return
        if "temporary" in message:
            running.temporary.append(message["temporary"])
        elif "trying" in message:
            running.attempt = attempt_of(message["trying"])
        elif "retrying" in message:
            say(
                logging.WARNING,
                "The snapshot of step %s could not be stored yet; another try in %s s. %s",
                running.job.details.step, message["retrying"], message["text"],
            )  # fmt: skip
            self.jobs.count("retries")
        else:
            self._ended(child, running, message)

    def _ended(self, child: Child, running: Running, message: Message) -> None:
        position = position_of(message["position"])
        if position is None:  # it could not open the repository
            self._position = running.job.position or self._position
        else:
            self._position = position
            guarded(lambda: self._moved(position))
        self._loose = None
        if "done" in message:
            snapshot = decode_snapshot(message["done"], bytes.fromhex(message["id"]))
            self.jobs.succeed(running, snapshot, unchanged=message["unchanged"])
        else:
            if running.attempt is not None:
                self._loose = running.attempt, self._position
            child.slots.pop(running.job.memory_key, None)  # it may not have got it
            self.jobs.fail(running, error_of(message["failed"], message["text"]))

    # When the process is no more

    def _died(self, child: Child) -> None:
        if not child.dead():
            child.kill()  # it closed its line, and cannot be reached any more
        if self.jobs.all() or (child.process.returncode and not child.finishing):
            say(logging.WARNING, "The writer process died (%s).%s", child.epitaph(), self._successor())
            self.jobs.count("writer_deaths")
        self._bury(child)

    def _successor(self) -> str:
        running = self.jobs.all()
        last = len(running) == 1 and running[0].deaths + 1 >= MOST_WRITERS
        return " Another one takes over." if running and not last else ""

    def _stalled(self, child: Child) -> None:
        child.kill()
        silent = child.silence > self._timeout
        what = f"gave no sign of life for {child.silence:.0f} s" if silent else f"got nowhere for {child.stuck:.0f} s"
        say(logging.WARNING, "The writer process %s and was killed.%s", what, self._successor())
        self.jobs.count("writer_stalls")
        self._bury(child)

    def _bury(self, child: Child) -> None:
        """Its unfinished jobs are for the next one, unless the first of them was too much for three."""
        self._listen(child)
        self.child = None
        self._leftovers += child.leftovers
        child.let_go()
        running = self.jobs.all()
        self._take_leftovers(running)
        for each in running:
            each.posted = each.sent = False
        self._charge(f"The writer process died {MOST_WRITERS} times over this snapshot.")

    def _charge(self, text: str) -> None:
        """One writer less for the first job."""
        for first in self.jobs.all()[:1]:
            first.deaths += 1
            if first.deaths >= MOST_WRITERS:
                self._give_up(first, text)

    def _take_leftovers(self, running: list[Running]) -> None:
        """What the dead process had in ``tmp/`` is for the next one to remove, or for the end."""
        for each in running:
            self._leftovers += each.temporary
            each.temporary = []

    def _give_up(self, running: Running, text: str) -> None:
        position = running.job.position
        if position is not None:
            self._position = position
        if running.attempt is not None:
            self._loose = running.attempt, self._position
            text += " It may have been published all the same: `ciuic log` tells."
        self.jobs.fail(running, WriterFailed(text))

    def _hand_over(self, child: Child, running: list[Running]) -> None:
        """What is not yet in the hands of the process, as far as it takes it soon."""
        self._post(child, running)
        deadline = time.monotonic() + HAND_OVER_S
        while not child.channel.flush() and time.monotonic() < deadline:
            select_ready([], [child.channel.fileno()], 0.1)
        self._listen(child)

    def _leave(self) -> None:
        """The time to close is over: a process that works is left to finish, one that does not is killed."""
        running = self.jobs.all()
        if running and self.child is None:
            self._start()
        child = self.child
        if child is not None and not child.finishing:
            self._hand_over(child, running)
        running = self.jobs.all()
        working = child is not None and any(each.sent for each in running) and child.silence < SILENT_S
        if child is not None and not working:
            child.kill()
            self._listen(child)
            self._leftovers += child.leftovers
            running = self.jobs.all()
            self._take_leftovers(running)
        for each in running:
            if working and each.sent:
                error = SnapshotTimeout("It is still being written, and the writer process goes on by itself.")
                self.jobs.fail(each, error, release=False)
            else:
                self._give_up(each, "It was not handed over before the writer was closed.")
