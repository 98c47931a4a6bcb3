"""What goes and what stays: a pure function of the history and the policies, in whatever order they come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ciuic.retention.history import NOTHING, History
from ciuic.retention.policies import AnyPolicy, DropComponents, SizeBudget
from ciuic.store.refs import WHOLE

ALL = frozenset((WHOLE,))


@dataclass(frozen=True)
class Choice:
    """``pruned``: id → the components that go ("*": all), without those that have gone before.
    ``kept``: id → why it stays: protections first, then policies.
    ``freed_bytes``: a guess from what the commits added and the repository takes; gc's dry run knows better.
    """

    pruned: Mapping[str, frozenset[str]]
    kept: Mapping[str, tuple[str, ...]]
    freed_bytes: int


def choose(
    history: History, policies: Sequence[AnyPolicy], used_bytes: int = 0, judged: Collection[str] | None = None
) -> Choice:
    """What the policies would prune now. ``used_bytes``: what the repository takes, for size budgets. ``judged``: the
    lines that the policies are for, None for all; what is in another line as well stays, unless a budget takes it.

    A snapshot stays if it is protected, or any keep-policy keeps it, or there is none; then size budgets take what the
    fewest policies keep, the oldest first. What stays may lose components, unless it is protected.
    """
    judged = history.lines.keys() if judged is None else judged
    reasons = _reasons(history, policies, judged)
    whole = history.whole()
    scale = _scale(history, whole, used_bytes)
    pruned = {id: ALL for id in whole if not reasons.get(id)}
    dropped = {id: gone for id, gone in _dropped(history, policies, judged).items() if id not in pruned}
    freed = sum(history.bytes_of(id, gone) for id, gone in (pruned | dropped).items())
    budget = min((policy.nbytes for policy in policies if isinstance(policy, SizeBudget)), default=None)
    if budget is not None:
        for id in victims(history, reasons, (used_bytes - budget) / scale - freed, dropped):
            freed += history.bytes_of(id, ALL) - history.bytes_of(id, dropped.pop(id, NOTHING))
            pruned[id] = ALL
    kept = {id: reasons[id] for id in whole if id not in pruned}
    return Choice({**pruned, **dropped}, kept, int(freed * scale))


def _scale(history: History, whole: Sequence[str], used_bytes: int) -> float:
    """What a byte that a commit added takes: headers, padding. Where it is too large, too little is pruned at first."""
    added = sum(history.bytes_of(id, ALL) for id in whole)
    return max(1.0, used_bytes / added) if added else 1.0


def _reasons(history: History, policies: Sequence[AnyPolicy], judged: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Why each snapshot stays; what a line that is not judged has, at least because of that."""
    found: dict[str, list[str]] = {id: [why] for id, why in history.protected.items()}
    keeping = sorted(
        (policy for policy in set(policies) if not isinstance(policy, (SizeBudget, DropComponents))),
        key=lambda policy: policy.text,
    )
    for name, line in history.lines.items():
        snapshots = [history.snapshots[id] for id in line]
        for policy in keeping:
            for snapshot in policy.keeps(snapshots):
                why = found.setdefault(snapshot.id, [])
                if policy.text not in why:
                    why.append(policy.text)
        if not keeping or name not in judged:
            for id in line:
                found.setdefault(id, [f"in {name}" if keeping else "no policy lets it go"])
    return {id: tuple(why) for id, why in found.items()}


def _dropped(history: History, policies: Sequence[AnyPolicy], judged: Collection[str]) -> dict[str, frozenset[str]]:
    """The components that snapshots would lose. One that is in several lines loses what all of them would drop."""
    newest = history.newest(judged)
    lost: dict[str, frozenset[str]] = {}
    for policy in set(policies):
        if not isinstance(policy, DropComponents):
            continue
        spared: set[str] = set()
        due: set[str] = set()
        for name, line in history.lines.items():
            snapshots = [history.snapshots[id] for id in line]
            old = {each.id for each in policy.drops(snapshots, newest)} if name in judged else set()
            due |= old
            spared.update(id for id in line if id not in old)
        for id in due - spared - history.protected.keys():
            gone = frozenset(policy.components) & history.snapshots[id].tree.keys()
            lost[id] = lost.get(id, NOTHING) | (gone - history.prunes.get(id, NOTHING))
    return {id: gone for id, gone in lost.items() if gone}


def victims(
    history: History,
    reasons: Mapping[str, Sequence[str]],
    excess_bytes: float,
    dropped: Mapping[str, frozenset[str]] | None = None,
) -> Iterator[str]:
    """Snapshots to give up until about ``excess_bytes`` are free: what the fewest policies keep, the oldest first."""
    lost = {} if dropped is None else dict(dropped)
    for id in least_first(history, reasons):
        if excess_bytes <= 0:
            return
        excess_bytes -= history.bytes_of(id, ALL) - history.bytes_of(id, lost.get(id, NOTHING))
        yield id


def least_first(history: History, reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """What a size budget may take of what policies keep, in its order."""
    place = {id: number for line in history.lines.values() for number, id in enumerate(line)}
    going = [id for id in place if reasons.get(id) and id not in history.protected]
    return sorted(going, key=lambda id: (len(reasons[id]), history.snapshots[id].timestamp, place[id], id))
