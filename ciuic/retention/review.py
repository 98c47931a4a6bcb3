"""A look at a repository as a whole: what policies would prune, and what that frees. For people who ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ciuic.errors import DamageError, Pruned, StorageError
from ciuic.objects.snapshot import Snapshot
from ciuic.restore.stored_snapshot import StoredSnapshot
from ciuic.retention.applying import record_prunes
from ciuic.retention.choosing import Choice, choose, least_first
from ciuic.retention.history import History
from ciuic.retention.policies import AnyPolicy, SizeBudget
from ciuic.retention.reading import Reader
from ciuic.retention.sizes import measured
from ciuic.store.gc import GcReport, Plan, collect
from ciuic.store.store import Store

LOCK_TIMEOUT_S = 30.0
NAMED_MEANWHILE = "a branch, a tag or HEAD by now"


@dataclass(frozen=True)
class Review:
    """``pruned`` and ``kept``: newest first, with the components that go ("*": all), and with why it stays.

    ``freed_bytes``: what gc frees then at least, with what is garbage already; ``kept_bytes``: what it leaves at most.
    gc frees more where it can encode anew what rests on what has gone.
    """

    dry_run: bool
    pruned: tuple[tuple[Snapshot, frozenset[str]], ...]
    kept: tuple[tuple[Snapshot, tuple[str, ...]], ...]
    freed_bytes: int
    kept_bytes: int


def review(store: Store, policies: Sequence[AnyPolicy], *, dry_run: bool) -> Review:
    """Prune what the policies let go, durably, unless ``dry_run``; `gc` frees the space.

    The newest intact snapshot of each branch, which is never pruned, is found by reading it.
    Raises DamageError, with nothing pruned, where a log or a snapshot cannot be read; LockTimeout.
    """
    reader = Reader(store, lambda snapshot: _reads_whole(store, snapshot))
    with store.shared():
        history = reader.history()
        if any(isinstance(policy, SizeBudget) for policy in policies):
            history = _with_sizes(store, history, policies)
    used = _collected(store, reader, Choice({}, {}, 0)) if history.sizes else None
    choice = choose(history, policies, 0 if used is None else used.kept_bytes - used.resting_bytes)
    report = _collected(store, reader, choice)
    if not dry_run:
        going = record_prunes(store, choice.pruned, LOCK_TIMEOUT_S)
        spared = {id: (NAMED_MEANWHILE,) for id in choice.pruned if id not in going}
        choice = replace(choice, pruned=going, kept={**choice.kept, **spared})
    order = sorted(history.whole(), key=lambda id: (history.snapshots[id].timestamp, id), reverse=True)
    return Review(
        dry_run,
        tuple((history.snapshots[id], choice.pruned[id]) for id in order if id in choice.pruned),
        tuple((history.snapshots[id], choice.kept[id]) for id in order if id in choice.kept),
        max(report.freed_bytes, 0),
        report.kept_bytes,
    )


def _reads_whole(store: Store, snapshot: Snapshot) -> bool:
    try:
        StoredSnapshot(store, snapshot).verify()
    except (DamageError, StorageError, Pruned):
        return False
    return True


def _with_sizes(store: Store, history: History, policies: Sequence[AnyPolicy]) -> History:
    """What the policies let go in any case counts before what the budget takes."""
    rest = [policy for policy in policies if not isinstance(policy, SizeBudget)]
    choice = choose(history, rest)
    going = [id for id, gone in choice.pruned.items() if id not in choice.kept]
    return replace(history, sizes=measured(store, history, [*going, *least_first(history, choice.kept)]))


def _collected(store: Store, reader: Reader, choice: Choice) -> GcReport:
    """What a collection would free and leave."""
    plan = Plan(known=reader.snapshots, prunes=choice.pruned)
    return collect(store, dry_run=True, trust_clock=True, plan=plan)
