"""Gradients that belong to the state: those that changed since the last optimizer step (gradient accumulation)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from ciuic.objects.state_tree import Container, Key, StateNode
from ciuic.state.leaves import Capture, to_tree

_after_step: weakref.WeakKeyDictionary[torch.optim.Optimizer, dict[int, tuple[Any, int]]] = weakref.WeakKeyDictionary()
NOT_LEFT = (None, -1)
_watching = False


def watch() -> None:
    """From now on remember, after every step of every optimizer, which gradients it left. Once a process."""
    global _watching
    if not _watching:
        register_optimizer_step_post_hook(_remember)
        _watching = True


def _remember(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    _after_step[optimizer] = {
        id(parameter): (weakref.ref(gradient), gradient._version)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if (gradient := parameter.grad) is not None
    }


def optimizers_in(value: Any) -> list[torch.optim.Optimizer]:
    """The torch optimizers in one, or a (nested) list or dict of them."""
    if isinstance(value, torch.optim.Optimizer):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [optimizer for child in children for optimizer in optimizers_in(child)]


def named_parameters(optimizers: Any, names: Mapping[int, str]) -> Iterator[tuple[torch.optim.Optimizer, Any, str]]:
    """(optimizer, parameter, name) of each parameter once, under its name or, without one, its place ("#0.1.3")."""
    seen: set[int] = set()
    for number, optimizer in enumerate(optimizers_in(optimizers)):
        for group_number, group in enumerate(optimizer.param_groups):
            for index, parameter in enumerate(group["params"]):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    name = names.get(id(parameter))
                    yield optimizer, parameter, f"#{number}.{group_number}.{index}" if name is None else name


def pending_gradients(optimizers: Any, names: Callable[[], Mapping[int, str]]) -> Container | None:
    """The gradients that changed since their optimizer's last step, by parameter name; None without any.

    Without a record of that step (nobody watched yet) a gradient counts as changed: too much is better than too little.
    ``names()`` is called only when there are some.
    """
    changed: dict[int, bool] = {}  # by id of the parameter; the first optimizer that has it says
    for optimizer in optimizers_in(optimizers):
        left = _after_step.get(optimizer, {})
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None:
                    reference, version = left.get(id(parameter), NOT_LEFT)
                    as_left = reference is not None and reference() is gradient and gradient._version == version
                    changed.setdefault(id(parameter), not as_left)
    if not any(changed.values()):
        return None
    capture = Capture()
    items: list[tuple[Key, StateNode]] = [
        (name, to_tree(parameter.grad, ("gradients", name), capture))
        for _, parameter, name in named_parameters(optimizers, names())
        if changed.get(id(parameter))
    ]
    return Container("module", tuple(items))
