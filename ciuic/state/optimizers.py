"""Optimizer state by parameter name, as it is stored, and its way back into a live optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ciuic.state.modules import plain_name, unwrap

LAYOUT = "layout"
"""The key of what an optimizer's ``state_dict`` holds beside its state and its groups."""


@dataclass(frozen=True)
class NamedState:
    """``state``: parameter name → slots. ``groups``: param_groups whose "params" are names. ``other``: the rest."""

    state: dict[str, Any]
    groups: list[dict[str, Any]]
    other: dict[str, Any]


def parameter_names(models: Any) -> dict[int, str]:
    """id(parameter) → name, for a module or a (nested) list or dict of them; parts are joined by "/"."""
    names: dict[int, str] = {}

    def visit(value: Any, prefix: str) -> None:
        if isinstance(value, torch.nn.Module):
            for name, parameter in unwrap(value).named_parameters():
                names.setdefault(id(parameter), prefix + plain_name(name))
        elif isinstance(value, dict):
            for key, item in value.items():
                visit(item, f"{prefix}{key}/")
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                visit(item, f"{prefix}{index}/")

    visit(models, "")
    return names


def group_names(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[list[str]]:
    """The parameters' names, group by group: from the models, else from the optimizer, else by position ("#0.3")."""
    result = []
    for group_index, group in enumerate(optimizer.param_groups):
        own = group.get("param_names") or []
        result.append(
            [
                names.get(id(parameter)) or (own[index] if index < len(own) else f"#{group_index}.{index}")
                for index, parameter in enumerate(group["params"])
            ]
        )
    return result


def named_optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> NamedState:
    """The optimizer's own ``state_dict``, with names in the place of indices."""
    by_group = group_names(optimizer, names)
    layout = optimizer.state_dict()
    name_of: dict[Any, str] = {}
    groups = []
    for group, group_parameters in zip(layout["param_groups"], by_group, strict=True):
        name_of.update(zip(group["params"], group_parameters, strict=True))
        groups.append({**group, "params": list(group_parameters)})
    state = {name_of[index]: slots for index, slots in layout["state"].items() if index in name_of}
    other = {key: value for key, value in layout["state"].items() if key not in name_of}
    extra = {key: value for key, value in layout.items() if key not in ("state", "param_groups")}
    if extra:
        other = {**other, LAYOUT: extra}
    return NamedState(state, groups, other)


def index_layout(named: NamedState, names: list[list[str]] | None = None) -> dict[str, Any]:
    """torch's own layout, as ``load_state_dict`` takes it; ``names``: the groups' order (default: the stored)."""
    order = names if names is not None else [group["params"] for group in named.groups]
    index_of = {name: index for index, name in enumerate(name for group in order for name in group)}
    stored = {frozenset(group["params"]): group for group in named.groups}
    groups = [{**stored.get(frozenset(group), {}), "params": [index_of[name] for name in group]} for group in order]
    other = dict(named.other)
    extra = other.pop(LAYOUT, {})
    state = {index_of[name]: slots for name, slots in named.state.items() if name in index_of}
    return {"state": {**state, **other}, "param_groups": groups, **extra}


def slot_device(name: str, group: Mapping[str, Any], parameter: torch.Tensor) -> torch.device:
    """Where torch's optimizers want a state tensor: step counters stay on the CPU unless capturable or fused."""
    if name in ("step", "mu_product") and not group.get("capturable") and not group.get("fused"):
        return torch.device("cpu")
    return parameter.device


_following: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
_hooked: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()


def follow_devices(optimizer: torch.optim.Optimizer) -> None:
    """At the next step, move state whose parameter has moved since (``model.to(device)`` after a restore)."""
    if optimizer not in _hooked:  # one hook for good: a step must not find that its hooks change while it runs them
        _hooked.add(optimizer)
        optimizer.register_step_pre_hook(_follow)
    _following.add(optimizer)


def _follow(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if optimizer not in _following:
        return
    _following.discard(optimizer)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            slots = optimizer.state.get(parameter, {})
            for name, value in slots.items():
                slots[name] = _moved(value, slot_device(name, group, parameter))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value if value.device == device else value.to(device)
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value


def loads_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer has a ``load_state_dict`` of its own, which must then be used."""
    method: Callable[..., Any] = type(optimizer).load_state_dict
    return method is not torch.optim.Optimizer.load_state_dict
