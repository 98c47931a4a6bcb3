"""The state at a step's boundary, kept so that it can be saved until the next optimizer step begins.

What may change before that (generators, buffers, counters, the position in the data) is small and copied at the
boundary. Parameters and the optimizer's state are large and change in the step alone, so they stay where they are, and
no tree of them is made before it is needed (``in_place.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import torch

from ciuic.capture import fence
from ciuic.capture.in_place import (
    COPIED_BYTES,
    InPlace,
    Memory,
    ModuleInPlace,
    Part,
    memory_of,
    reads_plainly,
)
from ciuic.capture.optimizer_in_place import OptimizerInPlace, steps_plainly
from ciuic.capture.stillness import Copies, Still, bytes_of, memory_key
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, path_text, walk
from ciuic.state.capture import Captured, capture_state
from ciuic.state.leaves import Capture
from ciuic.state.optimizers import parameter_names
from ciuic.state.ownership import changes_only_in_step, ordered_leaves
from ciuic.state.tensors import LiveTensor, dtype_name


class Boundary:
    """The state at one boundary, the newest. It can be saved as long as ``why_not`` is None.

    ``contains``: the completeness list. Its parts in place know one boundary at a time.
    """

    def __init__(self, captured: Captured, model: Any, restless: Set[Memory]) -> None:
        """``restless``: the memory of large things that do not keep still before a step."""
        self.contains = captured.contains
        self._components: dict[str, StateNode] = dict(captured.components)
        self._names = functools.cache(functools.partial(parameter_names, _holding(model)))
        self._copies: Copies = {}
        self._begun = False
        self._parts: list[tuple[str, Part]] = []
        self._of_optimizers: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        still: dict[str, torch.Tensor] = {}
        for path, node in _unread(self._components):
            if isinstance(node, InPlace):
                self._parts.append((path_text(path), node.part))
                continue
            if path[0] == "model":
                self._names()  # nobody sees whether a module that was read has others in it by then
            if isinstance(node.source, LiveTensor) and node.source.nbytes:
                tensor = node.source.tensor
                memory = node.source.address, node.source.nbytes
                uncounted = node.array != "torch" or tensor.is_inference()  # who writes there moves no version counter
                if memory[1] <= COPIED_BYTES or memory in restless or uncounted:
                    copy = self._copies.setdefault(memory_key(tensor), tensor.clone())
                    if path[0] == "optimizer" and "param_groups" not in path:
                        self._of_optimizers.append((path_text(path), tensor, copy))
                else:
                    still[path_text(path)] = tensor
        self._still_names, self._still = list(still), Still(list(still.values()))

    def begin_step(self) -> set[Memory]:
        """An optimizer's step begins: the boundary cannot be saved any more. What else has changed since, and has to be
        copied from now on."""
        if self._begun:
            return set()
        self._begun = True
        restless = {memory for _, part in self._parts for memory in part.restless()}
        for index in self._still.changed():
            restless.add(memory_of(self._still.tensors[index]))
        self._copies, self._components, self._parts, self._still = {}, {}, [], Still(())
        self._of_optimizers = []
        return restless

    def why_not(self) -> str | None:
        """Why it cannot be saved any more, in words; None as long as it can."""
        if self._begun:
            return "an optimizer step has begun since"
        names = [f"{path}/{name}" for path, part in self._parts for name in part.changed()]
        names += [self._still_names[index] for index in self._still.changed()]
        # A replayed CUDA graph steps without a word to Python, and moves no version counter. It counts its steps.
        names += [name for name, tensor, copy in self._of_optimizers if not _same_bits(tensor, copy)]
        return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} changed since" if names else None

    def components(self) -> dict[str, StateNode]:
        """The state trees as they were: over the copies, and over live memory that is as it was. UnsupportedState."""
        for _, part in self._parts:
            self._copies.update(part.copies())
        return {name: self._as_it_was(node, (name,), Capture(self._names)) for name, node in self._components.items()}

    def _as_it_was(self, node: StateNode, path: tuple[Key, ...], capture: Capture) -> StateNode:
        if isinstance(node, InPlace):
            return node.part.node(path, capture, self._copies)
        if isinstance(node, Container):
            items = [(key, self._as_it_was(child, (*path, key), capture)) for key, child in node.items]
            return Container(node.kind, tuple(items))
        if isinstance(node, Tensor) and isinstance(node.source, LiveTensor):
            copy = self._copies.get(memory_key(node.source.tensor))
            tied = capture.tied(replace(node, tie=None), path)  # with what was in place, too
            return tied if copy is None else replace(tied, source=LiveTensor(copy, dtype_name(copy.dtype)))
        return node


def _holding(model: Any) -> Any:
    """The same modules, in lists and dicts that nobody changes."""
    if isinstance(model, dict):
        return {key: _holding(value) for key, value in model.items()}
    return [_holding(value) for value in model] if isinstance(model, (list, tuple)) else model


def _unread(components: Mapping[str, StateNode]) -> Iterator[tuple[tuple[Key, ...], Tensor | InPlace]]:
    """The tensors of the trees, and what stands for others."""
    waiting: list[tuple[tuple[Key, ...], StateNode]] = [((name,), node) for name, node in components.items()]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, (Tensor, InPlace)):
            yield path, node
        elif isinstance(node, Container):
            waiting += [((*path, key), child) for key, child in node.items]


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(bytes_of(one.contiguous()), bytes_of(other.contiguous()))


class Boundaries:
    """The newest boundary of a run, given up when an optimizer step begins."""

    def __init__(self) -> None:
        self.newest: Boundary | None = None
        self._restless: set[Memory] = set()
        self._parts: Parts | None = None
        self._unwatch = fence.watch(self._before_step)

    @torch.no_grad()
    def set_aside(self, objects: Mapping[str, Any], *, rng: bool) -> Boundary:
        """From now on this is the newest one. ``objects`` and ``rng``: keywords of ``capture_state``.

        Nothing of it is shared with what may change, but what stays in place.
        """
        self.newest = None
        if self._parts is None or not self._parts.are_current():
            self._parts = Parts(objects, self._restless)
        captured = capture_state(**objects, rng=rng, in_place=self._parts.stand_for)
        self._parts.complete = True
        self.newest = Boundary(captured, objects["model"], self._restless)
        return self.newest

    def _before_step(self, _optimizer: torch.optim.Optimizer) -> None:
        if self.newest is not None:
            found = self.newest.begin_step() - self._restless
            if found:
                self._restless |= found
                self._parts = None

    def close(self) -> None:
        self._unwatch()
        self.newest = self._parts = None


class Parts:
    """The parts of a run's objects that stay in place, found at the first boundary, which makes them ``complete``."""

    def __init__(self, objects: Mapping[str, Any], restless: Set[Memory]) -> None:
        self.complete = False
        self._restless = restless
        self._parts: dict[int, tuple[Any, Part | None]] = {}  # by id of what is held here, so that it is no other's
        self._late = False  # something came when they were complete
        captured = capture_state(
            model=objects["model"], optimizer=objects["optimizer"], scheduler=None, scaler=None, extra=None, rng=False
        )
        ordered = ordered_leaves(captured.components, objects["model"], objects["optimizer"])
        leaves = [leaf for node in captured.components.values() for _, leaf in walk(node) if id(leaf) in ordered]
        sources = [leaf.source for leaf in leaves if isinstance(leaf, Tensor)]
        self._in_step = {(each.address, each.nbytes) for each in sources if isinstance(each, LiveTensor)}

    def are_current(self) -> bool:
        return not self._late and all(part is None or part.is_current() for _, part in self._parts.values())

    def stand_for(self, value: Any) -> InPlace | None:
        """What stands for a module or an optimizer, whose state is noted; None for one that has to be read."""
        if id(value) not in self._parts:
            self._parts[id(value)] = value, self._part(value)
            self._late = self.complete
        part = self._parts[id(value)][1]
        return InPlace("module", (), part) if part is not None and part.note() else None

    def _part(self, value: Any) -> Part | None:
        if isinstance(value, torch.nn.Module):
            return ModuleInPlace(value, self._in_step, self._restless) if reads_plainly(value) else None
        if not changes_only_in_step(value) or not steps_plainly(value):
            return None
        part = OptimizerInPlace(value)
        return part if part.memory() <= self._in_step else None
