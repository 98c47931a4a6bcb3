"""What a repository should hold, in plain dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field

from training import State

from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.refs import HEAD, HEADS

Logs = dict[str, list[str]]


@dataclass
class History:
    """``logs``: full ref name → the values of its records. ``pruned``: components given up. ``collected``: swept."""

    states: dict[str, State] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)
    pruned: dict[str, frozenset[str]] = field(default_factory=dict)
    collected: set[str] = field(default_factory=set)

    def add(self, id: str, state: State, *parents: str | None) -> None:
        self.states[id], self.parents[id] = state, tuple(parent for parent in parents if parent)

    def log(self, ref: str, value: str) -> None:
        self.logs.setdefault(ref, []).append(value)

    def value(self, ref: str) -> str | None:
        """Of a ref that is there."""
        last = self.logs.get(ref, [NOTHING])[-1]
        return None if last == NOTHING else last

    def branches(self) -> list[str]:
        return sorted(ref.removeprefix(HEADS) for ref in self.logs if ref.startswith(HEADS) and self.value(ref))

    @property
    def head_branch(self) -> str | None:
        head = self.value(HEAD) or SYMBOLIC + HEADS + "main"
        return head.removeprefix(SYMBOLIC + HEADS) if head.startswith(SYMBOLIC) else None

    def needed(self) -> list[str]:
        """Every snapshot that a record reaches, in a fixed order."""
        stack = [value for log in self.logs.values() for value in log if value in self.states]
        found: dict[str, None] = {}
        while stack:
            id = stack.pop()
            if id not in found:
                found[id] = None
                stack += self.parents[id]
        return list(found)

    def expired(self) -> Logs:
        """What ``gc --expire now`` leaves of the logs."""
        return {ref: log[-1:] for ref, log in self.logs.items() if log[-1] != NOTHING}

    def sweep(self, logs: Logs | None = None) -> None:
        """A gc ended, with these logs."""
        self.logs = self.logs if logs is None else logs
        self.collected |= set(self.states) - set(self.needed())

    def contents(self, id: str) -> dict[str, object]:
        """What is left of a snapshot."""
        gone = self.pruned.get(id, frozenset())
        if "*" in gone:
            return {}
        return {name: leaf for name, leaf in self.states[id].contents().items() if name.split("/")[0] not in gone}

    def raw_bytes(self, chunk: int) -> int:
        """Of all that is needed, each chunk counted once."""
        chunks: dict[bytes, None] = {}
        for id in self.needed():
            for leaf in self.contents(id).values():
                if isinstance(leaf, tuple):
                    chunks.update((leaf[2][at : at + chunk], None) for at in range(0, len(leaf[2]), chunk))
        return sum(map(len, chunks))
