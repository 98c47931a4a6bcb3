"""What is lost of a snapshot: which tensors, and which of their chunks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace

from ciuic.errors import CiuicError
from ciuic.objects.tree import BlobEntry, ChildEntry, TensorEntry, Tree
from ciuic.store.object_reader import read_tree
from ciuic.store.store import Store

MOST_DEPTH = 200
MOST_LOSSES = 100_000
"""Of all trees together: beyond it one a tree. A few that hold each other many times over would never end."""
MOST_SAID = 1_000
"""Chunks of one tensor."""
LONGEST_PATH = 1_000
"""Characters of a path that are said. Of a longer one the beginning and the end are."""


@dataclass(frozen=True)
class Loss:
    """``path``: of a tensor or a value as in ``model/layers.0.weight``, or of all below a tree that is lost.

    ``chunks``: numbers of the chunks that cannot be read; none where it is a tree. ``reason``: of the first one.
    """

    path: str
    chunks: tuple[int, ...]
    reason: str


class Losses:
    """Walks trees, each once, however many snapshots share it."""

    def __init__(
        self,
        store: Store,
        listed: Container[bytes],
        lengths: Mapping[bytes, int],
        why: Callable[[bytes], str],
        say: Callable[[str], None],
    ) -> None:
        """``listed``: chunks that can be read; ``lengths`` of all chunks; ``why`` one cannot be read; ``say``: called
        with a line for each loss."""
        self.store = store
        self.listed = listed
        self.lengths = lengths
        self.why = why
        self.say = say
        self.trees: dict[bytes, tuple[Loss, ...]] = {}
        self._room = MOST_LOSSES

    def of_component(self, name: str, root: bytes) -> tuple[Loss, ...]:
        return tuple(_under(f"{name}/", each) for each in self._below(root, f"{name}/", 0))

    def _below(self, id: bytes, path: str, depth: int) -> tuple[Loss, ...]:
        """Relative to the tree. ``path``: with what separates it from names below."""
        if id in self.trees:
            return self.trees[id]
        if depth > MOST_DEPTH:
            self.say(f"{path[:-1]}: trees nested too deep.")
            return (Loss("", (), "nested too deep"),)
        self.trees[id] = ()  # a cycle would need a hash collision; this ends it all the same
        try:
            tree = read_tree(self.store, id)
        except CiuicError as error:
            self.say(f"{path[:-1]}: {error}")
            self.trees[id] = (Loss("", (), str(error)),)
            return self.trees[id]
        found: list[Loss] = []
        for loss in self._in(tree, path, depth):  # what is below takes from the same room, so it is looked at after
            found.append(loss)
            self._room -= 1
            if self._room <= 0:
                break
        self.trees[id] = tuple(found)
        return self.trees[id]

    def _in(self, tree: Tree, path: str, depth: int) -> Iterator[Loss]:
        for key, entry in tree.entries:
            if isinstance(entry, ChildEntry):
                for loss in self._below(entry.id, _shown(f"{path}{key}/"), depth + 1):
                    yield _under(f"{key}/", loss)
            elif isinstance(entry, (TensorEntry, BlobEntry)):
                lost = self._lost(entry)
                for number, why in itertools.islice(lost.items(), MOST_SAID):
                    self.say(f"{_shown(f'{path}{key}')}: chunk {number} ({entry.chunks[number].hex()[:12]}) is {why}.")
                if len(lost) > MOST_SAID:
                    self.say(f"{path}{key}: so are {len(lost) - MOST_SAID} more of its chunks.")
                if lost:
                    yield Loss(_shown(str(key)), tuple(lost), next(iter(lost.values())))
        for name, child in tree.modules:
            for loss in self._below(child, _shown(f"{path}{name}."), depth + 1):
                yield _under(f"{name}.", loss)

    def _lost(self, entry: TensorEntry | BlobEntry) -> dict[int, str]:
        """Numbers of chunks that cannot be read, or cannot be this tensor's, and why."""
        nbytes = entry.length if isinstance(entry, BlobEntry) else entry.nbytes
        lost = {}
        for number, chunk in enumerate(entry.chunks):
            if chunk not in self.listed:
                lost[number] = self.why(chunk)
            elif self.lengths.get(chunk) != min(entry.chunk_size, nbytes - number * entry.chunk_size):
                lost[number] = "not as long as its tensor says"
        return lost


def _under(prefix: str, loss: Loss) -> Loss:
    return replace(loss, path=_shown(prefix + loss.path if loss.path else prefix[:-1]))


def _shown(path: str) -> str:
    half = LONGEST_PATH // 2
    return path if len(path) <= LONGEST_PATH else f"{path[:half]}…{path[-half:]}"
