"""The state at a step's boundary, kept so that it can be saved until the next optimizer step begins.

What may change before that (generators, buffers, counters, the position in the data) is small and copied at the
boundary. Parameters and the optimizer's state are large and change in the step alone, so they stay where they are and
are only looked at: by their version counters and by samples of their elements, as a staged copy is (``copying.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

import torch

from ciuic.capture import fence
from ciuic.capture.copying import Item, Layout
from ciuic.capture.samples import WORD, Samples
from ciuic.objects.state_tree import Container, StateNode, Tensor, path_text, walk
from ciuic.state.tensors import LiveTensor, dtype_name

COPIED_BYTES = 64 << 10
"""Up to this size what may change anywhere is copied at each boundary; above it only once it was seen to change."""


class Boundary:
    """The state at one boundary. It can be saved as long as ``why_not`` is None."""

    def __init__(
        self, components: Mapping[str, StateNode], ordered: Set[int], restless: Set[tuple[int, int]] = frozenset()
    ) -> None:
        """``ordered``: ids of the leaves that change only in an optimizer's step. ``restless``: the memory of those
        large other ones that do not keep still before it."""
        self._components: dict[str, StateNode] = dict(components)
        self._layout = Layout(components)
        self._copies: dict[int, torch.Tensor] = {}  # by its place: tied tensors have one
        self._begun = False
        in_step: list[Item] = []
        elsewhere: list[Item] = []
        for item in self._layout.items:
            if item.tensor is None:
                continue  # nothing in it
            if id(item.leaf) in ordered:
                in_step.append(item)
            elif item.place.nbytes <= COPIED_BYTES or item.memory in restless or item.tensor.is_inference():
                self._copies[item.place.offset] = item.tensor.clone()
            else:
                elsewhere.append(item)
        self._in_step, self._elsewhere = _Watched(in_step), _Watched(elsewhere)

    @property
    def copied_bytes(self) -> int:
        """What setting it aside has copied."""
        return sum(copy.nbytes for copy in self._copies.values())

    def begin_step(self) -> list[Item]:
        """An optimizer's step begins: the boundary cannot be saved any more. What else has changed since."""
        if self._begun:
            return []
        self._begun = True
        self._copies, self._components = {}, {}
        return self._elsewhere.changed()

    def why_not(self) -> str | None:
        """Why it cannot be saved any more, in words; None as long as it can."""
        if self._begun:
            return "an optimizer step has begun since"
        names = self._names(self._in_step.changed() + self._elsewhere.changed())
        return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} changed since" if names else None

    def components(self) -> dict[str, StateNode]:
        """The state trees as they were: over the copies, and over live memory that is as it was."""
        return {name: self._as_it_was(node) for name, node in self._components.items()}

    def _as_it_was(self, node: StateNode) -> StateNode:
        if isinstance(node, Container):
            return Container(node.kind, tuple((key, self._as_it_was(child)) for key, child in node.items))
        if isinstance(node, Tensor) and node.source.nbytes:
            copy = self._copies.get(self._layout.places[id(node)].offset)
            return node if copy is None else replace(node, source=LiveTensor(copy, dtype_name(copy.dtype)))
        return node

    def _names(self, items: Iterable[Item]) -> list[str]:
        wanted = {id(item.leaf) for item in items}
        leaves = [leaf for name, component in self._components.items() for leaf in walk(component, (name,))]
        return [path_text(path) for path, leaf in leaves if id(leaf) in wanted]


class _Watched:
    """Tensors that stay where they are, and whether they are as they were."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items
        self._versions = self._read_versions()
        self._sampled = [item for item in items if item.memory_at and item.place.nbytes >= WORD]
        sizes = [item.place.nbytes for item in self._sampled]
        self._samples = Samples([item.memory_at for item in self._sampled], sizes)

    def _read_versions(self) -> list[int]:
        return [item.tensor._version for item in self._items if item.tensor is not None]

    def changed(self) -> list[Item]:
        """Those that are not: all that their version counters tell, and what a sample of their elements shows."""
        before_and_now = zip(self._items, self._versions, self._read_versions(), strict=True)
        found = {id(item): item for item, before, now in before_and_now if now != before}
        found.update((id(self._sampled[index]), self._sampled[index]) for index in self._samples.changed())
        return list(found.values())


class Boundaries:
    """The newest boundary of a run, given up when an optimizer step begins."""

    def __init__(self) -> None:
        self.newest: Boundary | None = None
        self._restless: set[tuple[int, int]] = set()
        self._unwatch = fence.watch(self._before_step)

    def set_aside(self, components: Mapping[str, StateNode], ordered: Set[int]) -> Boundary:
        """From now on this is the newest one. Nothing of it is shared with what may change, but what is ordered."""
        self.newest = Boundary(components, ordered, self._restless)
        return self.newest

    def _before_step(self, _optimizer: torch.optim.Optimizer) -> None:
        if self.newest is not None:
            self._restless.update(item.memory for item in self.newest.begin_step())

    def close(self) -> None:
        self._unwatch()
        self.newest = None
