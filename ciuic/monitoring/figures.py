"""What one run's snapshots amount to at the moment of asking."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ciuic.errors import CiuicError

if TYPE_CHECKING:
    from ciuic.objects.snapshot import Snapshot

LIMITS = (16, 256, 4096, None)
"""How far back to look for the snapshot that was met last; mostly it is among the first."""


class Repository(Protocol):
    """What is needed of ``ciuic.Repo``."""

    path: str

    @property
    def counts(self) -> dict[str, int]: ...

    @property
    def tip(self) -> str | None: ...

    def log(self, revision: str | None = None, limit: int | None = None) -> Iterator[Snapshot]: ...


@dataclass(frozen=True)
class Figures:
    """``counts``: as in ``Repo.counts``, failures that only the manager has seen too. ``newest``: the newest durable
    snapshot, of an earlier run too. ``step``: the newest that ended, None where nobody says.

    Of the durable snapshots of this run, however they were taken: their number, their bytes before and after, and
    phase → (how many say it, seconds). ``errors``: how often the repository could not be read for this.
    """

    counts: Mapping[str, int]
    started: float
    now: float
    step: int | None
    newest: Snapshot | None
    snapshots: int
    raw_bytes: int
    added_bytes: int
    seconds: Mapping[str, tuple[int, float]]
    errors: int


class Source:
    """One ``SnapshotManager`` or ``Repo``, which is not kept alive. ``started``: seconds since 1970."""

    def __init__(self, run: Any) -> None:
        self._run = weakref.ref(run)
        self.started = time.time()
        self._met: set[str] = set()
        self._newest: Snapshot | None = None
        self._raw_bytes = self._added_bytes = self._errors = 0
        self._seconds: Counter[str] = Counter()
        self._said: Counter[str] = Counter()

    def figures(self) -> Figures | None:
        """As of now; None when the run is gone. Never raises for a repository that cannot be read: it is counted."""
        run = self._run()
        if run is None:
            return None
        repo: Repository = getattr(run, "repo", run)
        try:
            self._catch_up(repo)
        except CiuicError:
            self._errors += 1
        counts = dict(repo.counts)
        counts["failed"] = max(counts["failed"], getattr(run, "failures", 0))
        return Figures(
            counts=counts,
            started=self.started,
            now=time.time(),
            step=getattr(run, "last_step", None),
            newest=self._newest,
            snapshots=len(self._met),
            raw_bytes=self._raw_bytes,
            added_bytes=self._added_bytes,
            seconds={phase: (self._said[phase], self._seconds[phase]) for phase in self._said},
            errors=self._errors,
        )

    def _catch_up(self, repo: Repository) -> None:
        """Add what has become durable since the last time; what an earlier run saved is none of this one's."""
        tip = repo.tip
        if tip is None or (self._newest is not None and self._newest.id == tip):
            return
        fresh: list[Snapshot] = []
        for limit in LIMITS:
            fresh = []
            line = list(repo.log(tip, limit))
            for snapshot in line:
                if snapshot.id in self._met or snapshot.timestamp.timestamp() < self.started:
                    break
                fresh.append(snapshot)
            if len(fresh) < len(line) or limit is None or len(line) < limit:
                break
        self._newest = line[0]
        for snapshot in fresh:
            self._met.add(snapshot.id)
            self._raw_bytes += sum(snapshot.raw_bytes.values())
            self._added_bytes += snapshot.added_bytes
            self._seconds.update(snapshot.cost)
            self._said.update(snapshot.cost.keys())
