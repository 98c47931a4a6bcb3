"""Stored optimizer state → a live optimizer: by parameter name, with its own dtypes, on its parameters' devices."""

from __future__ import annotations

from typing import Any

import torch

from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, Value, expand, path_text
from ciuic.state.filling import Fill
from ciuic.state.leaves import to_live
from ciuic.state.optimizers import (
    LAYOUT,
    NamedState,
    follow_devices,
    group_names,
    index_layout,
    loads_itself,
    slot_device,
)
from ciuic.state.plan import Plan
from ciuic.state.tensors import dtype_name, new_tensor

SHAPED_LIKE_PARAMETER = {
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "sum",
    "prev", "exp_inf", "ax",
}  # fmt: skip


def match_optimizer(plan: Plan, optimizer: torch.optim.Optimizer, node: StateNode, path: tuple[Key, ...]) -> None:
    """Groups are matched by the set of names in them, so their order and the order inside them do not matter."""
    text = path_text(path)
    parts = dict(node.items) if isinstance(node, Container) else {}
    if not {"class", "state", "param_groups"} <= set(parts):
        plan.problem(f"{text}: the live object is an optimizer, the snapshot holds something else", partial=False)
        return
    groups = expand(parts["param_groups"])
    stored_groups = [_fields(child) for _, child in groups.items] if isinstance(groups, Container) else []
    stored_names = [_names(group) for group in stored_groups]
    live_names = group_names(optimizer, plan.parameter_names)
    pairs = _pair_groups(plan, stored_names, live_names, text)
    if pairs is None:
        return
    stored_class = str(parts["class"].value) if isinstance(parts["class"], Value) else ""
    _check_class(plan, optimizer, stored_class, text)
    if isinstance(optimizer, torch.optim.LBFGS) and live_names != [stored_names[index] for _, index in pairs]:
        plan.problem(f"{text}: LBFGS joins all parameters into one vector; their order differs here", partial=False)
    for live_index, stored_index in pairs:
        _check_group(plan, optimizer, live_index, stored_groups[stored_index], stored_class, text)
    state = parts["state"]
    slots = dict(state.items) if isinstance(state, Container) else {}
    _check_slots(plan, optimizer, live_names, slots, text)
    wanted_names = {name for group in live_names for name in group if plan.wanted(f"{text}/state/{name}")}
    for name in wanted_names & set(slots):
        plan.read(slots[str(name)])
    other = parts.get("other")
    plan.read(groups)
    if other is not None:
        plan.read(other)

    fills: dict[tuple[str, Key], Fill] = {}
    if not loads_itself(optimizer):
        stored_group = {live_index: stored_groups[stored_index] for live_index, stored_index in pairs}
        for index, (group, names) in enumerate(zip(optimizer.param_groups, live_names, strict=True)):
            later = stored_group[index] if plan.wanted(f"{text}/param_groups/{index}") else {}
            for parameter, name in zip(group["params"], names, strict=True):
                for slot, leaf in _fields(slots[name]).items() if name in wanted_names & set(slots) else ():
                    if isinstance(leaf, Tensor) and leaf.array == "torch" and leaf.quantizer is None:
                        device = _device(str(slot), group, later, parameter)
                        fills[name, slot] = _fill(optimizer, parameter, slot, leaf, device)
        plan.actions += fills.values()

    def apply() -> None:
        if loads_itself(optimizer):
            _load_whole(optimizer, live_names, stored_groups, slots, other)
            follow_devices(optimizer)
            return
        for live_index, stored_index in pairs:
            if plan.wanted(f"{text}/param_groups/{live_index}"):
                _set_group(optimizer.param_groups[live_index], stored_groups[stored_index])
        for group, names in zip(optimizer.param_groups, live_names, strict=True):
            for parameter, name in zip(group["params"], names, strict=True):
                if name in wanted_names:
                    _set_slots(optimizer, group, parameter, slots.get(name), name, fills)
        if other is not None:
            optimizer.state.update({key: value for key, value in to_live(other).items() if key != LAYOUT})
        follow_devices(optimizer)

    plan.actions.append(apply)


def _fields(node: StateNode) -> dict[Key, StateNode]:
    node = expand(node)
    return dict(node.items) if isinstance(node, Container) else {}


def _names(group: dict[Key, StateNode]) -> list[str]:
    names = group.get("params")
    return list(names.value) if isinstance(names, Value) and isinstance(names.value, list) else []


def _pair_groups(plan: Plan, stored: list[list[str]], live: list[list[str]], text: str) -> list[tuple[int, int]] | None:
    """(live index, stored index) of every group, or None after naming what does not fit."""
    remaining = list(range(len(stored)))
    pairs = []
    for live_index, names in enumerate(live):
        same = [index for index in remaining if set(stored[index]) == set(names)]
        if not same:
            break
        remaining.remove(same[0])
        pairs.append((live_index, same[0]))
    if len(pairs) == len(live) and not remaining:
        return pairs
    all_stored = {name for group in stored for name in group}
    all_live = {name for group in live for name in group}
    for name in sorted(all_stored - all_live):
        plan.problem(
            f"{text}/state/{name}: in the snapshot, but the live optimizer has no such parameter",
            partial=False,
        )
    for name in sorted(all_live - all_stored):
        plan.problem(f"{text}/state/{name}: in the live optimizer, but not in the snapshot", partial=False)
    if all_stored == all_live:
        plan.problem(
            f"{text}/param_groups: {len(stored)} groups in the snapshot divide the parameters differently "
            f"from the {len(live)} of the live optimizer",
            partial=False,
        )
    return None


def _check_class(plan: Plan, optimizer: torch.optim.Optimizer, stored: str, text: str) -> None:
    """The same class, one derived from it, or Adam and AdamW, whose groups say which of the two rules they follow."""
    live = type(optimizer).__name__
    lineage = {base.__name__ for base in type(optimizer).__mro__}  # "Optimizer" is what an import writes
    if stored not in lineage and {stored, live} != {"Adam", "AdamW"}:
        plan.problem(f"{text}: the snapshot's optimizer is a {stored}, the live one a {live}", partial=False)


def _check_group(
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    index: int,
    stored: dict[Key, StateNode],
    stored_class: Any,
    text: str,
) -> None:
    """A group of another kind of optimizer is a problem. Schedulers add keys of their own, so keys alone are not."""
    unknown = sorted(str(key) for key in stored if key not in optimizer.param_groups[index])
    if unknown and stored_class != type(optimizer).__name__:
        plan.problem(
            f"{text}/param_groups/{index}: the snapshot's {stored_class} has {', '.join(unknown)}; "
            f"the live {type(optimizer).__name__} has not",
            partial=False,
        )


def _check_slots(
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    live_names: list[list[str]],
    slots: dict[Key, StateNode],
    text: str,
) -> None:
    for group, names in zip(optimizer.param_groups, live_names, strict=True):
        for parameter, name in zip(group["params"], names, strict=True):
            if isinstance(parameter, torch.nn.UninitializedParameter):
                continue  # without a shape; its model's problem
            for slot, node in _fields(slots[name]).items() if name in slots else ():
                if slot in SHAPED_LIKE_PARAMETER and isinstance(node, Tensor) and node.shape != tuple(parameter.shape):
                    plan.problem(
                        f"{text}/state/{name}/{slot}: {node.dtype} {list(node.shape)} in the snapshot, "
                        f"but the parameter is {dtype_name(parameter.dtype)} {list(parameter.shape)}",
                        partial=False,
                    )


def _set_group(group: dict[str, Any], stored: dict[Key, StateNode]) -> None:
    for key, node in stored.items():
        if key in ("params", "param_names"):
            continue
        now = group.get(str(key))
        new = to_live(node)
        if isinstance(now, torch.Tensor) and isinstance(new, torch.Tensor) and now.shape == new.shape:
            new = now.copy_(new) if now.dtype == new.dtype else new.to(now.device)
        group[str(key)] = new


def _device(slot: str, group: dict[str, Any], stored: dict[Key, StateNode], parameter: torch.Tensor) -> torch.device:
    """Where a slot belongs when its group is as it was stored."""
    flags = {str(key): node.value for key, node in stored.items() if isinstance(node, Value)}
    return slot_device(slot, {**group, **flags}, parameter)


def _fill(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor, slot: Key, leaf: Tensor, device: torch.device
) -> Fill:
    """A live tensor of the same form is filled where it is, to bound the memory; else a new one."""

    def choose() -> torch.Tensor:
        now = optimizer.state.get(parameter, {}).get(slot)
        return now if isinstance(now, torch.Tensor) and _same_form(now, leaf, device) else new_tensor(leaf, device)

    return Fill(leaf, choose)


def _set_slots(
    optimizer: torch.optim.Optimizer,
    group: dict[str, Any],
    parameter: torch.Tensor,
    stored: StateNode | None,
    name: str,
    fills: dict[tuple[str, Key], Fill],
) -> None:
    """Replace a parameter's state: what has been filled as it is, everything else new."""
    if stored is None:
        optimizer.state.pop(parameter, None)
        return
    after: dict[Any, Any] = {}
    for slot, node in _fields(stored).items():
        fill = fills.get((name, slot))
        after[slot] = _on(to_live(node), slot_device(str(slot), group, parameter)) if fill is None else fill.live
    optimizer.state[parameter] = after


def _same_form(now: torch.Tensor, node: Tensor, device: torch.device) -> bool:
    return (dtype_name(now.dtype), tuple(now.shape), now.device) == (node.dtype, node.shape, device)


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)([_on(item, device) for item in value])
    if isinstance(value, dict):
        return {key: _on(item, device) for key, item in value.items()}
    return value


def _load_whole(
    optimizer: torch.optim.Optimizer,
    live_names: list[list[str]],
    stored_groups: list[dict[Key, StateNode]],
    slots: dict[Key, StateNode],
    other: StateNode | None,
) -> None:
    """Through the optimizer's own ``load_state_dict``; what it cast on the way gets its stored dtype back."""
    named = NamedState(
        {str(name): to_live(node) for name, node in slots.items()},
        [{str(key): to_live(node) for key, node in group.items()} for group in stored_groups],
        {} if other is None else to_live(other),
    )
    optimizer.load_state_dict(index_layout(named, live_names))
    for group, names in zip(optimizer.param_groups, live_names, strict=True):
        for parameter, name in zip(group["params"], names, strict=True):
            for slot, value in named.state.get(name, {}).items():
                now = optimizer.state.get(parameter, {}).get(slot)
                if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor) and now.dtype != value.dtype:
                    optimizer.state[parameter][slot] = value.to(now.device)
