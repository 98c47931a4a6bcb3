"""How one attempt ended, in one word for programs and a few for people."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Literal

from ciuic.amounts import seconds_text
from ciuic.heartbeat import Heartbeat

Kind = Literal["done", "crash", "killed", "hang", "memory", "stopped"]
RANK = r"(?:\[rank\d+\]: ?)?"
"""What torch.distributed puts before the lines of an exception."""
OUT_OF_MEMORY = re.compile(
    rf"^{RANK}(?:\S*OutOfMemoryError\b|RuntimeError: .*(?:out of memory|can't allocate memory|not enough memory)|"
    r"(?:\S*\.)?_?(?:Array)?MemoryError\b|.*std::bad_alloc).*",
    re.MULTILINE,
)
LAST_ERROR = re.compile(
    rf"^{RANK}(?!torch\.distributed\.elastic)[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b.*",
    re.MULTILINE,
)
ROOT_CAUSE = re.compile(
    r"^Root Cause \(first observed failure\):\n(?:.*\n){0,4}"
    r" +rank +: (?P<rank>\d+) .*\n +exitcode +: -(?P<signal>\d+) ",
    re.MULTILINE,
)
"""What torchrun says at its end, when a rank was killed by a signal before anything else went wrong."""
LONGEST_WORDS = 300


@dataclass(frozen=True)
class Ending:
    """``words``: what happened and how that was recognised. ``exit_code``: as a shell has it, 128 + a signal."""

    kind: Kind
    words: str
    exit_code: int


@dataclass(frozen=True)
class Facts:
    """What is known of a process that has ended. ``returncode``: negative for a signal. ``silent_s``: for how long it
    had told no step when it was given up. ``stopped_by``: a signal that was passed on to it. ``memory_kills``: a count
    of the kernel's that rose, in words. ``tail``: the end of its output."""

    returncode: int
    silent_s: float | None = None
    stopped_by: int | None = None
    memory_kills: str | None = None
    tail: str = ""

    @property
    def lost_rank(self) -> tuple[int, int] | None:
        """The rank of torchrun that was killed first, and the signal."""
        found = ROOT_CAUSE.findall(self.tail) if self.returncode > 0 else []
        return (int(found[-1][0]), int(found[-1][1])) if found else None

    @property
    def by_kill(self) -> bool:
        """Whether it was ended by SIGKILL, or what it was waiting for."""
        killed = self.lost_rank is not None and self.lost_rank[1] == signal.SIGKILL
        return killed or self.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


def judge(facts: Facts) -> Ending:
    """Why it ended. What the supervisor did to it itself comes first."""
    code = facts.returncode if facts.returncode >= 0 else 128 - facts.returncode
    how, lost = exit_words(facts.returncode), facts.lost_rank
    if lost is not None:
        how += f", and rank {lost[0]} was killed by {signal_name(lost[1])}"
    if facts.stopped_by is not None:
        return Ending("stopped", f"{signal_name(facts.stopped_by)} was passed on; {how}", code)
    if facts.silent_s is not None:
        return Ending("hang", f"hung: no step for {seconds_text(facts.silent_s)}", code)
    if facts.returncode == 0:
        return Ending("done", how, 0)
    if facts.memory_kills is not None:
        return Ending("memory", f"out of memory: {how}, and {facts.memory_kills}", code)
    said = last_of(OUT_OF_MEMORY, facts.tail)
    error = last_of(LAST_ERROR, facts.tail)
    aborted = signal.SIGABRT in (-facts.returncode, lost and lost[1])
    alone = error is None or said == error or aborted
    if said is not None and (alone or said.startswith("[rank")):  # then the others say that they have lost it
        return Ending("memory", f"out of memory: {how}, and it said {said}", code)
    kind: Kind = "killed" if facts.returncode < 0 or lost is not None else "crash"
    return Ending(kind, f"{how}: {error}" if error and kind == "crash" else how, code)


def exit_words(returncode: int) -> str:
    """ "exit code 3", "killed by SIGSEGV", "exit code 137, as after SIGKILL" of a shell script."""
    if returncode < 0:
        return f"killed by {signal_name(-returncode)}"
    name = signal_name(returncode - 128) if returncode > 128 else ""
    return f"exit code {returncode}" + (f", as after {name}" if name.startswith("SIG") else "")


def signal_name(number: int) -> str:
    """ "SIGTERM"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_of(pattern: re.Pattern[str], text: str) -> str | None:
    """The last line that the pattern fits, not too long."""
    found = None
    for match in pattern.finditer(text):
        found = match[0].strip(" :\r")[:LONGEST_WORDS]
    return found


def last_step(beat: Heartbeat) -> int | None:
    """The last step that is done: of this attempt, or of the snapshot that it went on from."""
    return beat.step if beat.step is not None else beat.restored
