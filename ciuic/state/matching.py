"""The road back: compare a stored state tree with live objects, and plan what brings them to it."""

from __future__ import annotations

from typing import Any

import numpy
import torch

from ciuic.errors import UnsupportedState
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, Value, expand, path_text
from ciuic.state.leaves import has_state, is_state_dict, to_live
from ciuic.state.modules import plain_name, unwrap
from ciuic.state.optimizer_matching import match_optimizer
from ciuic.state.plan import Plan, described
from ciuic.state.tensors import dtype_name

EXTRA_STATE = "_extra_state"


def match(plan: Plan, live: Any, node: StateNode, path: tuple[Key, ...]) -> None:
    """Add to ``plan`` what brings ``live`` to the stored state of ``node``."""
    text = path_text(path)
    if isinstance(live, torch.nn.Module):
        match_module(plan, unwrap(live), node, path)
    elif isinstance(live, torch.optim.Optimizer):
        match_optimizer(plan, live, node, path)
    elif has_state(live):
        match_object(plan, live, node, path)
    elif isinstance(live, torch.Tensor):
        if plan.wanted(text):
            plan.tensor(live.detach(), node, text)
    elif isinstance(live, numpy.ndarray):
        if plan.wanted(text):
            match_array(plan, live, node, text)
    elif isinstance(live, (dict, list, tuple)):
        match_container(plan, live, node, path)
    else:
        plan.problem(
            f"{text}: a {type(live).__name__} cannot be restored in place; read it with "
            f"Repo.load(…), under {text.split('/')[0]!r}"
        )


def match_module(plan: Plan, module: torch.nn.Module, node: StateNode, path: tuple[Key, ...]) -> None:
    """Parameters and buffers are filled where they are; the rest goes through the module's ``load_state_dict``."""
    if not isinstance(node, Container) or any(not isinstance(key, str) for key, _ in node.items):
        plan.problem(f"{path_text(path)}: the live object is a module, the snapshot holds something else")
        return
    own_names = {plain_name(name): name for name in module.state_dict()}
    state = {plain_name(name): value for name, value in module.state_dict().items()}
    stored = dict(node.items)
    memory = {_memory(tensor) for tensor in (*module.parameters(), *module.buffers())} | {None}
    others: dict[str, tuple[StateNode, tuple[Key, ...]]] = {}
    for name, value in state.items():
        text = path_text((*path, name))
        if not plan.wanted(text):
            continue
        if name not in stored:
            plan.problem(f"{text}: not in the snapshot; the live object has {_livedescribed(value)}")
        elif name.split(".")[-1] == EXTRA_STATE or not isinstance(value, torch.Tensor):
            others[own_names[name]] = stored[name], (*path[1:], name)
            plan.read(stored[name])
        elif _memory(value) in memory or not value.numel():
            plan.tensor(value, stored[name], text)
        elif plan.fits(value, stored[name], text):
            others[own_names[name]] = stored[name], (*path[1:], name)
            plan.read(stored[name])
    for key, child in stored.items():
        text = path_text((*path, key))
        if key not in state and plan.wanted(text):
            plan.problem(f"{text}: not in the live object; the snapshot has {_nodedescribed(child)}")
    if others:
        plan.actions.append(lambda: _load_others(module, others))


def _memory(tensor: torch.Tensor) -> int | None:
    """Where its data begins; None for a tensor that has no memory of its own (lazy, sparse)."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, ValueError):
        return None


def _load_others(module: torch.nn.Module, others: dict[str, tuple[StateNode, tuple[Key, ...]]]) -> None:
    """Extra state and tensors that ``state_dict`` makes on the fly; the module's own are loaded onto themselves."""
    new = {name: to_live(node, path=path) for name, (node, path) in others.items()}
    module.load_state_dict({**module.state_dict(), **new})


def _livedescribed(value: Any) -> str:
    if not isinstance(value, torch.Tensor) or _memory(value) is None:
        return "a value"
    return described(dtype_name(value.dtype), tuple(value.shape))


def _nodedescribed(node: StateNode) -> str:
    return described(node.dtype, node.shape) if isinstance(node, Tensor) else "a value"


def match_object(plan: Plan, live: Any, node: StateNode, path: tuple[Key, ...]) -> None:
    """Anything with ``load_state_dict``: it gets new objects, its tensors on the devices that it uses now."""
    text = path_text(path)
    if not plan.wanted(text):
        return
    if node == Value({}) and not live.state_dict():
        return  # a disabled GradScaler refuses the empty dict that it saved
    if isinstance(live, torch.amp.GradScaler) and live.is_enabled() == (node == Value({})):
        where = ("snapshot", "live object") if live.is_enabled() else ("live object", "snapshot")
        plan.problem(f"{text}: the scaler is disabled in the {where[0]} and enabled in the {where[1]}")
        return
    plan.read(node)

    def load() -> None:
        state = _like(live.state_dict(), to_live(node, path=path[1:]))
        try:
            live.load_state_dict(state)
        except Exception as error:
            what = f"the load_state_dict of a {type(live).__qualname__} failed, {type(error).__name__}"
            raise UnsupportedState(f"{text}: {what}: {error}") from error

    plan.actions.append(load)


def _like(now: Any, new: Any) -> Any:
    """``new`` with its tensors on the devices of those that stand at the same place in ``now``."""
    if isinstance(now, torch.Tensor) and isinstance(new, torch.Tensor):
        return new.to(now.device)
    if isinstance(now, dict) and isinstance(new, dict):
        for key in new:
            if key in now:
                new[key] = _like(now[key], new[key])
    elif isinstance(now, (list, tuple)) and isinstance(new, (list, tuple)) and len(now) == len(new):
        return type(new)([_like(before, after) for before, after in zip(now, new, strict=True)])
    return new


def match_container(plan: Plan, live: Any, node: StateNode, path: tuple[Key, ...]) -> None:
    """Named objects each on their own; a dict or list of plain values gets the stored content."""
    text = path_text(path)
    node = expand(node)
    if not isinstance(node, Container):
        plan.problem(f"{text}: the live object is a {type(live).__name__}, the snapshot holds something else")
        return
    if is_state_dict(live) and path[0] == "model":
        stored = dict(node.items)
        for name in sorted({*live, *(str(key) for key in stored)}):
            if name not in live or name not in stored:
                plan.problem(f"{text}/{name}: only in the {'snapshot' if name in stored else 'live object'}")
            elif plan.wanted(f"{text}/{name}"):
                plan.tensor(live[name].detach(), stored[name], f"{text}/{name}")
        return
    pairs = list(live.items()) if isinstance(live, dict) else list(enumerate(live))
    by_key = (pairs and path == ("extra",)) or any(_restorable(value) for _, value in pairs)
    if not by_key:
        _replace(plan, live, node, path)
        return
    for key, value in pairs:
        child = node.get(key)
        if child is None:
            plan.problem(f"{text}/{key}: not in the snapshot, which has {_keys(node)}")
        elif _restorable(value) or isinstance(value, (dict, list)):
            match(plan, value, child, (*path, key))
        elif plan.wanted(f"{text}/{key}"):
            _set_item(plan, live, key, child, path)
    if path in (("model",), ("optimizer",)):
        for key, _ in node.items:
            if key not in dict(pairs):
                plan.problem(f"{text}/{key}: in the snapshot, but not given")


def _restorable(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple)):
        return any(_restorable(item) for item in (value.values() if isinstance(value, dict) else value))
    return has_state(value) or isinstance(value, (torch.Tensor, numpy.ndarray))


def _keys(node: Container) -> str:
    return ", ".join(str(key) for key, _ in node.items[:8]) or "nothing"


def _set_item(plan: Plan, live: Any, key: Key, child: StateNode, path: tuple[Key, ...]) -> None:
    """A plain value takes its place in the dict or list that holds it; a tuple cannot take another."""
    if isinstance(live, tuple):
        if not isinstance(child, Value) or child.value != live[int(key)]:
            plan.problem(f"{path_text((*path, key))}: a tuple cannot take another value. Use a list or a dict")
        return
    plan.read(child)
    plan.actions.append(lambda: live.__setitem__(key, to_live(child, path=(*path[1:], key))))


def match_array(plan: Plan, live: Any, node: StateNode, text: str) -> None:
    """A numpy array of the same dtype and shape is filled where it is."""
    here = f"{live.dtype} {list(live.shape)}"
    there = _nodedescribed(node)
    if here != there:
        plan.problem(f"{text}: {there} in the snapshot, {here} in the live array")
    elif not live.flags.writeable:
        plan.problem(f"{text}: the live array is read-only")
    else:
        plan.read(node)
        plan.actions.append(lambda: numpy.copyto(live, numpy.asarray(to_live(node))))


def _replace(plan: Plan, live: Any, node: Container, path: tuple[Key, ...]) -> None:
    text = path_text(path)
    if not plan.wanted(text):
        return
    if isinstance(live, tuple) or isinstance(live, dict) == (node.kind in ("list", "tuple")):
        plan.problem(
            f"{text}: a {type(live).__name__} cannot take the snapshot's {node.kind}; read it with Repo.load(…)"
        )
        return
    plan.read(node)

    def replace() -> None:
        content = to_live(node, path=path[1:])
        live.clear()
        live.update(content) if isinstance(live, dict) else live.extend(content)

    plan.actions.append(replace)
