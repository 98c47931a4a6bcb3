"""A torch optimizer whose state stays where it is from one boundary to the next."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from ciuic.capture.in_place import Memory, memory_of
from ciuic.capture.stillness import Copies, Still
from ciuic.objects.state_tree import Key, StateNode
from ciuic.state.leaves import SCALARS, Capture, named_state_tree
from ciuic.state.optimizers import named_optimizer_state

MOST_SAMPLED = 64
"""Of an optimizer's tensors, or a few more: to look at all costs as much as all the rest, and what is reset by hand is
mostly all."""
DICT = frozenset((dict,))


class OptimizerInPlace:
    """A torch optimizer that ``steps_plainly``. What its groups say is copied at a boundary.

    That state was replaced, by ``load_state_dict`` for example, is seen of each tensor; that it was written to by hand,
    of a sample of them.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._values = self._list_values()
        self._kinds = list(map(type, self._values))
        self._sample = Still(())
        self._groups: list[dict[str, Any]] = []
        self._parameters: list[Any] = []
        self._grown = False

    def _list_values(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._optimizer.state.values())))

    def _list_parameters(self) -> list[Any]:
        """Those of the groups, and those that have a state."""
        groups = self._optimizer.param_groups
        return [*chain.from_iterable(group["params"] for group in groups), *self._optimizer.state]

    def memory(self) -> set[Memory]:
        """Of its tensors, but for empty ones."""
        return {memory_of(value) for value in self._values if isinstance(value, torch.Tensor) and value.numel()}

    def is_current(self) -> bool:
        return not self._grown

    def note(self) -> bool:
        by_parameter = DICT.issuperset(map(type, self._optimizer.state.values()))
        self._values = self._list_values() if by_parameter else []
        if not by_parameter or list(map(type, self._values)) != self._kinds:  # a first step makes some, for example
            self._grown = True
            return False
        self._parameters = self._list_parameters()
        copied: dict[int, Any] = {}
        self._groups = [
            {key: _kept(value, copied) for key, value in group.items() if key != "params"}
            for group in self._optimizer.param_groups
        ]
        sample = self._list_sample()
        if list(map(id, sample)) == list(map(id, self._sample.tensors)) and self._sample.are_in_place():
            self._sample.note()
        else:
            self._sample = Still(sample)
        return True

    def _list_sample(self) -> list[torch.Tensor]:
        """All that belongs to each of a few parameters: a slot of theirs is most often reset for all at once."""
        slots = list(self._optimizer.state.values())
        values = chain.from_iterable(map(dict.values, slots[:: -(-len(self._values) // MOST_SAMPLED) or 1]))
        return [value for value in values if isinstance(value, torch.Tensor) and not value.is_inference()]

    def copies(self) -> Copies:
        return {}

    def restless(self) -> set[Memory]:
        return set()

    def changed(self) -> list[str]:
        if not steps_plainly(self._optimizer):
            return ["what state_dict gives"]
        before, now = self._parameters + self._values, self._list_parameters() + self._list_values()
        same = list(map(id, before)) == list(map(id, now)) and not self._sample.changed()
        return [] if same else ["state"]

    def node(self, path: tuple[Key, ...], capture: Capture, copies: Copies) -> StateNode:
        named = named_optimizer_state(self._optimizer, capture.parameter_names())
        groups = [{**kept, "params": group["params"]} for kept, group in zip(self._groups, named.groups, strict=True)]
        return named_state_tree(self._optimizer, replace(named, groups=groups), path, capture)


def steps_plainly(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``state_dict`` gives the optimizer's groups and the slots of its parameters, each of which is a tensor
    or what nobody can change."""
    parameters = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return (
        type(optimizer).state_dict is torch.optim.Optimizer.state_dict
        and "state_dict" not in vars(optimizer)
        and not vars(optimizer).get("_optimizer_state_dict_pre_hooks")
        and not vars(optimizer).get("_optimizer_state_dict_post_hooks")
        and all(id(key) in parameters and type(slots) is dict for key, slots in optimizer.state.items())
        and all(_is_plain(value) for slots in optimizer.state.values() for value in slots.values())
    )


def _is_plain(value: Any) -> bool:
    return type(value) in SCALARS or (isinstance(value, torch.Tensor) and not value.is_inference())


def _kept(value: Any, copied: dict[int, Any]) -> Any:
    """A copy of what a group says: the rate, the betas, perhaps names. ``copied``, by id: groups share a rate."""
    if type(value) in SCALARS:
        return value
    if isinstance(value, torch.Tensor):
        return copied.setdefault(id(value), value.detach().clone())
    if type(value) is list and SCALARS.issuperset(map(type, value)):
        return list(value)
    return copy.deepcopy(value, copied)
