"""What stays where it is from one boundary to the next: the tensors of modules, the state of torch's optimizers.

Their trees are made when they are needed, which is at an exception. At a boundary it is only noted how they are: lists
of objects, versions and addresses, which cost a few tenths of a microsecond a tensor, where a tree costs fifty times
that.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol, TypeAlias

import torch

from ciuic.capture.samples import WORD
from ciuic.capture.stillness import Copied, Copies, Still, addresses_of, memory_key
from ciuic.objects.state_tree import Container, Key, StateNode
from ciuic.state.leaves import Capture
from ciuic.state.modules import plain_name
from ciuic.state.tensors import tensor_leaf

COPIED_BYTES = 64 << 10
"""Up to this size what may change anywhere is copied at each boundary; above it only once it was seen to change."""

Memory: TypeAlias = "tuple[int, int]"
"""The address and the length, in bytes."""


class Part(Protocol):
    """A module or an optimizer that is not read at a boundary."""

    def is_current(self) -> bool:
        """Whether what was found out about it when it was looked at first still holds."""
        ...

    def note(self) -> bool:
        """A boundary: note how it is, and copy what may change before the next step. False when it has to be read."""
        ...

    def copies(self) -> Copies:
        """What ``note`` has copied."""
        ...

    def restless(self) -> Set[Memory]:
        """The memory, among what was noted and is not trained, that has changed since."""
        ...

    def changed(self) -> list[str]:
        """Names of what is not as it was noted."""
        ...

    def node(self, path: tuple[Key, ...], capture: Capture, copies: Copies) -> StateNode:
        """The tree as it was noted, of one that has not ``changed``."""
        ...


@dataclass(frozen=True)
class InPlace(Container):
    """Stands for the tree of ``part``."""

    part: Part


class ModuleInPlace:
    """A module that ``reads_plainly``. ``in_step``: the memory that changes in an optimizer's step alone; ``restless``:
    what does not keep still before it, however large it is."""

    def __init__(self, module: torch.nn.Module, in_step: Set[Memory], restless: Set[Memory]) -> None:
        self._module = module
        self._modules = list(module.modules())
        self._members = self._list_members()
        self._entries: dict[str, torch.Tensor] = module.state_dict(keep_vars=True)
        self._tensors = list(self._entries.values())
        self._addresses = addresses_of(self._tensors)
        self._keys = {name: memory_key(tensor) for name, tensor in self._entries.items()}
        in_step_alone: list[torch.Tensor] = []
        elsewhere: list[torch.Tensor] = []
        copied: dict[tuple[Any, ...], torch.Tensor] = {}
        for name, tensor in self._entries.items():
            memory = memory_of(tensor)
            if memory in in_step and memory[1] >= WORD:  # what is smaller has no samples
                in_step_alone.append(tensor)
            elif memory[1] <= COPIED_BYTES or memory in restless or tensor.is_inference():
                copied[self._keys[name]] = tensor
            else:
                elsewhere.append(tensor)
        self._in_step, self._elsewhere, self._copied = Still(in_step_alone), Still(elsewhere), Copied(copied)

    def _list_members(self) -> list[int]:
        """The id of every submodule, parameter and buffer, of each module."""
        held = [
            members
            for each in self._modules
            for members in (each._modules.values(), each._parameters.values(), each._buffers.values())
        ]
        return list(map(id, chain.from_iterable(held)))

    def is_current(self) -> bool:
        return self._list_members() == self._members and addresses_of(self._tensors) == self._addresses

    def note(self) -> bool:
        self._in_step.note()
        self._elsewhere.note()
        self._copied.renew()
        return True

    def copies(self) -> Copies:
        return self._copied.copies()

    def restless(self) -> set[Memory]:
        return {memory_of(self._elsewhere.tensors[index]) for index in self._elsewhere.changed()}

    def changed(self) -> list[str]:
        if not reads_plainly(self._module):
            return ["what state_dict gives"]
        now = self._module.state_dict(keep_vars=True)
        if list(now) != list(self._entries):
            return sorted(now.keys() ^ self._entries.keys()) or ["the order of what state_dict gives"]
        moved = {
            id(tensor)
            for name, tensor in self._entries.items()
            if now[name] is not tensor or memory_key(tensor) != self._keys[name]
        }
        for still in (self._in_step, self._elsewhere):
            moved.update(id(still.tensors[index]) for index in still.changed())
        return [plain_name(name) for name, tensor in self._entries.items() if id(tensor) in moved]

    def node(self, path: tuple[Key, ...], capture: Capture, copies: Copies) -> StateNode:
        items: list[tuple[Key, StateNode]] = []
        for name, tensor in self._entries.items():
            below = (*path, plain_name(name))
            leaf, copied = capture.leaf(tensor, below), copies.get(self._keys[name])
            items.append((below[-1], leaf if copied is None else replace(tensor_leaf(copied, below), tie=leaf.tie)))
        return Container("module", tuple(items))


def reads_plainly(module: torch.nn.Module) -> bool:
    """Whether ``state_dict`` gives the module's parameters and buffers themselves, and nothing of somebody else's."""
    plain = torch.nn.Module
    return all(
        type(each).state_dict is plain.state_dict
        and type(each)._save_to_state_dict is plain._save_to_state_dict
        and type(each).get_extra_state is plain.get_extra_state
        and not vars(each).keys() & {"state_dict", "_save_to_state_dict", "get_extra_state"}
        and not vars(each).get("_state_dict_hooks")
        and not vars(each).get("_state_dict_pre_hooks")
        and not isinstance(each, torch.jit.ScriptModule)  # it makes its tensors' objects anew each time
        and all(map(_is_plain_memory, (*each._parameters.values(), *each._buffers.values())))
        for each in module.modules()
    )


def _is_plain_memory(tensor: torch.Tensor | None) -> bool:
    """torch crashes over the bytes of a quantised tensor, and of one whose storage was freed."""
    return tensor is None or (not tensor.is_quantized and (tensor.data_ptr() != 0 or not tensor.numel()))


def memory_of(tensor: torch.Tensor) -> Memory:
    return tensor.data_ptr(), tensor.numel() * tensor.element_size()
