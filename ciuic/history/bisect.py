"""bisect: the first bad snapshot between a good one and a bad one, with as few tries as it takes. HEAD is never moved.

Candidates are the ancestors of the bad snapshot that are no ancestors of a good one. The next try is the one that
halves best what can be tried: by how many of these are among its ancestors. What was pruned or skipped does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ciuic.errors import BisectError
from ciuic.history.bisect_state import Answer, BisectFile, Progress, Verdict
from ciuic.history.graph import ancestors
from ciuic.history.revisions import resolve_whole
from ciuic.objects.ids import short
from ciuic.objects.snapshot import Snapshot
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store

NEEDED = "model"
"""The component without which a snapshot is not tried."""


@dataclass(frozen=True)
class Standing:
    """Where a search stands.

    ``good`` and ``bad``: what was told or found; ``bad`` is the earliest known. ``next``: what to try now; None before
    both ends are known, and at the end. ``left``: candidates that are not tried yet, with ``next``; ``tries``: about
    how many it takes. ``found``: the first bad one. ``suspects``: where what could not be tried leaves it open, all
    that it may be, oldest first, ``bad`` the last. ``pruned``: candidates that are passed over, their state being gone.
    """

    good: tuple[Snapshot, ...]
    bad: Snapshot | None
    next: Snapshot | None = None
    left: int = 0
    tries: int = 0
    found: Snapshot | None = None
    suspects: tuple[Snapshot, ...] = ()
    pruned: tuple[Snapshot, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether there is nothing to try any more."""
        return self.found is not None or bool(self.suspects)

    @property
    def last_good(self) -> Snapshot | None:
        """The good parent of the one that was found, if it is known."""
        parents = () if self.found is None else self.found.parents
        return next((each for each in self.good if each.id in parents), None)


class Bisection:
    """A search whose answers are kept in the repository: durable when a method returns, whatever happens then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._file = BisectFile(store)

    @property
    def progress(self) -> Progress | None:
        """What has been told so far; None when there is no search."""
        return self._file.read()

    def start(self, command: tuple[str, ...] = ()) -> None:
        """Begin; BisectError when a search is under way. ``command``: whose verdicts the answers are."""
        progress = self._file.read()
        with self._store.shared():
            under_way = progress is not None and not self._standing(progress).ended
        if under_way:
            raise BisectError(
                "A bisection is under way. `ciuic bisect log` shows it, and `ciuic bisect reset` forgets it."
            )
        self._file.write(Progress(command=command))

    def reset(self) -> bool:
        """Forget the search; False when there was none."""
        return self._file.remove()

    def mark(self, verdict: Verdict, revision: str | None = None) -> Snapshot:
        """Say what a snapshot is, by default the next one to try. BisectError when that contradicts what is known.

        Begins a search if there is none.
        """
        with self._store.shared():
            progress = self._file.read() or Progress()
            if revision is None:
                standing = self._standing(progress)
                if standing.next is None:
                    raise BisectError(
                        "There is no next snapshot to speak of. Name one: `ciuic bisect good REV`, or bad, or skip."
                    )
                snapshot = standing.next
            else:
                snapshot = self._snapshot(revision)
            told = progress.told(Answer(snapshot.id, verdict))
            self._standing(told)
            self._file.write(told)
            return snapshot

    def standing(self) -> Standing:
        """Where the search stands; BisectError when there is none."""
        with self._store.shared():
            progress = self._file.read()
            if progress is None:
                raise BisectError("There is no bisection. Begin with `ciuic bisect start --good REV --bad REV`.")
            return self._standing(progress)

    def _snapshot(self, revision: str) -> Snapshot:
        return resolve_whole(self._store, revision).snapshot

    def _standing(self, progress: Progress) -> Standing:
        """Under the shared lock. BisectError where the answers contradict each other, or the graph."""
        verdicts = {answer.snapshot: answer.verdict for answer in progress.answers}
        good, bad = ([id for id, verdict in verdicts.items() if verdict == which] for which in ("good", "bad"))
        known_good = tuple(self._snapshot(id) for id in good)
        if not bad:
            return Standing(known_good, None)
        graph = {each.id: each for each in ancestors(self._store, [self._earliest(bad)])}
        first_bad = next(iter(graph.values()))
        if not good:
            return Standing((), first_bad)
        for snapshot in known_good:
            if snapshot.id not in graph:
                self._refuse(snapshot, first_bad)
        return _narrowed(known_good, first_bad, graph, verdicts, self._store.refs.prunes())

    def _earliest(self, bad: list[str]) -> str:
        """Of the bad ones, that which is before all others: each that was told has to be on one line with them."""
        earliest = bad[0]
        for id in bad[1:]:
            if id in {each.id for each in ancestors(self._store, [earliest])}:
                earliest = id
            elif earliest not in {each.id for each in ancestors(self._store, [id])}:
                raise BisectError(
                    f"Neither of the bad {short(earliest)} and {short(id)} comes from the other. "
                    "Search before one of them."
                )
        return earliest

    def _refuse(self, good: Snapshot, bad: Snapshot) -> None:
        if any(each.id == bad.id for each in ancestors(self._store, [good.id])):
            raise BisectError(
                f"{good.named} is said to be good, and comes after {bad.named}, which is bad. "
                "Begin anew with other ends, or exchange good and bad."
            )
        raise BisectError(
            f"The bad {short(bad.id)} does not come from the good {short(good.id)}. "
            f"`ciuic log {short(bad.id)}` lists the snapshots that may be good."
        )


def _narrowed(
    good: tuple[Snapshot, ...],
    bad: Snapshot,
    graph: Mapping[str, Snapshot],
    verdicts: Mapping[str, Verdict],
    prunes: Mapping[str, frozenset[str]],
) -> Standing:
    """``graph``: the bad snapshot and its ancestors, newest first."""
    innocent = _with_ancestors(graph, [each.id for each in good])
    if bad.id in innocent:
        raise BisectError(f"{bad.named} is said to be good and bad. Begin anew: `ciuic bisect reset`, then `start`.")
    order = [each for each in _parents_first(graph, bad.id) if each.id not in innocent]
    pruned = tuple(each for each in order if each.id != bad.id and _is_pruned(each, prunes))
    gone = {each.id for each in pruned}
    open_ones = [
        each for each in order if each.id != bad.id and each.id not in gone and verdicts.get(each.id) != "skip"
    ]
    if not open_ones:
        found = bad if len(order) == 1 else None
        return Standing(good, bad, found=found, suspects=() if found else tuple(order), pruned=pruned)
    counts = _counts(order, {each.id for each in open_ones})
    # What is left if it is bad, and if it is good; of equally good ones the newest.
    best = max(reversed(open_ones), key=lambda each: min(counts[each.id] - 1, len(open_ones) - counts[each.id]))
    return Standing(good, bad, best, len(open_ones), len(open_ones).bit_length(), pruned=pruned)


def _is_pruned(snapshot: Snapshot, prunes: Mapping[str, frozenset[str]]) -> bool:
    """Whether what a try needs is gone: all of the state, or the model."""
    gone = prunes.get(snapshot.id, frozenset())
    return WHOLE in gone or NEEDED in gone or (bool(snapshot.tree) and snapshot.tree.keys() <= gone)


def _with_ancestors(graph: Mapping[str, Snapshot], tips: list[str]) -> set[str]:
    seen: set[str] = set()
    stack = list(tips)
    while stack:
        id = stack.pop()
        if id not in seen:
            seen.add(id)
            stack += graph[id].parents
    return seen


def _parents_first(graph: Mapping[str, Snapshot], tip: str) -> Iterator[Snapshot]:
    """Every ancestor before its descendants, whatever the clocks said."""
    done: set[str] = set()
    stack = [tip]
    while stack:
        id = stack[-1]
        missing = [parent for parent in graph[id].parents if parent not in done]
        if id in done or not missing:
            stack.pop()
            if id not in done:
                done.add(id)
                yield graph[id]
        else:
            stack += reversed(missing)


def _counts(order: list[Snapshot], counted: set[str]) -> dict[str, int]:
    """How many of ``counted`` each candidate has among its ancestors, with itself. ``order``: parents first."""
    within = {each.id: each for each in order}
    counts: dict[str, int] = {}
    for each in order:
        parents = [parent for parent in each.parents if parent in within]
        if len(parents) > 1:  # their ancestors are counted once
            seen: set[str] = set()
            stack = [each.id]
            while stack:
                id = stack.pop()
                if id not in seen and id in within:
                    seen.add(id)
                    stack += within[id].parents
            counts[each.id] = len(seen & counted)
        else:
            counts[each.id] = (each.id in counted) + sum(counts[parent] for parent in parents)
    return counts
