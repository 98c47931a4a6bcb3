"""Does a script that is interrupted and started again end with the same bits? Run both ways, and see."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ciuic.errors import CommandFailed
from ciuic.repo import Repo
from ciuic.supervisor import descendants
from ciuic.supervisor.causes import NOT_REPEATABLE, probable_cause
from ciuic.supervisor.comparing import Comparison, compare
from ciuic.supervisor.signals import received
from ciuic.supervisor.trial import Interruption, Script, Trial

Say = Callable[[str], None]
WHOLE, BROKEN, AGAIN = "uninterrupted", "interrupted", "uninterrupted-again"


@dataclass(frozen=True)
class Verdict:
    """``cause``: of a difference, probably; empty without one. ``repeatable``: False when the script differs without an
    interruption, too; None when there was no need to look."""

    comparison: Comparison
    interruptions: tuple[Interruption, ...]
    repeatable: bool | None = None
    cause: str = ""

    @property
    def same(self) -> bool:
        return self.comparison.same


def verify_resume(
    script: Script, folder: str, say: Say, *, times: int = 3, at: Sequence[float] = (), seed: int | None = None
) -> Verdict:
    """Run the script uninterrupted, and interrupted ``at`` these steps or ``times`` at random ones, and compare.

    Both repositories are made in ``folder``, and stay there. Where they differ, the script is run uninterrupted once
    more, to tell a wrong resume from a script that does not repeat itself. CommandFailed when it fails by itself, takes
    no snapshot, or is too short to be interrupted.
    """
    descendants.adopt_orphans()
    with received() as signals:
        say("Running it without an interruption.")
        whole = script.run(os.path.join(folder, WHOLE), signals)
        moments = sorted(at) or choose(_steps(whole), times, random.Random(seed))
        words = ", ".join(f"{moment:.2f}".rstrip("0").rstrip(".") for moment in moments)
        say(f"{whole.seconds:.1f} s. Running it with SIGKILL after {'step' if len(moments) == 1 else 'steps'} {words}.")
        broken = script.run(os.path.join(folder, BROKEN), signals, moments)
        if not broken.interruptions:
            raise CommandFailed(f"It ended before it was interrupted after step {words}: name earlier ones.")
        # Up to here the interrupted run has done each step in one go from its start, as the other one has.
        fresh = next((each.resumed for each in broken.interruptions if each.resumed is not None), None)
        comparison = compare(Repo.open(whole.path), Repo.open(broken.path), fresh_until=fresh)
        if comparison.same or comparison.difference is None:
            cause = "" if comparison.same else _other_end(comparison)
            return Verdict(comparison, broken.interruptions, cause=cause)
        if fresh is None or comparison.difference.step <= fresh:
            return Verdict(comparison, broken.interruptions, False, NOT_REPEATABLE)
        say("They differ. Running it without an interruption once more, to see whether it repeats itself.")
        again = script.run(os.path.join(folder, AGAIN), signals)
    repeatable = compare(Repo.open(whole.path), Repo.open(again.path)).same
    cause = probable_cause(comparison.difference, comparison.components) if repeatable else NOT_REPEATABLE
    return Verdict(comparison, broken.interruptions, repeatable, cause)


def choose(steps: Sequence[int], times: int, generator: random.Random) -> list[float]:
    """So many different moments, ascending: somewhere in a step, after the first snapshot and before the last."""
    between = range(steps[0], steps[-1])
    if not between:
        raise CommandFailed("It has snapshots of one step alone: run it for more steps, or with a smaller --every.")
    return sorted(step + generator.random() for step in generator.sample(between, min(times, len(between))))


def _steps(trial: Trial) -> list[int]:
    steps = sorted({snapshot.step for snapshot in Repo.open(trial.path).log_all() if snapshot.step is not None})
    if not steps:
        raise CommandFailed(
            "It took no snapshot of a step. It has to end each step with `SnapshotManager.step` or `save`."
        )
    return steps


def _other_end(comparison: Comparison) -> str:
    whole, broken = comparison.last
    if not comparison.steps:
        return "no step has a snapshot in both: does the script resume at all?"
    return (
        f"it ends with step {broken} when it is interrupted, and with step {whole} otherwise: another number of steps."
    )
