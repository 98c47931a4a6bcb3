"""Whether to try again, when, and from where. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ciuic.supervisor.ending import Ending

HOPELESS = {126: "the command cannot be executed", 127: "there is no such command"}


@dataclass(frozen=True)
class Policy:
    """``max_restarts``: without a new snapshot in between. ``backoff_s``: the pause before the first of them, twice as
    long before each further one, at most ``backoff_limit_s``. ``same_starts``: so many equal failures are enough where
    no attempt has ever come to a step."""

    max_restarts: int = 10
    backoff_s: float = 1.0
    backoff_limit_s: float = 300.0
    same_starts: int = 3


@dataclass(frozen=True)
class Past:
    """One attempt. ``step``: the last one done, in it or in the snapshot that it went on from; None before any.
    ``advanced``: it published a snapshot that is further than all before. ``walked_back``: it began one snapshot back.
    """

    ending: Ending
    step: int | None = None
    advanced: bool = False
    walked_back: bool = False


@dataclass(frozen=True)
class Decision:
    """``delay_s``: None for no further attempt, and ``why`` not, in words. ``restart``: the how many-th without a new
    snapshot in between. ``walk_back``: one snapshot, first."""

    delay_s: float | None
    why: str = ""
    restart: int = 0
    walk_back: bool = False


def decide(policy: Policy, past: Sequence[Past]) -> Decision:
    """After the attempts so far, oldest first."""
    last = past[-1]
    if last.ending.kind == "done":
        return Decision(None, "done")
    if last.ending.kind == "stopped":
        return Decision(None, last.ending.words)
    if last.step is None and last.ending.exit_code in HOPELESS:
        return Decision(None, f"exit code {last.ending.exit_code}: {HOPELESS[last.ending.exit_code]}")
    if _never_starts(past, policy.same_starts):
        return Decision(None, f"it failed {policy.same_starts} times in the same way before its first step")
    failures = _since_progress(past)
    if failures > policy.max_restarts:
        since = "" if failures == len(past) else " since its newest snapshot"
        return Decision(None, f"{_restarts(policy.max_restarts)}{since}, which is the limit")
    delay = min(policy.backoff_limit_s, policy.backoff_s * 2.0 ** min(failures - 1, 64))
    return Decision(delay, restart=failures, walk_back=_twice_at_one_step(past))


def _never_starts(past: Sequence[Past], times: int) -> bool:
    """What has come to a step once can start, and will when the network, a disk or a device is back."""
    if any(each.step is not None for each in past):
        return False
    return len(past) >= times and all(each.ending == past[-1].ending for each in past[-times:])


def _restarts(count: int) -> str:
    times = {0: "not restarted", 1: "restarted once"}.get(count, f"restarted {count} times")
    return f"it was {times}"


def _since_progress(past: Sequence[Past]) -> int:
    """How many failures there were, from the last one on that left a new snapshot behind."""
    count = 0
    for each in reversed(past):
        count += 1
        if each.advanced:
            break
    return count


def _twice_at_one_step(past: Sequence[Past]) -> bool:
    """And not already answered by a walk back in between."""
    if len(past) < 2 or past[-1].walked_back:
        return False
    return past[-1].step is not None and past[-1].step == past[-2].step
