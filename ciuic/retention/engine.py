"""Retention as a run goes on: prune after each snapshot, collect when there is enough to gain, make room in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ciuic.errors import CiuicError, LockTimeout
from ciuic.objects.snapshot import Snapshot
from ciuic.retention.applying import record_prunes
from ciuic.retention.choosing import ALL, Choice, choose, victims
from ciuic.retention.forecast import Forecast
from ciuic.retention.history import History
from ciuic.retention.policies import AnyPolicy
from ciuic.retention.reading import Reader
from ciuic.retention.sizes import PackSizes
from ciuic.store.gc import Plan, collect
from ciuic.store.store import Store

SHARE = 0.05
"""Garbage above this share of what stays is collected; gc itself may leave as much again."""
DUTY, MOST_DUTY = 0.1, 0.5
"""Of the time, what collections may take, unless there is no room. The more garbage beside what stays, the more: a run
whose snapshots come as fast as they are collected would leave more and more."""
LEAST_END_S, MOST_END_S = 5.0, 60.0
"""How long a run's end may collect: as long as the run might have, within these."""
SILENCE_S = 3.0
"""After so long the end says what it is waiting for."""
LOCK_TIMEOUT_S = 2.0
PATIENCE_S = 1.0
"""A collection that has taken so long gives way to a snapshot that waits; the third one in a row does not."""
MOST_YIELDS = 2
ROUNDS = 3

logger = logging.getLogger("ciuic")


class _Yield(Exception):
    """A snapshot waits, or the time is over."""


class Retention:
    """The policies of one repository object at work. Nothing here raises: what goes wrong is said, once.

    They judge the branch that it commits to: what another one has is that one's. Budgets, and a full disk, take of all.
    ``waiting``: whether a snapshot waits to be stored. ``collections``: how often something was collected.
    """

    def __init__(
        self, store: Store, policies: Sequence[AnyPolicy], waiting: Callable[[], bool] = lambda: False
    ) -> None:
        self.store = store
        self.policies = tuple(policies)
        self.collections = 0
        self._waiting = waiting
        self._reader = Reader(store)
        self._sizes = PackSizes(store)
        self._forecast = Forecast()
        self._branch: str | None = None
        self._garbage = 0  # bytes that prunes since the last collection may have freed: a guess, mostly too large
        self._yields = 0
        self._began = time.monotonic()
        self._took = self._ended = 0.0  # how long the last collection took, and when it ended
        self._deadline = self._silence = float("inf")
        self._said: set[str] = set()

    # After a snapshot

    def after(self, snapshot: Snapshot, branch: str | None) -> None:
        """A snapshot, the next one's parent, has been published on a branch: prune, and collect if that is due."""
        self._branch = branch
        self._forecast.add(snapshot)
        self._reader.trust(snapshot.id)
        self._guarded(lambda: self._prune(snapshot.id))
        if self._has_rested(MOST_DUTY):
            self._guarded(self._collect_if_due)

    def finish(self, seconds: float | None = None) -> None:
        """The run ends: what is worth it is collected, in a tenth of the time that it had, or in so many ``seconds``.
        What is left then is said."""
        now = time.monotonic()
        if seconds is None:
            seconds = min(MOST_END_S, max(LEAST_END_S, DUTY * (now - self._began)))
        self._deadline, self._silence = now + seconds, now + SILENCE_S
        for _ in range(ROUNDS):  # a size budget learns from a collection what is left
            before = self.collections
            self._guarded(self._collect_if_worth_it)
            if self.collections == before:
                break
            self._guarded(lambda: self._prune(None))
        self._deadline = self._silence = float("inf")
        self._guarded(self._say_what_is_left)

    def _prune(self, parent: str | None) -> None:
        history, used = self._look(parent)
        choice = self._choose(history, used)
        if choice.pruned:
            record_prunes(self.store, choice.pruned, LOCK_TIMEOUT_S)
            self._garbage += choice.freed_bytes

    def _choose(self, history: History, used_bytes: int = 0) -> Choice:
        return choose(history, self.policies, used_bytes, () if self._branch is None else (self._branch,))

    def _look(self, parent: str | None) -> tuple[History, int]:
        """The history, and what the repository takes but for what the next collection frees."""
        with self.store.shared():
            history = self._reader.history({} if parent is None else {parent: "parent of the next snapshot"})
            return history, self._sizes.total() - self._garbage

    # Collecting

    def _collect_if_due(self) -> None:
        ratio = self._garbage_ratio()
        if ratio > SHARE and self._has_rested(min(MOST_DUTY, DUTY * max(1.0, ratio))):
            self._collect()

    def _collect_if_worth_it(self) -> None:
        if self._garbage_ratio() > SHARE:
            self._collect()

    def _garbage_ratio(self) -> float:
        """The garbage, as a share of what stays."""
        with self.store.shared():
            staying = self._sizes.total() - self._garbage
        return self._garbage / max(staying, 1)

    def _has_rested(self, duty: float) -> bool:
        """Since the last collection, so that they take no more than this part of the time."""
        return time.monotonic() - self._ended >= self._took * (1 / duty - 1)

    def _say_what_is_left(self) -> None:
        if self._garbage_ratio() > SHARE:
            size = f"{self._garbage / (1 << 20):.1f} MiB"
            self._say(
                f"Up to {size} of what retention let go is not collected yet: the end of a run takes no longer. "
                "`ciuic gc` does it, or the next run."
            )

    def _collect(self, *, urgent: bool = False) -> bool:
        """One collection; False when it gave way. Whatever comes of it, the next one waits its turn."""
        began = time.monotonic()

        def between() -> None:
            now = time.monotonic()
            tired = now - began > PATIENCE_S and self._yields < MOST_YIELDS and self._waiting()
            if not urgent and (now > self._deadline or tired):
                raise _Yield
            if now > self._silence:
                left = self._deadline - now
                self._say(f"Collecting what retention let go; the run ends after that, in {left:.0f} s at most.")

        try:
            collect(self.store, plan=Plan(LOCK_TIMEOUT_S, between, self._reader.snapshots, SHARE))
            self._garbage = self._yields = 0
            self.collections += 1
            return True
        except (_Yield, LockTimeout):
            self._yields += 1
            return False
        finally:
            self._ended = time.monotonic()
            self._took = self._ended - began

    # Before a snapshot

    def make_room(self, raw_bytes: int, parent: str | None, branch: str | None, *, full: bool = False) -> None:
        """A snapshot of a state of so many bytes is to be stored on a branch (None: on a new one). When it may not fit,
        collect first; when it will hardly fit all the same, give up what a size budget would, and say so. The newest
        intact snapshot stays.

        ``full``: it did not fit.
        """
        self._branch = branch
        self._guarded(lambda: self._make_room(raw_bytes, parent, full))

    def _make_room(self, raw_bytes: int, parent: str | None, full: bool) -> None:
        if self._forecast.empty:
            self._forecast.learn(self._look(parent)[0])
        if self._missing(self._forecast.most(raw_bytes)) <= 0 and not full:
            return
        if not self._collect(urgent=True):
            return  # a reader is in the way: what is garbage already may be enough
        need = self._forecast.most(raw_bytes) if full else self._forecast.likely(raw_bytes)
        for _ in range(ROUNDS):
            missing = self._missing(need)
            if missing <= 0 or not self._give_up(missing, parent):
                return

    def _missing(self, need: int) -> int:
        return need - self.store.fs.free_bytes(self.store.path)

    def _give_up(self, missing: int, parent: str | None) -> bool:
        """Prune and collect beyond the policies; False when nothing is left that may go, or it could not be collected:
        then nobody knows whether more has to go."""
        history, _ = self._look(parent)
        going = dict.fromkeys(victims(history, self._choose(history).kept, missing), ALL)
        if not going:
            self._say("The disk is nearly full, and no snapshot is left that may be pruned. Free some space.")
            return False
        steps = ", ".join(str(history.snapshots[id].step) for id in going)
        logger.warning(
            "The disk is nearly full: snapshots that the retention policies keep are pruned, those of the steps %s. "
            "Free some space, or keep less.",
            steps,
        )
        record_prunes(self.store, going, LOCK_TIMEOUT_S)
        return self._collect(urgent=True)

    # What goes wrong

    def _guarded(self, work: Callable[[], None]) -> None:
        """Retention that fails harms no snapshot: it is said, and tried again after the next one."""
        try:
            work()
        except LockTimeout:
            pass  # later
        except Exception as error:  # the snapshot is published, whatever this is
            text = str(error) if isinstance(error, CiuicError) else f"{type(error).__name__}: {error}"
            self._say(f"Retention: nothing was pruned or collected. {text}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)
