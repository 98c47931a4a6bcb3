"""Where the next attempt resumes: progress, the last writer, and one snapshot back."""

from __future__ import annotations

from dataclasses import dataclass

from ciuic.objects.snapshot import Snapshot
from ciuic.repo import Repo
from ciuic.store.prunes import NEEDED_TO_RESUME


@dataclass(frozen=True)
class Seen:
    """What the branches of a repository held: their tips, and the highest step among them. ``head``: the snapshot that
    a run would go on from, as messages name it."""

    tips: frozenset[str] = frozenset()
    step: int | None = None
    head: str | None = None

    def advanced(self, now: Seen) -> bool:
        """Whether ``now`` is further than all before. Steps done once more, after a walk back, are no progress."""
        if self.step is None or now.step is None:
            return bool(now.tips - self.tips)
        return now.step > self.step

    def with_(self, now: Seen) -> Seen:
        """Both together."""
        steps = [step for step in (self.step, now.step) if step is not None]
        return Seen(self.tips | now.tips, max(steps) if steps else None, now.head)


@dataclass(frozen=True)
class WalkBack:
    """HEAD went from one snapshot to an earlier one. ``branch``: it was on; it stays where it was."""

    before: Snapshot
    after: Snapshot
    branch: str | None

    @property
    def words(self) -> str:
        stays = f"; {self.branch} stays" if self.branch else ""
        return f"HEAD moved from {self.before.named} to {self.after.named}{stays}"


def look(path: str) -> Seen:
    """After the last attempt's writer has published what was staged."""
    repo = Repo.open(path)
    repo.await_earlier_run()
    snapshots = [repo.resolve(tip) for tip in repo.branches().values()]
    steps = [snapshot.step for snapshot in snapshots if snapshot.step is not None]
    head = repo.head().snapshot
    tips = frozenset(snapshot.id for snapshot in snapshots)
    return Seen(tips, max(steps) if steps else None, repo.resolve(head).named if head else None)


def walk_back(path: str, resumed: int | None) -> WalkBack | None:
    """Detach HEAD at the newest snapshot that is older than where the last attempts resumed; None without one.

    Durable on return. The branch keeps all that it has, and the next run's first snapshot begins one of its own.
    """
    repo = Repo.open(path)
    head = repo.head()
    if head.snapshot is None:
        return None
    prunes = repo.prunes()
    before = None
    for snapshot in repo.log():
        before = before or snapshot
        at_or_after = snapshot.step is not None and resumed is not None and snapshot.step >= resumed
        if snapshot is before or at_or_after or prunes.get(snapshot.id, frozenset()) & NEEDED_TO_RESUME:
            continue
        repo.switch(snapshot)
        return WalkBack(before, snapshot, head.branch)
    return None
