"""The history of a repository, read once and then only what is new; and what of it must never be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ciuic.errors import DamageError, StorageError
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.tree import BlobEntry, ChildEntry, TensorEntry
from ciuic.retention.history import History
from ciuic.store.object_reader import read_snapshot, read_tree
from ciuic.store.prunes import NEEDED_TO_RESUME
from ciuic.store.refs import HEADS, TAGS, WHOLE
from ciuic.store.store import Store

IsIntact = Callable[[Snapshot], bool]


class Reader:
    """Remembers the snapshots that it has read, without what no policy looks at.

    ``is_intact``: whether a snapshot can be gone back to. By default every record of it must be listed, and all that it
    rests on, by footers that can be read; no payload is. Whoever has the time reads everything instead.
    """

    def __init__(self, store: Store, is_intact: IsIntact | None = None) -> None:
        self.store = store
        self.snapshots: dict[str, Snapshot] = {}
        self._is_intact = is_intact or self._is_listed
        self._intact: set[str] = set()
        self._generation = -1
        self._last_lines: dict[str, list[str]] = {}

    def history(self, parents: Mapping[str, str] | None = None) -> History:
        """As it is now. Under the shared lock. ``parents``: further ids to protect, and why.

        DamageError where a snapshot or a log cannot be read: nothing may be pruned by half of a history.
        """
        refs = self.store.refs
        branches, tags, head = refs.listing(HEADS), refs.listing(TAGS), refs.head().snapshot
        self._read([*branches.values(), *tags.values(), *([head] if head else [])])
        prunes = {id: gone for id, gone in refs.prunes().items() if id in self.snapshots}
        lines = self._lines(branches, tags, head)
        protected: dict[str, str] = {}
        if head is not None:
            protected[head] = "HEAD"
        for name, tip in sorted(branches.items()):
            protected.setdefault(tip, f"tip of {name}")
        for name, tagged in sorted(tags.items()):
            protected.setdefault(tagged, f"tag {name}")
        for id, why in (parents or {}).items():
            if id in self.snapshots:
                protected.setdefault(id, why)
        for name in branches:
            intact = self._newest_intact(lines[name], prunes)
            if intact is not None:
                protected.setdefault(intact, f"newest intact of {name}")
        whole = {name: tuple(id for id in line if WHOLE not in prunes.get(id, ())) for name, line in lines.items()}
        return History(self.snapshots, whole, protected, prunes)

    def _read(self, tips: Iterable[str]) -> None:
        """Everything that the tips reach. What was read has all its ancestors read, or nothing is remembered."""
        found: dict[str, Snapshot] = {}
        stack = [*tips]
        while stack:
            id = stack.pop()
            if id in self.snapshots or id in found:
                continue
            snapshot = read_snapshot(self.store, bytes.fromhex(id))
            found[id] = replace(snapshot, message="", config={}, contains=(), versions={}, cost={}, storage={})
            stack += snapshot.parents
        self.snapshots.update(found)

    def _lines(self, branches: Mapping[str, str], tags: Mapping[str, str], head: str | None) -> dict[str, list[str]]:
        """A line for each branch, then for what only a tag, HEAD or a second parent leads to."""
        self._last_lines = {name: self._line(tip, self._last_lines.get(name)) for name, tip in branches.items()}
        lines = dict(self._last_lines)
        seen = {id for line in lines.values() for id in line}
        others = {f"tag {name}": tip for name, tip in tags.items()} | ({"HEAD": head} if head else {})
        for name, tip in others.items():
            if tip not in seen:
                lines[name] = self._line(tip, None)
                seen.update(lines[name])
        beside = self._beside(seen)
        if beside:
            lines["second parents"] = sorted(beside, key=lambda id: (self.snapshots[id].timestamp, id))
        return lines

    def _line(self, tip: str, before: list[str] | None) -> list[str]:
        """First parents, oldest first. ``before``: the same line some time ago, which it mostly goes on from."""
        if before and self.snapshots[tip].parents[:1] == (before[-1],):
            before.append(tip)
            return before
        if before and before[-1] == tip:
            return before
        line = [tip]
        while parents := self.snapshots[line[-1]].parents:
            line.append(parents[0])
        line.reverse()
        return line

    def _beside(self, seen: set[str]) -> set[str]:
        """What is reached and in no line."""
        beside: set[str] = set()
        stack = [parent for id in seen for parent in self.snapshots[id].parents[1:]]
        while stack:
            id = stack.pop()
            if id not in seen and id not in beside:
                beside.add(id)
                stack += self.snapshots[id].parents
        return beside

    def _newest_intact(self, line: list[str], prunes: Mapping[str, frozenset[str]]) -> str | None:
        if self._generation != self.store.generation:  # a sweep, or a repair, may have taken something away
            self._intact.clear()
            self._generation = self.store.generation
        for id in reversed(line):
            if prunes.get(id, frozenset()) & NEEDED_TO_RESUME:
                continue
            if id in self._intact or self._is_intact(self.snapshots[id]):
                self._intact.add(id)
                return id
        return None

    def trust(self, id: str) -> None:
        """This process has just written it."""
        self._intact.add(id)

    def _is_listed(self, snapshot: Snapshot) -> bool:
        stack = [bytes.fromhex(tree) for tree in snapshot.tree.values()]
        seen: set[bytes] = set()
        try:
            while stack:
                id = stack.pop()
                if id in seen:
                    continue
                seen.add(id)
                tree = read_tree(self.store, id)
                stack += [child for _, child in tree.modules]
                for _, entry in tree.entries:
                    if isinstance(entry, ChildEntry):
                        stack.append(entry.id)
                    elif isinstance(entry, (TensorEntry, BlobEntry)) and not all(map(self.store.known, entry.chunks)):
                        return False
        except (DamageError, StorageError):
            return False
        return True
