"""One script run to its end in a repository of its own, interrupted on the way as often as asked."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ciuic.errors import CommandFailed
from ciuic.repo import Repo
from ciuic.supervised import EVERY, HEARTBEAT, INTERRUPT, REPOSITORY
from ciuic.supervisor import going_back
from ciuic.supervisor.attempt import Attempt, Start
from ciuic.supervisor.ending import Facts, judge, last_step
from ciuic.supervisor.output_log import OutputLog
from ciuic.supervisor.pulse import Pulse
from ciuic.supervisor.signals import Signals

LAST_LINES = 15


@dataclass(frozen=True)
class Interruption:
    """``after``: the last step that was done. ``resumed``: the step of the snapshot that the next start went on from;
    None when it began anew."""

    after: int | None
    resumed: int | None


@dataclass(frozen=True)
class Trial:
    """``path``: of the repository. ``seconds``: all in all."""

    path: str
    interruptions: tuple[Interruption, ...]
    seconds: float


@dataclass(frozen=True)
class Script:
    """What to run, with a snapshot after ``every`` so many steps. ``quiet``: its output goes into a file alone."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    every: int = 1
    quiet: bool = True

    def run(self, path: str, signals: Signals, interruptions: Sequence[float] = ()) -> Trial:
        """To the end. ``interruptions``, ascending: 12.25 is SIGKILL a quarter of a step's time after step 12.

        The repository is made; beside it stand the output and the heartbeat. CommandFailed when the script fails by
        itself, KeyboardInterrupt after a signal that means the end.
        """
        began = time.monotonic()
        Repo.init(path)
        pulse, log = Pulse(path + ".heartbeat"), OutputLog(path + ".log")
        done: list[Interruption] = []
        waiting = list(interruptions)
        after: int | None = None
        try:
            while True:
                at = waiting.pop(0) if waiting else None
                facts = self._start(path, pulse, log, signals, at)
                beat = pulse.read()
                if done:
                    done[-1] = Interruption(done[-1].after, beat.restored)
                after = last_step(beat)
                going_back.look(path)
                if facts.returncode == 0:
                    return Trial(path, tuple(done), time.monotonic() - began)
                if at is None or not _interrupted(facts, after, at):
                    raise _failed(facts, log, after, bool(done))
                done.append(Interruption(after, None))
        finally:
            pulse.close()
            log.close()

    def _start(self, path: str, pulse: Pulse, log: OutputLog, signals: Signals, at: float | None) -> Facts:
        pulse.reset()
        asked = {HEARTBEAT: pulse.path, REPOSITORY: path, EVERY: str(self.every)}
        if at is not None:
            asked[INTERRUPT] = repr(at)
        environment = {"PYTHONUNBUFFERED": "1", **self.environment, **asked}
        start = Start(self.command, environment, self.folder, quiet=self.quiet)
        facts = Attempt(start, pulse, log, signals).run()
        if facts.stopped_by is not None:
            raise KeyboardInterrupt
        return facts


def _interrupted(facts: Facts, after: int | None, at: float) -> bool:
    """Whether it was our interruption that ended it: of the command itself, or of what it was waiting for."""
    return after is not None and after >= int(at) and (facts.returncode == -signal.SIGKILL or facts.returncode > 0)


def _failed(facts: Facts, log: OutputLog, after: int | None, resumed: bool) -> CommandFailed:
    where = "before its first step" if after is None else f"after step {after}"
    what = "when it was started again after an interruption" if resumed else "by itself"
    last = "\n".join("  " + line for line in log.end().splitlines()[-LAST_LINES:])
    said = f" The last that it said:\n{last}" if last else " It said nothing."
    return CommandFailed(
        f"The command failed {what}, {where}: {judge(facts).words}.{said}\nMake it run to its end, then try again."
    )
