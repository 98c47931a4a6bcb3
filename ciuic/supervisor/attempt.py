"""One attempt: a command from its start to its end, and what is to be known of that."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ciuic.supervisor import descendants, memory_kills
from ciuic.supervisor.ending import Facts
from ciuic.supervisor.outlets import Outlets
from ciuic.supervisor.output_log import OutputLog
from ciuic.supervisor.pulse import Patience, Pulse, silent_since
from ciuic.supervisor.signals import NOTICED, STOPPING, Signals, stop_here

HANG_GRACE_S = 10.0
LATE_S = 1.0
NOT_FOUND, NOT_EXECUTABLE = 127, 126


@dataclass(frozen=True)
class Start:
    """What to run, and how long to bear with it. ``terminals``: whether descriptors 1 and 2 are; ``quiet_input``: it
    gets no input; ``quiet``: its output goes into the log alone. ``grace_s``: from a signal passed on to SIGKILL."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    terminals: tuple[bool, bool] = (False, False)
    quiet_input: bool = True
    quiet: bool = False
    patience: Patience = field(default_factory=Patience)
    grace_s: float = 60.0


class Attempt:
    """Runs to the end of ``run``; then nothing of the command is left but a writer that has something to publish."""

    def __init__(self, start: Start, pulse: Pulse, log: OutputLog, signals: Signals) -> None:
        self._start = start
        self._pulse = pulse
        self._log = log
        self._signals = signals
        self._stopped_by: int | None = None
        self._silent_s: float | None = None
        self._kill_at: float | None = None
        self._last_orders = False
        self._passed_on: set[int] = set()
        self._began = self._now = time.monotonic()
        self._paused_until = 0.0

    def run(self) -> Facts:
        before = memory_kills.kills()
        descendants.reap(descendants.children(os.getpid()))  # what was killed at the end of the last attempt
        self._others = descendants.children(os.getpid())
        outlets = Outlets(self._start.terminals, self._log, quiet=self._start.quiet)
        try:
            try:
                self._process = self._started(outlets)
            except OSError as error:
                code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
                outlets.say(f"{self._start.command[0]}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
                return Facts(code, tail=self._log.end())
            self._wait(outlets)
            returncode = self._process.wait()
            self._note_leaving(returncode)
            outlets.drain()
        finally:
            outlets.close()
        facts = Facts(returncode, self._silent_s, self._stopped_by, tail=self._log.end())
        risen = memory_kills.moved(before, memory_kills.kills(), machine=facts.by_kill) if returncode else None
        return replace(facts, memory_kills=risen)

    def _started(self, outlets: Outlets) -> subprocess.Popen[bytes]:
        out, err = outlets.inner
        process = subprocess.Popen(
            list(self._start.command),
            stdin=subprocess.DEVNULL if self._start.quiet_input else None,
            stdout=out,
            stderr=err,
            cwd=self._start.folder,
            env=dict(self._start.environment),
            start_new_session=True,  # a group of its own: Ctrl-C reaches it once, through us
            preexec_fn=descendants.dies_with_parent(),
        )
        for outlet in outlets.all:
            outlet.started()
        return process

    def _wait(self, outlets: Outlets) -> None:
        """Until the command has ended, and all that it has left behind with it."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.descriptor, selectors.EVENT_READ)
            for outlet in outlets.all:
                selector.register(outlet.source, selectors.EVENT_READ, outlet)
            while True:
                self._note_time()
                pause = self._pause(outlets)
                ready = selector.select(pause)
                self._note_time(pause)
                for key, _ in ready:
                    if key.data is not None:
                        outlets.pass_on(key.data)
                        if not key.data.open:
                            selector.unregister(key.fileobj)
                numbers = self._signals.take()
                for number in numbers:
                    self._heard(number, outlets)
                self._note_time()
                self._look_at_the_clock(outlets)
                if (signal.SIGCHLD in numbers or not ready) and self._is_over():
                    return

    def _note_time(self, waited_s: float | None = 0.0) -> None:
        """Whoever finds it later than it can be was stopped, or its machine was, and the command with it."""
        before, self._now = self._now, time.monotonic()
        if waited_s is not None and self._now > before + waited_s + LATE_S:
            self._paused_until = self._now

    def _is_over(self) -> bool:
        """Without burying the command: for as long as it lies there, its group's number is nobody else's."""
        status = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        left = self._left()  # buries, too: a first process has many to bury while its command runs
        if status is None:
            return False
        if self._stopped_by is not None and left and not self._last_orders:
            self._last_orders = True  # a shell script, for example, dies of the signal before what it runs has heard it
            descendants.kill(left, self._stopped_by)
        if left and time.monotonic() < (self._kill_at or 0.0):  # it has heard a signal, and has its time
            return False
        if status.si_code != os.CLD_EXITED or status.si_status != 0:
            self._send(signal.SIGKILL, group=True)  # nobody is to be in the way of the next attempt
            descendants.kill(left)
        return True

    def _note_leaving(self, returncode: int) -> None:
        """Whoever ends with a signal that was passed on has left because of it."""
        for number in self._passed_on:
            if returncode in (-number, 128 + number):
                self._stopped_by = number

    def _left(self) -> list[int]:
        """Processes that have outlived the command, where it has ended; writers do not count."""
        orphans = descendants.children(os.getpid()) - self._others - {self._process.pid}
        descendants.reap(orphans)
        return [pid for pid in descendants.below(orphans) if not descendants.is_dead(pid)]

    def _pause(self, outlets: Outlets) -> float | None:
        deadline = self._deadline(outlets)
        if deadline is None:
            return None
        longest = self._start.patience.step_s or deadline  # a first step brings the deadline forward, and wakes nobody
        return min(longest, max(0.0, deadline - self._now))

    def _deadline(self, outlets: Outlets) -> float | None:
        if self._stopped_by is not None or self._silent_s is not None:
            return self._kill_at
        since = max(self._began, self._paused_until, outlets.blocked_until)
        return self._start.patience.deadline(self._pulse.read(), since)

    def _heard(self, number: int, outlets: Outlets) -> None:
        if number == signal.SIGWINCH:
            outlets.resize()
        if number == signal.SIGTSTP:
            self._suspended()
        if number in NOTICED:
            return
        if number in STOPPING:
            self._stopped_by = number
            self._kill_at = time.monotonic() + self._start.grace_s
        else:
            self._passed_on.add(number)
        self._send(number)

    def _suspended(self) -> None:
        """Ctrl-Z: the command stops with us, and goes on with us."""
        descendants.signal_all(self._process.pid, signal.SIGSTOP)
        stop_here()
        self._paused_until = time.monotonic()
        descendants.signal_all(self._process.pid, signal.SIGCONT)

    def _send(self, number: int, *, group: bool = False) -> None:
        """To the command, which knows what its workers should hear (torchrun passes on, a DataLoader must not die)."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self._process.pid, number)

    def _look_at_the_clock(self, outlets: Outlets) -> None:
        deadline, now = self._deadline(outlets), self._now
        if deadline is None or now < deadline:
            return
        if self._kill_at is not None:
            self._kill_at = now + HANG_GRACE_S  # one that hangs in the kernel dies when that returns
            self._send(signal.SIGKILL, group=True)
            descendants.kill(self._left())
            return
        self._silent_s = now - silent_since(self._pulse.read(), self._began)
        self._kill_at = now + HANG_GRACE_S
        for pid in descendants.below({self._process.pid}):
            _without_core_file(pid)
        for number in (signal.SIGABRT, signal.SIGCONT):  # Python says on its way where each thread was
            descendants.signal_all(self._process.pid, number)


def _without_core_file(pid: int) -> None:
    """None of a training's size."""
    if hasattr(resource, "prlimit"):
        with contextlib.suppress(OSError, ValueError):
            hard = resource.prlimit(pid, resource.RLIMIT_CORE)[1]
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, hard))
