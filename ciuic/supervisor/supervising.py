"""A command, run again until it is done or there is no sense in it."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from ciuic.amounts import seconds_text
from ciuic.errors import CiuicError
from ciuic.heartbeat import Heartbeat
from ciuic.repo import Repo
from ciuic.supervised import HEARTBEAT
from ciuic.supervisor import descendants, going_back
from ciuic.supervisor.attempt import Attempt, Start
from ciuic.supervisor.ending import Ending, judge, last_step, signal_name
from ciuic.supervisor.going_back import Seen
from ciuic.supervisor.policy import Decision, Past, Policy, decide
from ciuic.supervisor.record import Record
from ciuic.supervisor.signals import STOPPING, Signals, received, stop_here

Say = Callable[[str], None]
DEFAULTS = {
    "PYTHONFAULTHANDLER": "1",  # where each thread was, when a hang is ended
    "PYTHONUNBUFFERED": "1",  # the last lines before a SIGKILL are in the log
}


class Supervisor:
    """``run`` once. Changes signal handlers while it runs, so it belongs into the main thread."""

    def __init__(self, repository: str, start: Start, policy: Policy, say: Say, shown_by: str = "ciuic runs") -> None:
        """``repository``: made if it is not there; the run's history goes there. ``say``: for a person to read, whom
        the command ``shown_by`` shows the history."""
        self._repository = repository
        self._snapshots = repository  # until the training says that it uses another one
        self._start = start
        self._policy = policy
        self._say = say
        self._shown_by = shown_by
        self._past: list[Past] = []
        self._seen = Seen()
        self._walked_back = False

    def run(self) -> int:
        """Returns the exit code of the last attempt, 128 + a signal; what was staged by then is durable."""
        Repo.open(self._repository, create=True)
        start = self._start
        self._record = record = Record(
            self._repository, start.command, start.folder, pid=os.getpid(), host=socket.gethostname()
        )
        environment = {**DEFAULTS, **start.environment, HEARTBEAT: record.pulse.path}
        self._start = replace(start, environment=environment)
        descendants.adopt_orphans()
        try:
            with received() as signals:
                self._seen = self._look()
                return self._until_done(signals)
        finally:
            record.close()

    def _until_done(self, signals: Signals) -> int:
        while True:
            ending, decision = self._once(signals)
            if decision.delay_s is None:
                return self._finished(ending, decision.why)
            if decision.walk_back:
                self._walk_back()
            self._say_restart(decision, decision.delay_s)
            stopped_by = _rest(signals, decision.delay_s)
            if stopped_by is not None:
                words = f"{signal_name(stopped_by)} came between two attempts"
                return self._finished(Ending("stopped", words, 128 + stopped_by), words)

    def _once(self, signals: Signals) -> tuple[Ending, Decision]:
        number, record = len(self._past) + 1, self._record
        record.pulse.reset()
        record.add("started", {"attempt": number})
        facts = Attempt(self._start, record.pulse, record.log(number), signals).run()
        beat, ending = record.pulse.read(), judge(facts)
        self._note_repository(beat)
        now = self._look()
        self._past.append(Past(ending, last_step(beat), self._seen.advanced(now), self._walked_back))
        self._seen, self._walked_back = self._seen.with_(now), False
        told = {"kind": ending.kind, "words": ending.words, "exit_code": ending.exit_code}
        record.add("ended", {"attempt": number, **told, "step": last_step(beat), "resumed": beat.restored})
        if ending.kind != "done":
            self._say(f"Attempt {number} ended {_where(beat)}: {ending.words}.")
        return ending, decide(self._policy, self._past)

    def _note_repository(self, beat: Heartbeat) -> None:
        if beat.repository is None or _same(beat.repository, self._snapshots):
            return
        self._snapshots = beat.repository
        self._seen = Seen()
        self._say(
            f"Its snapshots are in {beat.repository} and its history is in {self._repository}: "
            f"`--repo {beat.repository}` would keep both there."
        )

    def _look(self) -> Seen:
        """Waits for the writer, too. A repository that cannot be read is the training's to complain of."""
        try:
            return going_back.look(self._snapshots)
        except (CiuicError, OSError) as error:
            self._say(f"Its snapshots cannot be looked at: {error}")
            return self._seen

    def _walk_back(self) -> None:
        last = self._past[-1].step
        try:
            walk = going_back.walk_back(self._snapshots, self._record.pulse.read().restored)
        except (CiuicError, OSError) as error:
            self._say(f"Twice after step {last}, and going back failed: {error}")
            return
        if walk is None:
            self._say(f"Twice after step {last}, and there is no earlier snapshot to go back to.")
            return
        self._walked_back, self._seen = True, replace(self._seen, head=walk.after.named)
        self._record.add("walked-back", {"attempt": len(self._past), "words": walk.words})
        self._say(f"Twice after step {last}: {walk.words}.")

    def _say_restart(self, decision: Decision, delay_s: float) -> None:
        known = self._record.pulse.read().repository is not None  # otherwise it may resume from elsewhere
        source = f" from {self._seen.head}" if known and self._seen.head else ""
        since = " without a new snapshot" if decision.restart > 1 else ""
        log = f" `{self._shown_by} {self._record.id}` shows its log." if len(self._past) == 1 else ""
        count = f"restart {decision.restart} of {self._policy.max_restarts}{since}"
        self._say(f"Starting it again in {seconds_text(delay_s)}{source}: {count}.{log}")

    def _finished(self, ending: Ending, why: str) -> int:
        state = {"done": "done", "stopped": "stopped"}.get(ending.kind, "failed")
        self._record.add("finished", {"state": state, "exit_code": ending.exit_code, "why": why})
        if state == "failed":
            self._say(f"Giving up: {why}. `{self._shown_by} {self._record.id}` shows what was said.")
        return ending.exit_code


def _rest(signals: Signals, seconds: float) -> int | None:
    """Until it is over, or a signal that means the end has come: which one."""
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(signals.descriptor, selectors.EVENT_READ)
        while True:
            for number in signals.take():
                if number in STOPPING:
                    return number
                if number == signal.SIGTSTP:
                    stop_here()
            left = until - time.monotonic()
            if left <= 0:
                return None
            selector.select(left)


def _where(beat: Heartbeat) -> str:
    step = last_step(beat)
    return "before its first step" if step is None else f"after step {step}"


def _same(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False
